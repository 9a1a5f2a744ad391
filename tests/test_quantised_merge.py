"""Quantised parents give what their numbers would, bit for bit, in every command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files
import factory
import submerge
from factory import Flux
from quantised_files import FP8, LAYERS, Quantised, quantised, text
from submerge import lora
from submerge.checkpoint import open_checkpoint
from submerge.errors import CheckpointError, LayoutError
from submerge.layout import identify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from factory import Array

ONE, TWO, BASE = (Flux(guidance=True, seed=seed) for seed in (1, 2, 3))
WRITE: dict[str, Any] = {"stats": False, "statistics_cache": "off"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Quantised]:
    """Three parents in forms and layouts of their own."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "a": quantised(folder, ONE, "fp8"),
        "b": quantised(folder, TWO, "fp8_row", "diffusers"),
        "base": quantised(folder, BASE, "int8_row"),
    }


def merged(models: Mapping[str, Path], out: Path, **recipe: Any) -> dict[str, bytes]:
    """Merge, and return the bytes of every tensor."""
    output = {"dtype": "f32", "layout": "diffusers"}
    paths = {name: str(path) for name, path in models.items()}
    submerge.merge({"models": paths, "output": output, **recipe}, out, overwrite=True, **WRITE)
    return {name: array.tobytes() for name, array in factory.read(out).items()}


