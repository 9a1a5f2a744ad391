"""Adapters voted on in the directions that all share: KnOTS in factors, against a dense SVD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import formulas_matrix
from factory import Array, Flux
from submerge import AdapterError, RecipeError, lora
from submerge.run import build_info
from test_combining import written

if TYPE_CHECKING:
    from pathlib import Path

BASE = Flux(dtype="F32")
# A part of a stack, wide, tall, and outside the blocks.
MODULES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.ff.net.0.proj",
    "single_transformer_blocks.1.proj_out",
    "x_embedder",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.save_file(tmp_path_factory.mktemp("base") / "base.safetensors", BASE)


def styles(
    folder: Path, weights: list[float], ranks: tuple[int, ...] = (4, 7, 3)
) -> tuple[Any, list[dict[str, Array]]]:
    """Adapters of several ranks and alphas at strengths, and what each adds at strength 1."""
    given: list[Any] = []
    deltas = []
    for at, (weight, rank) in enumerate(zip(weights, ranks, strict=False)):
        pairs = files.pairs(BASE, MODULES, rank, seed=f"s{at}")
        path = files.save(folder / f"{at}.safetensors", files.kohya(pairs, alpha=2.0))
        given.append({"path": str(path), "scale": weight})
        deltas.append({module: files.product(pair, 2.0 / rank) for module, pair in pairs.items()})
    return given, deltas


def apart(found: Array, want: Array) -> float:
    return float(np.linalg.norm(found - want) / np.linalg.norm(want))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [0.8, 0.3, 1.2], [0.9, -0.4]])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_it_is_the_vote_on_dense_deltas(
    tmp_path: Path, base: Path, weights: list[float], density: float
) -> None:
    given, deltas = styles(tmp_path, weights)
    out = tmp_path / "out.safetensors"
    made = lora.merge(given, out, base=base, method="knots", density=density, dtype="f32")
    found = written(out)
    assert set(found) == set(MODULES)
    ranks = sum((4, 7, 3)[: len(weights)])
    assert {module.ranks for module in made.modules} == {(ranks,)}
    assert made.residual < 1e-6
    for module in MODULES:
        dense = [delta[module] for delta in deltas]
        want = formulas_matrix.shared(dense, weights, density=density)
        assert apart(found[module], want) < 1e-5, module


def test_one_adapter_is_itself_and_two_of_no_common_direction_are_not_the_sum(
    tmp_path: Path, base: Path
) -> None:
    given, deltas = styles(tmp_path, [1.0, 1.0])
    out = tmp_path / "out.safetensors"
    lora.merge(given[:1], out, base=base, method="knots", density=1.0, dtype="f32")
    found = written(out)
    assert all(apart(found[m], deltas[0][m]) < 1e-5 for m in MODULES)
    lora.merge(given, out, base=base, method="knots", density=1.0, overwrite=True)
    found = written(out)
    assert all(apart(found[m], deltas[0][m] + deltas[1][m]) > 0.1 for m in MODULES)


def test_the_same_adapter_twice_has_its_own_rank(tmp_path: Path, base: Path) -> None:
    (given, _), (deltas,) = styles(tmp_path, [1.0, 1.0])[0], styles(tmp_path, [1.0])[1]
    out = tmp_path / "out.safetensors"
    made = lora.merge([given, given], out, base=base, method="knots", density=1.0, dtype="f32")
    assert {module.ranks for module in made.modules} == {(4,)}
    found = written(out)
    assert all(apart(found[m], deltas[m]) < 1e-5 for m in MODULES)


def test_a_smaller_rank_is_the_best_of_the_vote(tmp_path: Path, base: Path) -> None:
    given, deltas = styles(tmp_path, [1.0, 1.0])
    out = tmp_path / "out.safetensors"
    made = lora.merge(given, out, base=base, method="knots", density=0.5, rank=5, dtype="f32")
    missing = whole = 0.0
    found = written(out)
    for module in MODULES:
        want = formulas_matrix.shared([d[module] for d in deltas], [1.0, 1.0], density=0.5)
        squares = np.linalg.svd(want, compute_uv=False) ** 2
        missing, whole = missing + squares[5:].sum(), whole + squares.sum()
        assert np.linalg.matrix_rank(found[module], tol=1e-5) == 5
    assert made.residual == pytest.approx(np.sqrt(missing / whole), rel=1e-3)


def test_bytes_do_not_depend_on_threads_or_isa(tmp_path: Path, base: Path) -> None:
    given, _ = styles(tmp_path, [1.0, 0.5, 0.7])
    seen = set()
    runs: list[dict[str, Any]] = [{"isa": isa} for isa in build_info()["isas"]]
    for run in [*runs, {"threads": 1}, {"threads": 3}]:
        out = tmp_path / "out.safetensors"
        lora.merge(given, out, base=base, method="knots", overwrite=True, **run)
        seen.add(out.read_bytes())
    assert len(seen) == 1


def test_what_has_no_vote_is_refused(tmp_path: Path, base: Path) -> None:
    given, _ = styles(tmp_path, [1.0, 1.0])
    out = tmp_path / "out.safetensors"
    with pytest.raises(RecipeError, match="seed: given for the method `knots`"):
        lora.merge(given, out, base=base, method="knots", seed=1)
    whole = {"transformer.transformer_blocks.0.attn.to_k.diff": files.draw("d", 64, 64)}
    other = files.save(tmp_path / "whole.safetensors", whole)
    methods: Any = ("knots", "ties")
    for method in methods:
        expected = f"no product of two matrices, expected LoRAs to merge by `{method}`"
        with pytest.raises(AdapterError, match=expected) as caught:
            lora.merge([given[0], str(other)], out, base=base, method=method, rank=4)
        assert caught.value.hint == "`submerge lora resize` makes a LoRA of it first"
    pairs = files.pairs(BASE, ["double_blocks.0.img_attn.qkv"], layout="bfl")
    path = files.save(tmp_path / "qkv.safetensors", files.kohya(pairs, 1.0))
    source = {"path": str(path), "scale": {"double[0].img.attn.q": 0.5, "default": 1}}
    with pytest.raises(AdapterError, match="has several strengths in what this form stacks"):
        lora.merge([source, given[0]], out, base=base, method="knots", form="kohya")
    lora.merge([source, given[0]], out, base=base, method="knots")
