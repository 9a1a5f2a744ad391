"""Adapters merged into one, made smaller and written in other forms, against numpy in F64."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
from factory import Array, Flux
from submerge import AdapterError, PlanError, RecipeError, lora

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BASE = Flux(dtype="F32")
Deltas = dict[str, Array]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.save_file(tmp_path_factory.mktemp("base") / "base.safetensors", BASE)


def styles(folder: Path) -> tuple[list[str], list[Deltas]]:
    """Three adapters of different formats, ranks and modules, and what each adds."""
    one = files.pairs(BASE, files.MODULES, 4, seed=1)
    two = files.pairs(BASE, files.MODULES[::2], 6, seed=2)
    fused = files.pairs(BASE, ("double_blocks.0.img_attn.qkv", "final_layer.linear"), 5, "bfl", 3)
    paths = [
        files.save(folder / "one.safetensors", files.diffusers(one)),
        files.save(folder / "two.safetensors", files.kohya(two, alpha=3.0)),
        files.save(folder / "fused.safetensors", files.kohya(fused, alpha=None)),
    ]
    added = [
        {module: files.product(pair) for module, pair in one.items()},
        {module: files.product(pair, 3.0 / 6) for module, pair in two.items()},
        files.in_diffusers(
            BASE, {f"{module}.weight": files.product(pair) for module, pair in fused.items()}
        ),
    ]
    deltas = [{name.removesuffix(".weight"): array for name, array in d.items()} for d in added]
    return [str(path) for path in paths], deltas


def summed(deltas: list[Deltas], scales: list[float]) -> Deltas:
    total: Deltas = {}
    for found, scale in zip(deltas, scales, strict=True):
        for module, delta in found.items():
            total[module] = total.get(module, 0.0) + scale * delta
    return total


def written(path: Path) -> Deltas:
    """What a file in diffusers' names adds, as its metadata says."""
    found = factory.read(path)
    config = json.loads(factory.header(path)["__metadata__"]["lora_adapter_metadata"])
    added = {}
    for name in found:
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
            up, down = found[name.replace("lora_A", "lora_B")], found[name]
            rank = config["transformer.rank_pattern"].get(f"^{module}", config["transformer.r"])
            alphas, usual = config["transformer.alpha_pattern"], config["transformer.lora_alpha"]
            assert rank == down.shape[0]
            added[module] = files.product((up, down), alphas.get(f"^{module}", usual) / rank)
    return added


def relative(got: Mapping[str, Array], want: Mapping[str, Array]) -> float:
    missing = sum(float(((got[m] - want[m]) ** 2).sum()) for m in want)
    return float(np.sqrt(missing / sum(float((d**2).sum()) for d in want.values())))


def least(want: Deltas, rank: int) -> float:
    values = [np.linalg.svd(delta, compute_uv=False) ** 2 for delta in want.values()]
    whole = sum(float(v.sum()) for v in values)
    return float(np.sqrt(sum(float(v[rank:].sum()) for v in values) / whole))


def test_factors_beside_each_other_are_the_sum(tmp_path: Path, base: Path) -> None:
    paths, deltas = styles(tmp_path)
    scales = [0.5, -1.25, 2.0]
    given: Any = [{"path": path, "scale": s} for path, s in zip(paths, scales, strict=True)]
    made = lora.merge(given, tmp_path / "out.safetensors", base=base)
    got, want = written(made.path), summed(deltas, scales)
    assert set(got) == set(want)
    assert relative(got, want) < 1e-7
    assert made.residual < 1e-7
    ranks = {module.name: module.ranks[0] for module in made.modules}
    assert ranks["transformer_blocks.0.attn.to_q"] == 4 + 6 + 5
    assert ranks["transformer_blocks.0.attn.to_k"] == 5


@pytest.mark.parametrize("asked", [{"rank": 3}, {"rank": 9}, {"energy": 0.8}, {"energy": 0.999}])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_made_smaller_it_is_the_best_there_is(
    tmp_path: Path, base: Path, asked: Any, dtype: str
) -> None:
    paths, deltas = styles(tmp_path)
    made = lora.merge(paths, tmp_path / "out.safetensors", base=base, dtype=dtype, **asked)
    got, want = written(made.path), summed(deltas, [1.0, 1.0, 1.0])
    apart = relative(got, want)
    assert made.residual == pytest.approx(apart, rel=1e-3, abs=1e-7)
    if "rank" in asked:
        rounding = 0 if dtype == "f32" else 4e-3
        assert apart <= 1.0001 * least(want, asked["rank"]) + rounding
        return
    for module in made.modules:
        values = np.linalg.svd(want[module.name], compute_uv=False) ** 2
        held = np.cumsum(values) / values.sum()
        assert module.ranks[0] == int(np.searchsorted(held, asked["energy"])) + 1