METHODS: dict[str, dict[str, Any]] = {
    "linear": {"alpha": 0.3},
    "slerp": {"method": "slerp", "alpha": 0.4},
    "ties": {"base": "base", "method": {"ties": {"density": 0.5}}},
    "iso_c": {"base": "base", "method": "iso_c"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_that_of_the_numbers(
    method: str, models: dict[str, Quantised], tmp_path: Path
) -> None:
    used = models if "base" in METHODS[method] else {n: models[n] for n in "ab"}
    out = tmp_path / "out.safetensors"
    found = merged({n: m.path for n, m in used.items()}, out, **METHODS[method])
    expected = merged({n: m.plain for n, m in used.items()}, out, **METHODS[method])
    assert found == expected


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
@pytest.mark.parametrize("form", LAYERS)
def test_a_conversion_decodes_what_numpy_does(form: str, layout: str, tmp_path: Path) -> None:
    made = quantised(tmp_path, ONE, form, layout)
    other = {"bfl": "diffusers", "diffusers": "bfl"}[layout]
    for name, path in (("q", made.path), ("p", made.plain)):
        out = tmp_path / f"{name}.safetensors"
        submerge.convert(path, out, dtype="f32", layout=other, **WRITE)
    found, expected = (factory.read(tmp_path / f"{n}.safetensors") for n in "qp")
    assert {n: a.tobytes() for n, a in found.items()} == {
        n: a.tobytes() for n, a in expected.items()
    }


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    modules = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_out"]
    found = adapter_files.pairs(ONE, modules, rank=4)
    return adapter_files.save(tmp_path / "lora.safetensors", adapter_files.diffusers(found))


def test_adapters_add_to_the_numbers(
    models: dict[str, Quantised], adapter: Path, tmp_path: Path
) -> None:
    both = []
    for path in models["a"]:
        out = tmp_path / "out.safetensors"
        lora.bake(path, [str(adapter)], out, dtype="f32", overwrite=True, **WRITE)
        both.append({n: a.tobytes() for n, a in factory.read(out).items()})
    assert both[0] == both[1]


def test_what_is_extracted_measured_and_verified_is_that_of_the_numbers(
    models: dict[str, Quantised], tmp_path: Path
) -> None:
    a, b = models["a"], models["b"]
    assert submerge.diff(a.path, a.plain).equal
    assert not submerge.diff(a.path, b.path).equal
    rows = [submerge.diff(one, other).rows for one, other in zip(a, b, strict=True)]
    assert [row._replace(formulas=()) for row in rows[0]] == [
        row._replace(formulas=()) for row in rows[1]
    ]
    analyses = [submerge.analyze(one, other) for one, other in zip(a, b, strict=True)]
    assert [row.to_dict() for row in analyses[0].rows] == [
        row.to_dict() for row in analyses[1].rows
    ]
    made = []
    for one, other in zip(a, b, strict=True):
        out = tmp_path / "lora.safetensors"
        lora.extract(one, other, out, rank=4, dtype="f32", overwrite=True)
        made.append({n: array.tobytes() for n, array in factory.read(out).items()})
    assert made[0] == made[1]
    checked = submerge.verify(a.path)
    assert checked.passed
    finite = next(check for check in checked.checks if check.name == "finite")
    elements = sum(array.size for array in factory.read(a.plain).values())
    assert finite.found == f"{elements:,} elements, all finite"


def test_a_recipe_reproduces_what_quantised_parents_gave(
    models: dict[str, Quantised], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    recipe = {"models": {n: str(models[n].path) for n in "ab"}, "alpha": 0.25}
    submerge.merge(recipe, out)
    assert submerge.verify(out, recipe=recipe).passed


def test_numbers_that_are_not_finite_are_found_behind_their_scales(tmp_path: Path) -> None:
    made = quantised(tmp_path, ONE, "fp8")
    arrays = factory.read(made.path)
    name = "double_blocks.0.img_attn.proj.weight_scale"
    arrays[name] = np.array(np.nan, np.float32)
    factory.write(made.path, arrays)
    checked = submerge.verify(made.path)
    assert not checked.passed
    assert "double.0.img.attn.out.weight" in checked.text()


# What plans, reports and inspections say.


def test_a_plan_says_what_its_parents_are_stored_in(
    models: dict[str, Quantised], tmp_path: Path
) -> None:
    recipe = {"models": {n: str(models[n].path) for n in "ab"}, "alpha": 0.5}
    plan = submerge.plan(recipe, tmp_path / "out.safetensors")
    first, second = plan.about.parents
    assert first.precision == "26 tensors of fp8_scaled, 58 tensors of BF16, 8.10 bits per weight"
    assert second.precision.startswith("40 tensors of fp8_row, 72 tensors of BF16, 8.")
    assert first.precision in plan.describe()
    assert any("fp8_scaled" in note and "written in BF16" in note for note in plan.about.notes)
    gone = {unused.reason: unused.tensors for unused in plan.about.unused}
    assert len(gone["markers of number formats"]) == 26


def test_an_inspection_counts_tensors_and_bits(models: dict[str, Quantised]) -> None:
    found = submerge.inspect(models["base"].path)
    assert found.problem is None
    int8 = found.precision["int8_row"]
    shapes = [
        a.shape for n, a in factory.tensors(BASE, "bfl").items() if a.ndim == 2 and "blocks" in n
    ]
    elements, rows = sum(r * c for r, c in shapes), sum(r for r, _ in shapes)
    assert int8 == {"tensors": 26, "elements": elements, "bits": 8 + 32 * rows / elements}
    assert found.dtypes["I8"] == elements
    assert "int8_row 26 tensors (8.4" in found.text()


def test_a_file_whose_scales_do_not_fit_is_inspected_all_the_same(tmp_path: Path) -> None:
    made = quantised(tmp_path, ONE, "int8_row")
    arrays = factory.read(made.path)
    arrays["double_blocks.0.img_attn.proj.weight_scale"] = np.ones((3, 1), np.float32)
    factory.write(made.path, arrays)
    assert "is F32 [3, 1], expected" in str(submerge.inspect(made.path).problem)


@pytest.mark.parametrize("form", ["fp8", "fp8_row", "int8", "int8_row"])
def test_what_a_parent_had_lost_is_estimated_from_its_scales(form: str, tmp_path: Path) -> None:
    made = quantised(tmp_path, ONE, form)
    other = factory.save_file(tmp_path / "other.safetensors", TWO, "bfl")
    recipe = {"models": {"a": str(made.path), "b": str(other)}, "alpha": 0.5}
    report = submerge.merge(recipe, tmp_path / "out.safetensors")
    (found,) = report.inherited
    original, numbers = factory.tensors(ONE, "bfl"), factory.read(made.plain)
    names = [n for n, a in original.items() if a.ndim == 2 and "blocks." in n]
    error2 = norm2 = 0.0
    for name in names:
        error2 += ((numbers[name].astype(float) - original[name].astype(float)) ** 2).sum()
        norm2 += (numbers[name].astype(float) ** 2).sum()
    assert found.relative == pytest.approx((error2 / norm2) ** 0.5, rel=0.03)
    assert set(found.blocks) == {"double.0", "double.1", "single.0", "single.1"}
    assert found.words() in report.remarks
    assert report.to_dict()["inherited"][0]["relative"] == found.relative


def test_unquantised_parents_inherit_nothing(models: dict[str, Quantised], tmp_path: Path) -> None:
    recipe = {"models": {n: str(models[n].plain) for n in "ab"}, "alpha": 0.5}
    report = submerge.merge(recipe, tmp_path / "out.safetensors")
    assert not report.inherited
    assert "inherited" not in report.to_dict()


# All-in-one files.

ENCODER = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"


@pytest.mark.parametrize("how", ["older", "marked", "described"])
def test_a_quantised_text_encoder_is_carried_as_it_is(how: str, tmp_path: Path) -> None:
    codes = np.arange(24, dtype=np.uint8).reshape(6, 4).view(FP8)
    extras = {f"{ENCODER}.weight": codes}
    metadata = {"format": "pt"}
    if how == "older":
        extras[f"{ENCODER}.scale_weight"] = np.array([0.5], np.float32)
    else:
        extras[f"{ENCODER}.weight_scale"] = np.array(0.5, np.float32)
    if how == "marked":
        extras[f"{ENCODER}.comfy_quant"] = text({"format": "float8_e4m3fn"})
    if how == "described":
        layers = {ENCODER: {"format": "float8_e4m3fn"}}
        metadata["_quantization_metadata"] = json.dumps({"layers": layers})
    arrays = factory.tensors(ONE, "bfl", "model.diffusion_model.") | extras
    path = factory.write(tmp_path / "all.safetensors", arrays, metadata)
    submerge.convert(path, tmp_path / "out.safetensors", dtype="f32", **WRITE)
    written = factory.read(tmp_path / "out.safetensors")
    assert all(written[n].tobytes() == a.tobytes() for n, a in extras.items())
    said = open_checkpoint(tmp_path / "out.safetensors").files[0].metadata
    if how == "described":
        assert json.loads(said["_quantization_metadata"])["layers"] == layers
    else:
        assert "_quantization_metadata" not in said


# What is read of tiny tensors.


def marked(folder: Path, marker: Array) -> Path:
    made = quantised(folder, ONE, "fp8")
    arrays = factory.read(made.path)
    arrays["double_blocks.0.img_attn.proj.comfy_quant"] = marker
    return factory.write(made.path, arrays)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (np.zeros(4097, np.uint8), "4,097 bytes of U8, expected at most 4,096 of U8"),
        (np.zeros(1, np.float32), "4 bytes of F32, expected at most 4,096 of U8"),
        (np.frombuffer(b"\xff{", np.uint8), "expected a JSON object"),
        (np.frombuffer(b"[" * 4096, np.uint8), "expected a JSON object"),
        (np.zeros(0, np.uint8), "expected a JSON object"),
        (text({"format": 8}), "expected the name of a `format`"),
    ],
)
def test_a_marker_that_says_nothing_is_an_error(
    marker: Array, message: str, tmp_path: Path
) -> None:
    path = marked(tmp_path, marker)
    with pytest.raises(CheckpointError) as caught:
        identify(open_checkpoint(path))
    assert f"`double_blocks.0.img_attn.proj.comfy_quant`: {message}" in caught.value.message
    assert "download it again" in str(caught.value.hint)


def test_a_marker_may_be_as_long_as_that(tmp_path: Path) -> None:
    described = json.dumps({"format": "float8_e4m3fn"}).encode()
    padded = np.frombuffer(described + b" " * (4096 - len(described)), np.uint8)
    identify(open_checkpoint(marked(tmp_path, padded)))


STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 64]}


