"""Adapters as results: what a model has beyond another, against numpy's SVD in F64."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import Array, Flux
from submerge import Cancelled, CancelToken, LayoutError, PlanError, RecipeError, lora

if TYPE_CHECKING:
    from pathlib import Path

BASE = Flux(dtype="F32")
NAMES = tuple(name for name, shape in factory.shapes_of(BASE).items() if len(shape) == 2)


def spectrum(kind: str, count: int) -> Array:
    return np.array([0.8**i if kind == "falling" else 1.0 for i in range(count)])


def tuned(kind: str, seed: int = 3) -> dict[str, Array]:
    """The base with deltas of a known spectrum on every matrix, and others on vectors."""
    arrays = factory.tensors(BASE)
    random = np.random.default_rng(seed)
    for name, array in arrays.items():
        if array.ndim == 1:
            arrays[name] = array + files.draw(name, *array.shape) / 10
            continue
        left, _, right = np.linalg.svd(random.normal(size=array.shape), full_matrices=False)
        values = spectrum(kind, min(array.shape))
        delta: Array = 0.1 * ((left * values) @ right)
        arrays[name] = (array + delta).astype(np.float32)
    return arrays


def deltas(arrays: dict[str, Array]) -> dict[str, Array]:
    base = factory.tensors(BASE)
    return {name: files.wide(array) - files.wide(base[name]) for name, array in arrays.items()}


def best(delta: Array, rank: int) -> float:
    """The least sum of squares that a product of a rank leaves."""
    return float((np.linalg.svd(delta, compute_uv=False)[rank:] ** 2).sum())


def product(found: dict[str, Array], module: str) -> Array:
    stem = f"transformer.{module}.lora_"
    return files.wide(found[f"{stem}B.weight"]) @ files.wide(found[f"{stem}A.weight"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "base": factory.save_file(folder / "base.safetensors", BASE, "bfl"),
        "falling": factory.write(folder / "falling.safetensors", tuned("falling")),
        "flat": factory.write(folder / "flat.safetensors", tuned("flat")),
    }


@pytest.mark.parametrize(("kind", "share"), [("falling", 1.01), ("flat", 1.05)])
@pytest.mark.parametrize("rank", [1, 8, 24])
def test_the_residual_is_nearly_the_least_there_is(
    tmp_path: Path, models: dict[str, Path], kind: str, share: float, rank: int
) -> None:
    out = tmp_path / "out.safetensors"
    made = lora.extract(models[kind], models["base"], out, rank=rank, dtype="f32")
    found, wanted = factory.read(out), deltas(tuned(kind))
    by_name = {module.name: module for module in made.modules}
    for name in NAMES:
        module = name.removesuffix(".weight")
        left = float(((wanted[name] - product(found, module)) ** 2).sum())
        whole = float((wanted[name] ** 2).sum())
        least = best(wanted[name], rank)
        assert left <= share**2 * least + 1e-12 * whole, name
        # What is reported is what is missing, biases counted in the whole.
        bias = float((wanted.get(f"{module}.bias", np.zeros(1)) ** 2).sum())
        told = by_name[module]
        assert told.norm2 == pytest.approx(whole + bias, rel=1e-6)
        assert told.residual2 == pytest.approx(left, rel=1e-4, abs=1e-12 * whole)
        assert told.ranks == (min(rank, *wanted[name].shape),)


def test_rounding_of_the_factors_is_part_of_the_residual(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    made = lora.extract(models["falling"], models["base"], tmp_path / "o.safetensors", rank=64)
    found, wanted = factory.read(tmp_path / "o.safetensors"), deltas(tuned("falling"))
    assert {array.dtype.name for name, array in found.items() if ".lora_A" in name} == {"bfloat16"}
    left = sum(
        float(((wanted[name] - product(found, name.removesuffix(".weight"))) ** 2).sum())
        for name in NAMES
    )
    assert sum(module.residual2 for module in made.modules) == pytest.approx(left, rel=1e-4)
    assert 1e-4 < made.residual < 1e-2


@pytest.mark.parametrize("energy", [0.5, 0.95, 1.0])
def test_an_energy_takes_the_smallest_rank_that_holds_it(
    tmp_path: Path, models: dict[str, Path], energy: float
) -> None:
    out = tmp_path / "out.safetensors"
    made = lora.extract(models["falling"], models["base"], out, energy=energy, dtype="f32")
    wanted = deltas(tuned("falling"))
    for module in made.modules:
        if f"{module.name}.weight" not in NAMES:
            continue
        values = np.linalg.svd(wanted[f"{module.name}.weight"], compute_uv=False) ** 2
        held = np.cumsum(values) / values.sum()
        (rank,) = module.ranks
        if energy < 1:
            assert rank == int(np.searchsorted(held, energy)) + 1
        else:
            assert held[rank - 1] > 1 - 1e-6


def test_ranks_and_energies_differ_by_part(tmp_path: Path, models: dict[str, Path]) -> None:
    rank = {"single": 0, "double.0.img.attn": 3, "default": 7}
    out = tmp_path / "out.safetensors"
    made = lora.extract(models["falling"], models["base"], out, rank=rank)
    ranks = {module.name: module.ranks[0] for module in made.modules}
    assert ranks["transformer_blocks.0.attn.to_q"] == 3
    assert ranks["transformer_blocks.0.attn.add_q_proj"] == 7
    assert not any(name.startswith("single") for name in ranks)
    config = json.loads(factory.header(out)["__metadata__"]["lora_adapter_metadata"])
    assert (config["transformer.r"], config["transformer.lora_alpha"]) == (7, 7)
    assert config["transformer.rank_pattern"]["^transformer_blocks.0.attn.to_q"] == 3
    assert config["transformer.alpha_pattern"] == config["transformer.rank_pattern"]
    mixed = lora.extract(
        models["falling"],
        models["base"],
        tmp_path / "mixed.safetensors",
        rank=5,
        energy={"double": 0.3, "default": 0.999},
    )
    ranks = {module.name: module.ranks[0] for module in mixed.modules}
    assert ranks["transformer_blocks.0.ff.net.2"] < ranks["single_transformer_blocks.0.proj_mlp"]
    assert max(ranks.values()) == 5


@pytest.mark.parametrize("form", ["peft", "kohya", "comfy"])
def test_baked_onto_the_base_it_is_the_tuned_model(
    tmp_path: Path, models: dict[str, Path], form: Any
) -> None:
    adapter = tmp_path / "adapter.safetensors"
    made = lora.extract(models["falling"], models["base"], adapter, rank=12, form=form, dtype="f32")
    out = tmp_path / "baked.safetensors"
    lora.bake(models["base"], [str(adapter)], out, layout="diffusers")
    found, wanted = factory.read(out), tuned("falling")
    missing = whole = 0.0
    for name, array in deltas(wanted).items():
        missing += float(((files.wide(found[name]) - files.wide(wanted[name])) ** 2).sum())
        whole += float((array**2).sum())
        if array.ndim == 1:  # biases and norms are exact but for the rounding of the sum
            assert np.abs(found[name] - wanted[name]).max() <= 2e-7, name
    assert np.sqrt(missing / whole) == pytest.approx(made.residual, rel=1e-3)
    assert made.residual < 0.25


def test_a_recipe_makes_an_adapter_of_any_merge(tmp_path: Path, models: dict[str, Path]) -> None:
    out = tmp_path / "out.safetensors"
    recipe = {
        "models": {name: str(models[name]) for name in ("base", "falling", "flat")},
        "method": {"dare_linear": {"density": 0.5}},
        "base": "base",
        "seed": 4,
        "output": {"adapter": {"onto": "base", "rank": 64}, "dtype": "f32"},
    }
    report = submerge.merge(recipe, out)
    merged = tmp_path / "merged.safetensors"
    submerge.merge(recipe | {"output": {"layout": "diffusers", "dtype": "f32"}}, merged)
    found, base = factory.read(merged), factory.tensors(BASE)
    for name in NAMES:
        delta = files.wide(found[name]) - files.wide(base[name])
        apart = np.abs(product(factory.read(out), name.removesuffix(".weight")) - delta).max()
        assert apart < 1e-5, name
    assert any("relative residual 0.0000" in note for note in report.summary["notes"])
    assert report.files == {"out.safetensors": out.stat().st_size}
    planned = submerge.plan(recipe, out)
    assert planned.file_sizes[0] == out.stat().st_size
    assert planned.disk_bytes < 1.01 * out.stat().st_size
    matrices = len(NAMES)
    assert (planned.about.layout, planned.about.dtype) == ("peft", "F32")
    assert (report.summary["layout"], report.summary["dtype"]) == ("peft", "F32")
    assert f"adapter, form peft, F32, {matrices} modules, rank 64 at most" in planned.describe()


@pytest.mark.parametrize("form", ["peft", "kohya", "comfy"])
def test_where_only_a_norm_differs_that_is_the_adapter(tmp_path: Path, form: Any) -> None:
    base = factory.save_file(tmp_path / "base.safetensors", BASE)
    arrays, name = factory.tensors(BASE), "transformer_blocks.0.attn.norm_q.weight"
    arrays[name] = arrays[name] + files.draw("norm", *arrays[name].shape)
    tuned = factory.write(tmp_path / "tuned.safetensors", arrays)
    out, baked = tmp_path / "out.safetensors", tmp_path / "baked.safetensors"
    made = lora.extract(tuned, base, out, rank=4, form=form)
    assert [module.norm2 > 0 for module in made.modules].count(True) == 1
    assert len(factory.read(out)) == 1
    lora.bake(base, [str(out)], baked)
    found = factory.read(baked)
    for key, array in arrays.items():
        assert np.abs(files.wide(found[key]) - files.wide(array)).max() <= 1.2e-7, key


def test_of_a_pipeline_nothing_else_is_missed(tmp_path: Path) -> None:
    whole = factory.save_pipeline(tmp_path / "pipeline", BASE)
    tuned = factory.save_file(tmp_path / "tuned.safetensors", replace(BASE, seed=1))
    made = lora.extract(tuned, whole, tmp_path / "out.safetensors", rank=4)
    assert not [note for note in made.notes if "pipeline" in note]
    merged = submerge.merge({"models": {"a": str(tuned), "b": str(whole)}}, tmp_path / "merged")
    assert [note for note in merged.summary["notes"] if "`pipeline_from: b`" in note]


def test_bytes_are_those_of_any_threads_and_isa(tmp_path: Path) -> None:
    written = set()
    tall = factory.save_file(tmp_path / "tall.safetensors", Flux(1, 1, 256, 32, seed=1))
    base = factory.save_file(tmp_path / "base.safetensors", Flux(1, 1, 256, 32, seed=2))
    isas = ["scalar", *(isa for isa in submerge.run.build_info()["isas"] if isa != "scalar")]
    for threads in (1, 2, 5):
        for isa in isas:
            out = tmp_path / f"{threads}{isa}.safetensors"
            run: dict[str, Any] = {"threads": threads, "isa": isa, "chunk": 70_000}
            lora.extract(tall, base, out, rank=20, **run)
            written.add(out.read_bytes())
    assert len(written) == 1


def test_nothing_of_a_zero_difference_is_written(tmp_path: Path, models: dict[str, Path]) -> None:
    arrays = factory.tensors(BASE)
    one, bias = "transformer_blocks.1.ff.net.2.weight", "single_transformer_blocks.0.proj_out.bias"
    arrays[one] = arrays[one] + np.float32(0.5)
    arrays[bias] = arrays[bias] + np.float32(0.25)
    near = factory.write(tmp_path / "near.safetensors", arrays)
    made = lora.extract(near, models["base"], tmp_path / "out.safetensors", rank=4, dtype="f32")
    found = factory.read(tmp_path / "out.safetensors")
    stem = "transformer.single_transformer_blocks.0.proj_out.lora_"
    assert sorted(found) == [
        f"{stem}A.weight",
        f"{stem}B.bias",
        f"{stem}B.weight",
        "transformer.transformer_blocks.1.ff.net.2.lora_A.weight",
        "transformer.transformer_blocks.1.ff.net.2.lora_B.weight",
    ]
    assert not found[f"{stem}A.weight"].any()
    assert made.residual < 1e-6


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "expected `rank`, `energy` or both"),
        ({"rank": 65}, "65 is more than the smaller side of every matrix, expected at most 64"),
        ({"rank": 2.5}, "expected a whole number"),
        ({"rank": -1}, "expected a whole number of at least 0"),
        ({"rank": 0}, "nothing differs from"),
        ({"energy": 0}, "expected more than 0 and at most 1"),
        ({"energy": 1.01}, "expected more than 0 and at most 1"),
        ({"rank": 4, "form": "xlabs"}, "expected one of"),
        ({"rank": 4, "dtype": "fp8"}, "`fp8` of an adapter"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, models: dict[str, Path], asked: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        lora.extract(models["falling"], models["base"], tmp_path / "o.safetensors", **asked)
    assert not any(tmp_path.iterdir())


def test_models_that_cannot_be_compared_are_refused(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    out = tmp_path / "out" / "o.safetensors"
    out.parent.mkdir()
    other = factory.save_file(tmp_path / "other.safetensors", replace(BASE, hidden=96, head_dim=24))
    with pytest.raises(LayoutError, match="different architectures"):
        lora.extract(other, models["base"], out, rank=4)
    same = factory.save_file(tmp_path / "same.safetensors", BASE)
    with pytest.raises(PlanError, match="every difference is zero"):
        lora.extract(same, models["base"], out, rank=4)
    for bad in (np.nan, np.inf):
        for name in (NAMES[3], NAMES[3].replace("weight", "bias")):
            arrays = factory.tensors(BASE)
            arrays[name].flat[5] = bad
            sick = factory.write(tmp_path / "sick.safetensors", arrays)
            with pytest.raises(PlanError, match="not finite"):
                lora.extract(sick, models["base"], out, rank=4)
    with pytest.raises(RecipeError, match=r"expected one `\.safetensors` file for an adapter"):
        lora.extract(models["flat"], models["base"], tmp_path / "folder", rank=4)
    assert not any(out.parent.iterdir())


def test_what_stands_there_stays_until_the_new_one_is_whole(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(PlanError):
        lora.extract(models["flat"], models["base"], out, rank=4)
    seen = []

    def stop(done: int, total: int) -> bool:
        seen.append((done, total))
        return done < total

    with pytest.raises(Cancelled):
        lora.extract(models["flat"], models["base"], out, rank=4, overwrite=True, progress=stop)
    assert seen
    assert out.read_bytes() == b"mine"
    lora.extract(models["flat"], models["base"], out, rank=4, overwrite=True)
    assert factory.read(out)
    assert list(tmp_path.iterdir()) == [out]


def test_a_job_is_cancelled_while_a_matrix_is_factored(tmp_path: Path) -> None:
    wide = Flux(1, 1, 1024, 128)
    one = factory.save_file(tmp_path / "one.safetensors", wide)
    two = factory.save_file(tmp_path / "two.safetensors", replace(wide, seed=1))
    token, out = CancelToken(), tmp_path / "out.safetensors"
    timer = threading.Timer(0.15, token.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        lora.extract(one, two, out, rank=500, isa="scalar", threads=1, cancel=token)
    timer.join()
    assert not out.exists()


def test_memory_is_asked_for_before_anything_is_written(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(PlanError, match="65536 bytes of working memory are too few"):
        lora.extract(models["flat"], models["base"], out, rank=4, memory_budget=65_536)
    assert not any(tmp_path.iterdir())


def test_guidance_that_only_one_has_is_left_out_and_named(tmp_path: Path) -> None:
    guided = factory.save_file(
        tmp_path / "guided.safetensors", replace(BASE, guidance=True, seed=1)
    )
    plain = factory.save_file(tmp_path / "plain.safetensors", BASE)
    out = tmp_path / "o.safetensors"
    for one, base, known in (
        (guided, plain, "flux-1-schnell/lora"),
        (plain, guided, "flux-1-dev/lora"),
    ):
        made = lora.extract(one, base, out, rank=4, overwrite=True)
        assert factory.header(out)["__metadata__"]["modelspec.architecture"] == known
        assert any("guidance" in note and "left out" in note for note in made.notes)
        assert not any("guidance" in module.name for module in made.modules)