def test_scales_differ_by_block(tmp_path: Path, base: Path) -> None:
    paths, deltas = styles(tmp_path)
    scale = {"single": 0.25, "double.0.img.attn.q": 0, "default": -1}
    made = lora.merge([{"path": paths[0], "scale": scale}], tmp_path / "o.safetensors", base=base)
    want = {
        module: (0.25 if module.startswith("single") else -1.0) * delta
        for module, delta in deltas[0].items()
        if module != "transformer_blocks.0.attn.to_q"
    }
    got = written(made.path)
    assert set(got) == set(want)
    assert relative(got, want) < 1e-7


def test_baked_it_adds_what_the_adapters_add(tmp_path: Path, base: Path) -> None:
    paths, _ = styles(tmp_path)
    given: Any = [{"path": path, "scale": 0.7} for path in paths]
    one, many = tmp_path / "of-one.safetensors", tmp_path / "of-many.safetensors"
    forms: Any = ("peft", "kohya", "comfy")
    for form in forms:
        lora.merge(given, tmp_path / "made.safetensors", base=base, form=form, overwrite=True)
        lora.bake(base, [str(tmp_path / "made.safetensors")], one, overwrite=True)
        lora.bake(base, given, many, overwrite=True)
        found, want = factory.read(one), factory.read(many)
        assert max(np.abs(found[name] - want[name]).max() for name in want) < 1e-6


def test_whole_norms_stay_where_they_can(tmp_path: Path, base: Path) -> None:
    found = files.diffusers(files.pairs(BASE, files.MODULES[:1], 4))
    norm = "transformer.transformer_blocks.0.attn.norm_q.weight"
    found[norm] = files.draw("norm", BASE.head_dim)
    path = str(files.save(tmp_path / "norms.safetensors", found))
    out = tmp_path / "out.safetensors"
    made = lora.resize(path, out, rank=2, base=base)
    assert np.array_equal(factory.read(out)[norm], found[norm])
    assert not made.notes
    # A new value is no difference: it has no part in the share that is missing.
    (pair,) = files.pairs(BASE, files.MODULES[:1], 4).values()
    squares = np.linalg.svd(files.product(pair), compute_uv=False) ** 2
    assert made.residual == pytest.approx(np.sqrt(squares[2:].sum() / squares.sum()), rel=1e-3)
    left: Any = (({"scale": 0.5}, "peft"), ({}, "kohya"))
    for scaled, form in left:
        made = lora.merge([{"path": path, **scaled}], out, base=base, form=form, overwrite=True)
        assert "transformer_blocks.0.attn.norm_q" in made.notes[0] or "query_norm" in made.notes[0]
        assert norm not in factory.read(out)


def test_a_smaller_rank_of_one(tmp_path: Path, base: Path) -> None:
    paths, deltas = styles(tmp_path)
    made = lora.resize(paths[1], tmp_path / "out.safetensors", rank=2, base=base)
    assert relative(written(made.path), deltas[1]) <= 1.0001 * least(deltas[1], 2)
    with pytest.raises(RecipeError, match="expected `rank`, `energy` or both"):
        lora.resize(paths[1], tmp_path / "none.safetensors", base=base)


def test_what_is_no_product_of_two_is_factored(tmp_path: Path, base: Path) -> None:
    module = "transformer_blocks.0.ff.net.2"
    rows, columns = files.shape_of(BASE, module)
    draws = [files.draw(i, *s) for i, s in enumerate([(rows, 2), (2, columns)] * 2)]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    stem = "lycoris_transformer_blocks_0_ff_net_2"
    arrays = {f"{stem}.{name}": draw for name, draw in zip(names, draws, strict=True)}
    arrays[f"{stem}.alpha"] = np.array(1.0, np.float32)
    path = files.save(tmp_path / "loha.safetensors", arrays)
    out = tmp_path / "out.safetensors"
    with pytest.raises(AdapterError, match="no product of two matrices"):
        lora.convert(str(path), out, form="peft", base=base)
    lora.resize(str(path), out, rank=4, base=base, dtype="f32")
    want = files.product((draws[0], draws[1])) * files.product((draws[2], draws[3]), 0.5)
    assert relative(written(out), {module: want}) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, factory.DTYPES["BF16"][0]])
