"""What `lora.merge` and its kin are asked for: arguments of other kinds, and licences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import adapter_files as files
import factory
from factory import Flux
from submerge import RecipeError, lora

if TYPE_CHECKING:
    from pathlib import Path

BASE = Flux(dtype="F32")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.save_file(tmp_path_factory.mktemp("base") / "base.safetensors", BASE)


def style(folder: Path) -> str:
    arrays = files.diffusers(files.pairs(BASE, files.MODULES, 4, seed=1))
    return str(files.save(folder / "style.safetensors", arrays))


def test_arguments_of_other_kinds_are_refused(tmp_path: Path, base: Path) -> None:
    paths = [style(tmp_path)]
    out = tmp_path / "o.safetensors"
    refused: Any = (
        (paths[0], {}, "adapters: expected at least one in a list, got the text"),
        (
            [{"path": paths[0], "onto": "krea"}],
            {},
            r"adapters\[0\].onto: `krea` of adapters alone, expected none",
        ),
        (paths, {"method": "ties", "density": "x"}, "density: expected a number, got the text"),
        (paths, {"method": "dare_ties", "seed": 1.5}, "seed: expected a whole number, got 1.5"),
        (paths, {"form": ["peft"]}, "form: expected one of"),
    )
    for given, asked, message in refused:
        with pytest.raises(RecipeError, match=message):
            lora.merge(given, out, base=base, **asked)
    with pytest.raises(RecipeError, match="adapters: expected a list, got the text"):
        lora.bake(base, paths[0], out)
    wrong: Any = "a1111"
    with pytest.raises(RecipeError, match=r"adapter\.compat: expected one of `diffusers`"):
        lora.info(paths[0], base, compat=wrong)
    assert not out.exists()


def test_licences_restrict_what_is_made_of_adapters(tmp_path: Path, base: Path) -> None:
    paths = [style(tmp_path)]
    known = {"modelspec.license": "flux-1-dev-non-commercial-license"}
    one = files.diffusers(files.pairs(BASE, files.MODULES, 4))
    dev = str(files.save(tmp_path / "dev.safetensors", one, known))
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    free: Any = {"path": paths[0], "license": "apache-2.0"}
    cases: Any = (
        ([paths[0]], "unknown"),
        ([free], "apache-2.0"),
        ([free, dev], "flux-1-dev-non-commercial-license"),
        ([paths[0], dev], "flux-1-dev-non-commercial-license AND unknown"),
    )
    for given, licence in cases:
        lora.merge(given, out, base=base, overwrite=True)
        lora.resize(out, again, rank=2, base=base, overwrite=True)
        for path in (out, again):
            assert factory.header(path)["__metadata__"]["submerge.license"] == licence
    with pytest.raises(RecipeError, match=r"adapters\[0\].license: .* less restrictive"):
        lora.merge([{"path": dev, "license": "mit"}], out, base=base)