def packed(folder: Path, state: dict[str, Any], elements: int = 64 * 64) -> Path:
    """A file of one matrix of NF4 codes, all zeros."""
    arrays: dict[str, Array] = {
        "x.weight": np.zeros((elements // 2, 1), np.uint8),
        "x.weight.absmax": np.ones(-(-elements // 64), np.float32),
        "x.weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        "x.weight.quant_state.bitsandbytes__nf4": text(state),
    }
    return factory.write(folder / "nf4.safetensors", arrays)


def test_the_state_of_four_bit_codes_has_their_shape(tmp_path: Path) -> None:
    for shape in ([64, 64], [32, 128]):
        path = packed(tmp_path, {**STATE, "shape": shape})
        (found,) = identify(open_checkpoint(path), layout="generic").checkpoint.tensors.values()
        assert (found.dtype, found.shape) == ("nf4", tuple(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_type": "af4"}, "`quant_type` 'af4', expected `nf4` or `fp4`"),
        ({"shape": [64]}, "`shape` [64], expected that of a matrix"),
        ({"shape": [64, -64]}, "`shape` [64, -64], expected that of a matrix"),
        ({"shape": [64, 2**32]}, "expected that of a matrix"),
        ({"shape": [True, 64]}, "expected that of a matrix"),
        ({"shape": [64, 65]}, "has the shape [2048, 1], expected the codes of [64, 65] numbers"),
        ({"blocksize": 0}, "`blocksize` 0, expected a power of 2 from 32 to 4,096"),
        ({"blocksize": 48}, "`blocksize` 48, expected a power of 2 from 32 to 4,096"),
        ({"blocksize": 128}, "`x.weight.absmax` is F32 [64], expected F32 [32]"),
        ({"nested_blocksize": 3}, "`nested_blocksize` 3, expected a power of 2 up to 4,096"),
        ({"nested_blocksize": 256}, "`nested_offset` None, expected a number"),
        ({"nested_blocksize": 256, "nested_offset": "x"}, "`nested_offset` 'x', expected a number"),
        ({"nested_blocksize": 256, "nested_offset": 0.1}, "beside it, expected `x.weight.absmax`"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = packed(tmp_path, STATE | change)
    with pytest.raises(CheckpointError) as caught:
        identify(open_checkpoint(path), layout="generic")
    assert message in caught.value.message


def test_eight_bit_codes_in_the_order_of_a_gpu_are_refused(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "x.weight": np.zeros((4, 4), np.int8),
        "x.SCB": np.ones(4, np.float32),
        "x.weight_format": np.array(2, np.uint8),
    }
    path = factory.write(tmp_path / "int8.safetensors", arrays)
    with pytest.raises(LayoutError, match=r"`x\.weight_format`: codes in another order"):
        identify(open_checkpoint(path), layout="generic")
    factory.write(path, {**arrays, "x.weight_format": np.array(0, np.uint8)})
    model = identify(open_checkpoint(path), layout="generic")
    assert model.checkpoint.tensors["x.weight"].dtype == "llm_int8"
    assert model.checkpoint.beside["markers of number formats"] == ("x.weight_format",)


def test_two_scaled_files_are_merged_by_name_as_numbers(tmp_path: Path) -> None:
    models: dict[str, dict[str, str]] = {}
    numbers = []
    for seed, name in enumerate("ab"):
        random = np.random.default_rng(seed)
        codes = random.integers(0, 120, (4, 4), np.uint8).view(FP8)
        scale = random.random(1, np.float32)
        path = factory.write(
            tmp_path / f"{name}.safetensors", {"x.weight": codes, "x.scale_weight": scale}
        )
        models[name] = {"path": str(path), "layout": "generic"}
        numbers.append(codes.astype(np.float32) * scale)
    recipe = {"models": models, "alpha": 0.5, "output": {"dtype": "f32"}}
    submerge.merge(recipe, tmp_path / "out.safetensors", **WRITE)
    found = factory.read(tmp_path / "out.safetensors")
    half = np.float32(0.5)
    np.testing.assert_array_equal(found["x.weight"], numbers[0] * half + numbers[1] * half)
    assert found.keys() == {"x.weight"}


def test_nvfp4_is_asked_about_in_a_recipe_too(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "x.weight": np.zeros((128, 32), np.uint8),
        "x.weight_scale": np.ones((128, 4), FP8),
        "x.weight_scale_2": np.array(1, np.float32),
    }
    path = factory.write(tmp_path / "nvfp4.safetensors", arrays)
    models: dict[str, Any] = {"a": {"path": str(path), "layout": "generic"}}
    with pytest.raises(LayoutError, match="nvfp4 model"):
        submerge.plan({"models": models, "take": "a"}, tmp_path / "out.safetensors")
    models["a"]["nvfp4"] = "bfl"
    made = submerge.plan({"models": models, "take": "a"}, tmp_path / "out.safetensors")
    assert made.plain()["units"][0]["operands"][0][0]["rows"]["codec"] == "nvfp4_bfl"
    assert submerge.inspect(path, layout="generic", nvfp4="comfy").precision.keys() == {"nvfp4"}
    assert submerge.verify(path, layout="generic", nvfp4="comfy").passed