def test_there_and_back_is_the_same_bit_for_bit(tmp_path: Path, base: Path, dtype: Any) -> None:
    def cast(pairs: dict[str, files.Pair]) -> dict[str, files.Pair]:
        return {m: (up.astype(dtype), down.astype(dtype)) for m, (up, down) in pairs.items()}

    whole = cast(files.pairs(BASE, files.MODULES, 6))
    first = files.save(tmp_path / "first.safetensors", files.kohya(whole, alpha=5.0))
    baked = tmp_path / "baked.safetensors"
    lora.bake(base, [str(first)], baked)
    seen = factory.read(baked)
    path = first
    forms: Any = ("peft", "comfy", "kohya", "peft")
    for form in forms:
        out = tmp_path / f"{path.stem}-{form}.safetensors"
        made = lora.convert(str(path), out, form=form, base=base)
        assert made.residual == 0.0
        lora.bake(base, [str(out)], baked, overwrite=True)
        again = factory.read(baked)
        assert all(np.array_equal(again[name], seen[name]) for name in seen), form
        path = out
    found = factory.read(path)
    assert {a.dtype for n, a in found.items()} == {np.dtype(dtype)}


def test_alphas_and_ranks_are_written_as_the_reader_has_them(tmp_path: Path, base: Path) -> None:
    modules = tuple(f"transformer_blocks.0.attn.to_{x}" for x in "qkv")
    found = files.pairs(BASE, modules, 4)
    first = files.save(tmp_path / "first.safetensors", files.kohya(found, alpha=2.0))
    out = tmp_path / "out.safetensors"
    lora.convert(str(first), out, form="kohya", base=base)
    arrays, stem = factory.read(out), "lora_unet_double_blocks_0_img_attn_qkv"
    up = arrays[f"{stem}.lora_up.weight"].copy()
    assert up.shape == (3 * BASE.hidden, 12)
    assert arrays[f"{stem}.alpha"] == 6.0
    for i, module in enumerate(modules):
        rows, columns = slice(64 * i, 64 * i + 64), slice(4 * i, 4 * i + 4)
        assert np.array_equal(up[rows, columns], found[module][0])
        up[rows, columns] = 0
    assert not up.any()
    metadata = factory.header(out)["__metadata__"]
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("12", "6")
    lora.convert(str(first), tmp_path / "peft.safetensors", form="peft", base=base)
    config = json.loads(
        factory.header(tmp_path / "peft.safetensors")["__metadata__"]["lora_adapter_metadata"]
    )
    assert (config["transformer.r"], config["transformer.lora_alpha"]) == (4, 2)


def test_bytes_do_not_depend_on_threads_or_isa(tmp_path: Path, base: Path) -> None:
    paths, _ = styles(tmp_path)
    made = set()
    runs: Any = ((1, "scalar"), (2, "auto"), (5, "auto"))
    for threads, isa in runs:
        out = tmp_path / f"{threads}.safetensors"
        lora.merge(paths, out, base=base, rank=5, threads=threads, isa=isa)
        made.add(out.read_bytes())
    assert len(made) == 1


def test_what_cannot_be_combined_is_refused(tmp_path: Path, base: Path) -> None:
    paths, _ = styles(tmp_path)
    out = tmp_path / "out" / "o.safetensors"
    out.parent.mkdir()
    both: Any = [paths[0], {"path": paths[0], "scale": -1}]
    empty_or_small: Any = ({}, {"rank": 2})
    for asked in empty_or_small:
        with pytest.raises(PlanError, match="every difference is zero"):
            lora.merge(both, out, base=base, **asked)
    found = files.diffusers(files.pairs(BASE, files.MODULES[:1], 4))
    magnitude = f"transformer.{files.MODULES[0]}.lora_magnitude_vector"
    dora = files.save(tmp_path / "dora.safetensors", {**found, magnitude: np.ones(64, np.float32)})
    with pytest.raises(AdapterError, match="sets lengths"):
        lora.merge([str(dora)], out, base=base)
    sick = dict(found)
    sick[next(iter(sick))].flat[3] = np.nan
    bad = files.save(tmp_path / "sick.safetensors", sick)
    for asked in empty_or_small:
        with pytest.raises(AdapterError, match="1 of 256 elements infinite or NaN"):
            lora.merge([str(bad)], out, base=base, **asked)
    refused: Any = (
        ({"rank": 0}, "expected at least 1"),
        ({"energy": 2.0}, "at most 1"),
        ({"form": "xlabs"}, "form: expected one of"),
        ({"dtype": "fp8"}, "dtype: expected one of"),
    )
    for asked, message in refused:
        with pytest.raises(RecipeError, match=message):
            lora.merge(paths, out, base=base, **asked)
    with pytest.raises(RecipeError, match="expected at least one"):
        lora.merge([], out)
    with pytest.raises(RecipeError, match="form: expected one"):
        lora.convert(paths[0], out)
    with pytest.raises(AdapterError, match="made for a model of other sizes"):
        lora.merge(paths, out)
    assert not any(out.parent.iterdir())


