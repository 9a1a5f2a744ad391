"""Adapters whose numbers are not finite, or too large for the scale they are multiplied by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import KREA, SCHNELL, Array, Flux
from submerge import AdapterError, RecipeError, lora
from submerge.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASE = Flux(dtype="F32")
TO_Q, TO_K = (f"transformer.transformer_blocks.0.attn.to_{letter}" for letter in "qk")
NORM = "transformer.transformer_blocks.0.attn.norm_q.weight"
F32_MAX = float(np.finfo(np.float32).max)


def arrays() -> dict[str, Array]:
    """A DoRA, a difference of a weight and one of a bias, and a whole norm."""
    return {
        f"{TO_Q}.lora_A.weight": files.draw("down", 4, 64),
        f"{TO_Q}.lora_B.weight": files.draw("up", 64, 4),
        f"{TO_Q}.lora_magnitude_vector": np.ones(64, dtype=np.float32),
        f"{TO_K}.diff": files.draw("diff", 64, 64),
        f"{TO_K}.diff_b": files.draw("bias", 64),
        NORM: np.ones(16, dtype=np.float32),
    }


def broken(folder: Path, name: str, value: float, dtype: Any = np.float32) -> str:
    found = {key: array.astype(dtype) for key, array in arrays().items()}
    found[name].flat[[1, 5]] = value
    return str(files.save(folder / "style.safetensors", found))


@pytest.mark.parametrize("name", arrays())
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_not_finite_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, value: float
) -> None:
    path = broken(tmp_path, name, value, np.float16)
    model = factory.save_file(tmp_path / "m.safetensors", KREA)
    other = factory.save_file(tmp_path / "n.safetensors", SCHNELL)
    out = tmp_path / "out" / "out.safetensors"
    size = f"{arrays()[name].size:,}"
    recipe = {
        "models": {"krea": str(model), "schnell": str(other)},
        "adapters": [{"path": path, "onto": "krea"}],
    }
    makes: list[Callable[[], object]] = [
        lambda: lora.bake(model, [path], out),
        lambda: submerge.convert(model, out, layout="diffusers", adapters=[path]),
        lambda: submerge.merge(recipe, out),
    ]
    for make in makes:
        with pytest.raises(AdapterError, match=f"`{name}`: 2 of {size} elements infinite or NaN"):
            make()
    assert not out.parent.exists()
    problem = lora.info(path, model).problem
    assert problem is not None
    assert f"`{name}`: 2 of {size} elements" in problem


def test_numbers_that_are_not_read_are_not_looked_at(tmp_path: Path) -> None:
    path = broken(tmp_path, f"{TO_K}.diff", np.nan)
    model = factory.save_file(tmp_path / "m.safetensors", BASE)
    scale = {"double[0].img.attn.k": 0, "default": 1}
    lora.bake(model, [{"path": path, "scale": scale}], tmp_path / "out.safetensors")
    found, was = factory.read(tmp_path / "out.safetensors"), factory.tensors(BASE)
    name = "transformer_blocks.0.attn.to_k.weight"
    assert found[name].tobytes() == was[name].tobytes()
    assert (
        found["transformer_blocks.0.attn.to_q.weight"].tobytes()
        != was["transformer_blocks.0.attn.to_q.weight"].tobytes()
    )
    assert all(np.isfinite(array).all() for array in found.values())


def test_two_adapters_with_tensors_of_one_name_are_both_looked_at(tmp_path: Path) -> None:
    whole = str(files.save(tmp_path / "whole.safetensors", arrays()))
    path = broken(tmp_path, f"{TO_Q}.lora_B.weight", np.nan)
    model = factory.save_file(tmp_path / "m.safetensors", BASE)
    with pytest.raises(AdapterError, match=r"style\.safetensors: `.*lora_B\.weight`: 2 of 256"):
        lora.bake(model, [whole, path], tmp_path / "out.safetensors")


def test_the_command_says_which_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = broken(tmp_path, f"{TO_Q}.lora_A.weight", np.nan)
    model = factory.save_file(tmp_path / "m.safetensors", BASE)
    for arguments in (["info", path, "--base", model, "-q"], ["bake", model, path, "-o", "out"]):
        with pytest.raises(SystemExit) as left:
            main(["lora", *map(str, arguments)])
        assert left.value.code == 3
    assert "2 of 256 elements infinite or NaN, expected none" in capsys.readouterr().err


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scales_are_those_that_f32_holds(tmp_path: Path, sign: float) -> None:
    model = factory.save_file(tmp_path / "m.safetensors", BASE)
    pairs = files.pairs(BASE, ["transformer_blocks.0.attn.to_q"], 1)
    tiny = {module: (up * np.float32(1e-38), down) for module, (up, down) in pairs.items()}
    for alpha, fits in ((sign * F32_MAX, True), (sign * F32_MAX * 1.01, False)):
        made = {**files.diffusers(tiny), f"{TO_Q}.alpha": np.array(alpha)}
        path = str(files.save(tmp_path / "style.safetensors", made))
        if fits:
            lora.bake(model, [path], tmp_path / "out.safetensors")
            (pair,) = tiny.values()
            name = "transformer_blocks.0.attn.to_q.weight"
            want = files.wide(factory.tensors(BASE)[name]) + files.product(pair, alpha)
            found = factory.read(tmp_path / "out.safetensors")[name]
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
            continue
        for make in (
            lambda path=path: lora.bake(model, [path], tmp_path / "x.safetensors"),
            lambda path=path: lora.merge([path], tmp_path / "x.safetensors", base=model),
        ):
            with pytest.raises(AdapterError, match=r"a scale of -?3.43\d+e\+38, expected one that"):
                make()
    assert not (tmp_path / "x.safetensors").exists()


def test_strengths_are_those_that_f32_holds(tmp_path: Path) -> None:
    model = factory.save_file(tmp_path / "m.safetensors", BASE)
    pairs = files.pairs(BASE, ["transformer_blocks.0.attn.to_q"])
    path = str(files.save(tmp_path / "style.safetensors", files.diffusers(pairs)))
    source = {"path": path, "scale": {"double": 1e39, "default": 1}}
    for make in (
        lambda: lora.bake(model, [source], tmp_path / "x.safetensors"),
        lambda: lora.merge([source], tmp_path / "x.safetensors", base=model),
    ):
        with pytest.raises(RecipeError, match=r"adapters\[0\]\.scale: 1e\+39 for `double.0.img"):
            make()
