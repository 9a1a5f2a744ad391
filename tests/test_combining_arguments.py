"""What `lora.merge` and its kin are asked for: arguments of other kinds, and licences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import adapter_files as files
import factory
from factory import Flux
from submerge import PlanError, RecipeError, lora

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


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_factors_of_eight_bits_keep_their_values(tmp_path: Path, base: Path, dtype: Any) -> None:
    pairs = files.pairs(BASE, files.MODULES, 4, seed=1)
    arrays = {key: array.astype(dtype) for key, array in files.diffusers(pairs).items()}
    path, out = files.save(tmp_path / "f8.safetensors", arrays), tmp_path / "out.safetensors"
    lora.convert(path, out, form="peft", base=base)
    found = factory.read(out)
    assert set(found) == set(arrays)
    for key, array in arrays.items():
        assert found[key].dtype == ml_dtypes.bfloat16
        assert np.array_equal(files.wide(found[key]), files.wide(array)), key


@pytest.mark.parametrize("asked", [{}, {"rank": 2}])
@pytest.mark.parametrize(("largest", "fits"), [(65504.0, True), (65536.0, False)])
def test_factors_too_large_for_their_dtype_are_refused(
    tmp_path: Path, base: Path, asked: Any, *, largest: float, fits: bool
) -> None:
    """A product of one row and one column; what is made smaller shares its length out evenly."""
    module = files.MODULES[0]
    up, down = np.zeros((64, 4), np.float32), np.zeros((4, 64), np.float32)
    up[0, 0] = largest
    down[0, 0] = largest if asked else 1.0
    arrays = files.diffusers({module: (up, down)})
    path = str(files.save(tmp_path / "large.safetensors", arrays))
    out = tmp_path / "out.safetensors"
    if fits:
        lora.merge([path], out, base=base, dtype="f16", **asked)
        assert all(np.isfinite(files.wide(array)).all() for array in factory.read(out).values())
        return
    with pytest.raises(PlanError, match=f"`{module}`: factors too large for F16"):
        lora.merge([path], out, base=base, dtype="f16", **asked)
    assert not out.exists()
    lora.merge([path], out, base=base, dtype="bf16", **asked)


@pytest.mark.parametrize(("scale", "fits"), [(0.24, True), (0.26, False)])
def test_an_alpha_is_one_that_f32_holds(
    tmp_path: Path, base: Path, *, scale: float, fits: bool
) -> None:
    """Alpha is the scale times the rank of 4; peft's metadata holds what no F32 does."""
    tiny = {
        module: (up * np.float32(1e-38), down)
        for module, (up, down) in files.pairs(BASE, files.MODULES[:1], 4).items()
    }
    alpha = scale * 4 * float(np.finfo(np.float32).max)
    metadata = files.peft_metadata(r=4, lora_alpha=alpha)
    path = files.save(tmp_path / "a.safetensors", files.diffusers(tiny), metadata)
    out = tmp_path / "out.safetensors"
    if fits:
        lora.convert(path, out, form="comfy", base=base)
        return
    with pytest.raises(PlanError, match="an alpha too large for F32"):
        lora.convert(path, out, form="comfy", base=base)
    assert not out.exists()
