"""Which sign wins where deltas cancel exactly, against the code of TIES' authors in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import factory
import submerge

if TYPE_CHECKING:
    from pathlib import Path

    from formulas import Vector

SHAPE = (300, 260)  # more than one cell of the grid
MODELS = ("anna", "carl", "dora")


def parents(seed: int, lean: float) -> dict[str, Vector]:
    """BF16 models whose deltas are a few steps of the last place, more of them up than down."""
    random = np.random.default_rng(seed)
    base = random.uniform(1, 2, SHAPE).astype(ml_dtypes.bfloat16)
    step = 2.0**-7
    found = {"base": base}
    for model in MODELS:
        moved = np.rint(random.normal(lean, 1.2, SHAPE)) * step
        found[model] = (base.astype(np.float32) + moved.astype(np.float32)).astype(base.dtype)
    return found


def authors(base: Vector, models: list[Vector]) -> Vector:
    """`resolve_sign`, `resolve_zero_signs` and `disjoint_merge` ("dis-mean") of ties-merging."""
    deltas = np.stack([model - base for model in models])
    signs = np.sign(deltas.sum(axis=0))
    signs[signs == 0] = np.sign(signs.sum())
    keep = np.where(signs > 0, deltas > 0, deltas < 0)
    selected = deltas * keep
    return np.asarray(base + selected.sum(axis=0) / np.clip((selected != 0).sum(axis=0), 1, None))


def merged(folder: Path, given: dict[str, Vector], method: Any, **fields: Any) -> Vector:
    paths = {
        name: {"path": str(factory.write(folder / f"{name}.safetensors", {"w": x})),
               "layout": "generic"}
        for name, x in given.items()
    }  # fmt: skip
    recipe = {"models": paths, "method": method, "base": "base", **fields}
    out = folder / "out.safetensors"
    submerge.merge({**recipe, "output": {"dtype": "f32"}}, out, overwrite=True)
    return factory.read(out)["w"]


@pytest.mark.parametrize("lean", [0.3, -0.3])
@pytest.mark.parametrize("name", ["ties", "breadcrumbs_ties", "dare_ties", "della"])
def test_the_sign_of_most_elements_wins(tmp_path: Path, name: str, lean: float) -> None:
    given = parents(1, lean)
    as_f32 = {model: x.astype(np.float32) for model, x in given.items()}
    expected = authors(as_f32["base"], [as_f32[model] for model in MODELS])
    got = merged(tmp_path, given, {name: {"density": 1, "normalize": True}})
    np.testing.assert_allclose(got, expected, atol=1e-6)
    cancelled = np.sum([as_f32[m] - as_f32["base"] for m in MODELS], axis=0) == 0
    assert 0.02 < np.mean(cancelled & (got != as_f32["base"])) < 0.2
    other = merged(tmp_path, given, {name: {"density": 1, "normalize": True}}, compat="mergekit")
    up = (
        other[cancelled & (other != as_f32["base"])]
        > as_f32["base"][cancelled & (other != as_f32["base"])]
    )
    assert up.all()
    assert np.array_equal(got, other) == (lean > 0)


def test_thinned_out_deltas_are_counted_as_they_are_left(tmp_path: Path) -> None:
    given = parents(2, -0.4)
    as_f32 = {model: x.astype(np.float32) for model, x in given.items()}
    base, left = as_f32["base"], []
    for model in MODELS:
        delta = as_f32[model] - base
        order = np.argsort(-np.abs(delta).ravel(), kind="stable")[: delta.size // 2]
        kept = np.zeros(delta.size, np.float32)
        kept[order] = delta.ravel()[order]
        left.append(base + kept.reshape(SHAPE))
    got = merged(tmp_path, given, {"ties": {"density": 0.5}})
    np.testing.assert_allclose(got, authors(base, left), atol=1e-6)