def peft_merge(method: str, tensors: list[Array], weights: list[float], density: float) -> Any:
    """`task_arithmetic`, `magnitude_prune` and `ties` of peft's `utils/merge_utils.py`."""
    left = []
    for tensor in tensors:
        kept = np.zeros(tensor.size)
        count = tensor.size if method == "linear" else int(density * tensor.size)
        kept[np.argsort(-np.abs(tensor.ravel()), kind="stable")[:count]] = 1
        left.append(tensor * kept.reshape(tensor.shape))
    stacked = np.stack(left)
    scaled = stacked * np.array(weights)[:, None, None]
    if method != "ties":
        return scaled.sum(0)
    mask = np.sign(stacked) == np.where(stacked.sum(0) >= 0, 1, -1)
    return (scaled * mask).sum(0) / np.maximum(mask.sum(0), 1)


@pytest.mark.parametrize("method", ["linear", "magnitude_prune", "ties"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, -0.4)])
def test_factors_are_merged_as_peft_does(
    tmp_path: Path, base: Path, method: Any, weights: tuple[float, float]
) -> None:
    found = [files.pairs(BASE, files.MODULES, 4, seed=seed) for seed in (1, 2)]
    given: Any = []
    for at, (pairs, weight) in enumerate(zip(found, weights, strict=True)):
        arrays = files.kohya(pairs, alpha=2.0)
        path = files.save(tmp_path / f"{at}.safetensors", arrays)
        given.append({"path": str(path), "scale": weight})
    out = tmp_path / "out.safetensors"
    density: Any = {} if method == "linear" else {"density": 0.3}
    made = lora.merge(given, out, base=base, method=method, **density)
    assert {module.ranks for module in made.modules} == {(4,)}
    got = factory.read(out)
    # The final modulation is two units, each thinned out by itself.
    for module in set(files.MODULES) - {"norm_out.linear"}:
        roots = [np.sqrt(abs(weight) / 2) for weight in weights]
        signs = [np.sign(weight) for weight in weights]
        up = peft_merge(method, [files.wide(p[module][0]) for p in found], roots, 0.3)
        signed = [float(s * r) for s, r in zip(signs, roots, strict=True)]
        down = peft_merge(method, [files.wide(p[module][1]) for p in found], signed, 0.3)
        stem = f"transformer.{module}.lora_"
        assert np.abs(got[f"{stem}B.weight"] - up).max() < 1e-6
        assert np.abs(got[f"{stem}A.weight"] - down).max() < 1e-6


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_chance_leaves_a_share_and_makes_up_for_it(tmp_path: Path, base: Path, method: Any) -> None:
    pairs = files.pairs(BASE, files.MODULES[:1], 4)
    path = str(files.save(tmp_path / "a.safetensors", files.diffusers(pairs)))
    seen: list[Array] = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(seen)}.safetensors"
        lora.merge([path], out, base=base, method=method, density=0.25, seed=seed)
        seen.append(factory.read(out)[f"transformer.{files.MODULES[0]}.lora_B.weight"])
    up = pairs[files.MODULES[0]][0]
    left = seen[0] != 0
    assert 0.1 < left.mean() < 0.4
    assert np.allclose(seen[0][left], 4 * up[left], rtol=1e-6)
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_methods_need_one_rank(tmp_path: Path, base: Path) -> None:
    paths, _ = styles(tmp_path)
    out = tmp_path / "none.safetensors"
    with pytest.raises(AdapterError, match="ranks 4, 6, expected one product of one rank"):
        lora.merge(paths[:2], out, base=base, method="linear")
    refused: Any = (
        ({"method": "slerp"}, "method: expected one of"),
        ({"method": "ties", "density": 0.0}, "density: expected more than 0"),
        ({"density": 0.2}, "density: given for the method `cat`, expected one of `ties`"),
        ({"method": "linear", "density": 0.2}, "density: given for the method `linear`"),
        ({"method": "ties", "seed": 3}, "seed: given for the method `ties`, expected one of `dare"),
    )
    for asked, message in refused:
        with pytest.raises(RecipeError, match=message):
            lora.merge(paths[:1], out, base=base, **asked)
    assert not out.exists()
