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
from submerge.errors import LayoutError

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
    "slerp": {"method": {"slerp": {"alpha": 0.4}}},
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


def figures_of(row: Any) -> tuple[Any, ...]:
    """Everything of a row but the names of the two models."""
    (pair,) = row.pairs
    return (row.block, row.stream, row.part, row.changed, pair.norms, pair.dot, pair.delta)


def test_what_is_extracted_measured_and_verified_is_that_of_the_numbers(
    models: dict[str, Quantised], tmp_path: Path
) -> None:
    a, b = models["a"], models["b"]
    assert submerge.diff(a.path, a.plain).equal
    assert not submerge.diff(a.path, b.path).equal
    differences = [submerge.diff(one, other).rows for one, other in zip(a, b, strict=True)]
    found, expected = ([figures_of(row) for row in rows] for rows in differences)
    assert found == expected
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


# What is taken unchanged.


@pytest.mark.parametrize("form", ["fp8", "older_fp8", "sdnq"])
def test_what_is_taken_unchanged_keeps_its_codes_and_scales(form: str, tmp_path: Path) -> None:
    layout = "diffusers" if form == "sdnq" else "bfl"
    made = quantised(tmp_path, ONE, form, layout)
    out = tmp_path / ("out" if form == "sdnq" else "out.safetensors")
    submerge.convert(made.path, out, **WRITE)
    file = out / f"{factory.WEIGHTS}.safetensors" if form == "sdnq" else out
    source = made.path / f"{factory.WEIGHTS}.safetensors" if form == "sdnq" else made.path
    found, own = factory.read(file), factory.read(source)
    leaf = {"fp8": "weight_scale", "older_fp8": "scale_weight", "sdnq": "scale"}[form]
    scales = {name for name in own if name.endswith(f".{leaf}")}
    scales = {n for n in scales if n.removesuffix(leaf) + "weight" in own}
    for name in scales:
        stem = name.removesuffix(f".{leaf}")
        written = "scale" if form == "sdnq" else "weight_scale"
        assert found[f"{stem}.weight"].tobytes() == own[f"{stem}.weight"].tobytes()
        assert found[f"{stem}.{written}"].tobytes() == own[name].tobytes()
    assert len(scales) == {"bfl": 26, "diffusers": 40}[layout]
    kinds = {"fp8": "fp8_scaled", "older_fp8": "fp8_scaled", "sdnq": "int8_row"}
    assert submerge.inspect(out).precision[kinds[form]]["tensors"] == len(scales)
    assert submerge.diff(out, made.plain).equal


def test_codes_that_the_output_cannot_hold_become_bf16_and_are_told(tmp_path: Path) -> None:
    made = quantised(tmp_path, ONE, "fp8")
    report = submerge.convert(made.path, tmp_path / "out", layout="diffusers")
    assert submerge.inspect(tmp_path / "out").precision.keys() == {"BF16"}
    assert any("of fp8_scaled written in BF16" in note for note in report.summary["notes"])


# What plans, reports and inspections say.


def test_a_plan_says_what_its_parents_are_stored_in(
    models: dict[str, Quantised], tmp_path: Path
) -> None:
    recipe = {"models": {n: str(models[n].path) for n in "ab"}, "alpha": 0.5}
    plan = submerge.plan(recipe, tmp_path / "out.safetensors")
    first, second = plan.about.parents
    assert first.precision == "26 tensors of fp8_scaled, 58 tensors of BF16, 9.19 bits per weight"
    assert second.precision.startswith("40 tensors of fp8_row, 72 tensors of BF16, 9.")
    assert first.precision in plan.describe()
    assert any("fp8_scaled" in note and "written in BF16" in note for note in plan.about.notes)
    gone = {unused.reason: unused.tensors for unused in plan.about.unused}
    assert len(gone["markers of number formats"]) == 26
    kept = submerge.plan({"models": {"a": str(models["a"].path)}, "take": "a"}, tmp_path / "a.sft")
    assert "markers of number formats" not in {unused.reason for unused in kept.about.unused}


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
    assert found.relative == pytest.approx((error2 / norm2) ** 0.5, rel=0.05)
    # The largest of each row is exact, which tells in rows of 64.
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
