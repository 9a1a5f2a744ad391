"""Methods against mergekit 0.1.5, on tensors that scripts/mergekit_golden.py has written.

How exactly they agree is what the catalogue says of each. mergekit sums norms and angles in f32 and
in another order, its `linear` fuses multiply and add, and its random numbers are torch's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import factory
import formulas
import submerge
from submerge.methods import METHODS
from submerge.methods.base import (
    AWAY_FROM_THRESHOLD,
    CLOSE,
    EXACT,
    IN_STATISTICS,
    MERGEKIT,
    OUTSIDE_TIES,
)

PATH = Path(__file__).parent / "data" / "mergekit.safetensors"
GOLDEN = factory.read(PATH)
WEIGHTS = {"weight": {"anna": 0.7, "carl": 0.4, "dora": -0.25}}
OTHERS = "anna base carl dora"
TIED = "even tied_anna tied_carl tied_dora"
SMALL = "base small_anna small_carl"
MIDDLE = {"density": 0.7, "gamma": 0.1}
ON_EVEN = {"base": "even", "weight": {"tied_anna": 0.7, "tied_carl": 0.4, "tied_dora": -0.25}}
HALF = {"base": "base", "density": 0.5}
# Case: method, models in order, parameters.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "linear": ("linear", "anna carl dora", {"weight": {"anna": 0.5, "carl": 0.25, "dora": 1}}),
    "slerp": ("slerp", "carl anna", {"alpha": 0.3}),
    "nuslerp": ("nuslerp", "carl anna", {"alpha": 0.25}),
    "nuslerp_base": ("nuslerp", "carl anna base", {"alpha": 0.25, "base": "base"}),
    "nuslerp_rows": ("nuslerp", "carl anna", {"alpha": 0.25, "rowwise": True}),
    "multislerp": (
        "multislerp",
        "anna carl dora",
        {"weight": {"anna": 1, "carl": 2, "dora": 1}},
    ),
    "karcher": ("karcher", "anna carl dora", {}),
    "model_stock": ("model_stock", OTHERS, {"base": "base"}),
    "model_stock_rows": ("model_stock", OTHERS, {"base": "base", "rowwise": True}),
    "task_arithmetic": ("task_arithmetic", OTHERS, {"base": "base", "lambda": 0.8, **WEIGHTS}),
    "ties": ("ties", OTHERS, {"base": "base", "density": 0.4, **WEIGHTS}),
    "ties_whole": ("ties", OTHERS, {"base": "base", "lambda": 0.8, **WEIGHTS}),
    "ties_tied": ("ties", TIED, {"density": 0.4, **ON_EVEN}),
    "breadcrumbs": ("breadcrumbs", OTHERS, {"base": "base", **MIDDLE, **WEIGHTS}),
    "breadcrumbs_tied": ("breadcrumbs", TIED, MIDDLE | ON_EVEN),
    "breadcrumbs_ties": ("breadcrumbs_ties", OTHERS, {"base": "base", **MIDDLE, **WEIGHTS}),
    "breadcrumbs_ties_tied": ("breadcrumbs_ties", TIED, MIDDLE | ON_EVEN),
    "dare_linear": ("dare_linear", "anna base", HALF),
    "dare_ties": ("dare_ties", "anna base", HALF),
    "della": ("della", "anna base", {"epsilon": 0.4, **HALF}),
    "della_linear": ("della_linear", "anna base", {"epsilon": 0.4, **HALF}),
    "sce": ("sce", OTHERS, {"base": "base"}),
    "sce_selected": ("sce", OTHERS, {"base": "base", "select_topk": 0.3}),
    "sce_small": ("sce", SMALL, {"base": "base"}),
    "model_stock_small": ("model_stock", SMALL, {"base": "base"}),
    "arcee_fusion": ("arcee_fusion", "base anna", {}),
    "nearswap": ("nearswap", "carl anna", {"t": 0.1}),
    "ram": ("ram", OTHERS, {"base": "base"}),
    "ramplus_tl": ("ramplus_tl", OTHERS, {"base": "base", "r": 0.5, "alpha": 3.0}),
}


def merged(folder: Path, case: str, **fields: Any) -> Any:
    method, models, parameters = CASES[case]
    paths = {}
    for model in models.split():
        path = factory.write(folder / f"{model}.safetensors", {"w": GOLDEN[f"in.{model}"]})
        paths[model] = {"path": str(path), "layout": "generic"}
    out = folder / "out.safetensors"
    recipe = {"models": paths, "method": {method: parameters}, "compat": "mergekit", **fields}
    given = {field: value for field, value in recipe.items() if value is not None}
    submerge.merge(given, out, overwrite=True)
    return factory.read(out)["w"]


def of_class(*classes: str) -> list[str]:
    return [case for case, (name, *_) in CASES.items() if METHODS[name].equal[MERGEKIT] in classes]


TIES = [case for case in CASES if case.endswith("_tied")]


@pytest.mark.parametrize("case", [c for c in of_class(EXACT, OUTSIDE_TIES) if c not in TIES])
def test_bit_for_bit(tmp_path: Path, case: str) -> None:
    got = merged(tmp_path, case)
    assert not np.array_equal(got, GOLDEN[f"in.{CASES[case][1].split()[0]}"])
    np.testing.assert_array_equal(got, GOLDEN[f"out.{case}"])


@pytest.mark.parametrize("case", of_class(CLOSE))
def test_to_a_few_units_of_the_last_place(tmp_path: Path, case: str) -> None:
    got = merged(tmp_path, case)
    assert not np.array_equal(got, GOLDEN[f"in.{CASES[case][1].split()[0]}"])
    np.testing.assert_allclose(got, GOLDEN[f"out.{case}"], atol=2e-6)
    ulp = np.spacing(np.abs(GOLDEN[f"out.{case}"]))
    assert np.mean(np.abs(got - GOLDEN[f"out.{case}"]) <= ulp) > 0.8


def cut_equals(d: Any, *ranks: int) -> Any:
    """Where a magnitude is one of several that a set of the largest ends among."""
    magnitudes = np.abs(d).ravel()
    order = np.sort(magnitudes)[::-1]
    found = np.zeros(magnitudes.shape, bool)
    for rank in ranks:
        if 0 < rank < order.size and order[rank - 1] == order[rank]:
            found |= magnitudes == order[rank]
    return found.reshape(d.shape)


@pytest.mark.parametrize("case", TIES)
def test_outside_the_equals_that_a_threshold_cuts(tmp_path: Path, case: str) -> None:
    base = GOLDEN["in.even"]
    n = base.size
    ranks = [int(0.4 * n)] if case == "ties_tied" else [int(0.1 * n), int(0.1 * n) + int(0.7 * n)]
    deltas = [GOLDEN[f"in.{model}"] - base for model in TIED.split()[1:]]
    open_ = np.any([cut_equals(d, *ranks) for d in deltas], axis=0)
    assert 0.05 < np.mean(open_) < 0.6
    got, expected = merged(tmp_path, case), GOLDEN[f"out.{case}"]
    np.testing.assert_array_equal(got[~open_], expected[~open_])


CHANCE = of_class(IN_STATISTICS)


@pytest.mark.parametrize("case", CHANCE)
def test_chance_in_its_statistics(tmp_path: Path, case: str) -> None:
    base = GOLDEN["in.base"]
    d = GOLDEN["in.anna"] - base
    chance = np.full(d.shape, 0.5)
    if case.startswith("della"):
        places = np.argsort(np.argsort(np.abs(d), axis=1, kind="stable"), axis=1, kind="stable")
        chance = 0.1 + places / (d.shape[1] - 1) * 0.8
    upper = np.abs(d) > np.median(np.abs(d), axis=1, keepdims=True)
    for result in (merged(tmp_path, case), GOLDEN[f"out.{case}"]):
        left = result - base
        for part in (d != 0, upper):  # what was 0 stays 0, kept or not
            kept, p = np.count_nonzero(left[part]), chance[part]
            assert abs(kept - p.sum()) < 4 * np.sqrt(np.sum(p * (1 - p)))
        # What is left makes up for what went: as long in the sum of magnitudes, by one factor.
        assert np.abs(left).sum() == pytest.approx(np.abs(d).sum(), rel=1e-5)
        kept_d = left[left != 0] / d[left != 0]
        np.testing.assert_allclose(kept_d, kept_d.mean(), rtol=1e-3)


@pytest.mark.parametrize("case", CHANCE)
def test_the_mean_over_seeds_is_the_whole_delta(tmp_path: Path, case: str) -> None:
    """One over the probability makes up for every element by itself, as the papers have it."""
    base = GOLDEN["in.base"]
    d = GOLDEN["in.anna"] - base
    method, _, parameters = CASES[case]
    seeds = 40
    calm = {method: parameters | ({"epsilon": 0.2} if "epsilon" in parameters else {})}
    runs = [merged(tmp_path, case, method=calm, compat=None, seed=s) - base for s in range(seeds)]
    # An element kept with p of at least 0.3 has a variance of at most d^2 (1 / p - 1).
    off = (np.mean(runs, axis=0) - d) / np.where(d == 0, 1, np.abs(d))
    assert np.abs(off).max() < 5.5 * np.sqrt(2.4 / seeds)
    assert abs(off[d != 0].mean()) < 4 * np.sqrt(2.4 / seeds / np.count_nonzero(d))


def test_arcee_fusion_but_for_ranks_that_hang_on_rounding(tmp_path: Path) -> None:
    assert METHODS["arcee_fusion"].equal[MERGEKIT].startswith(AWAY_FROM_THRESHOLD)
    base, x = GOLDEN["in.base"], GOLDEN["in.anna"]
    importance = formulas.arcee_importance(base, x)
    threshold = formulas.arcee_threshold(importance)
    clear = np.abs(importance - threshold) > 1e-4 * threshold
    assert 0.98 < np.mean(clear) < 1 or clear.all()
    got, expected = merged(tmp_path, "arcee_fusion"), GOLDEN["out.arcee_fusion"]
    np.testing.assert_array_equal(got[clear], expected[clear])
    assert not np.array_equal(got, base)


def test_small_squares_count_as_equal_for_mergekit_alone(tmp_path: Path) -> None:
    own = merged(tmp_path, "sce_small", compat=None)
    base = GOLDEN["in.base"]
    deltas = [GOLDEN[f"in.{m}"] - base for m in ("small_anna", "small_carl")]
    assert not np.array_equal(own, GOLDEN["out.sce_small"])
    squares = [float(np.sum(d.astype(np.float64) ** 2)) for d in deltas]
    both = np.sign(deltas[0]) == np.sign(deltas[1])
    mean = (squares[0] * deltas[0] + squares[1] * deltas[1]) / sum(squares)
    np.testing.assert_allclose((own - base)[both], mean[both], atol=3e-7)


def test_every_golden_case_is_held_against_a_method() -> None:
    assert {name for name, *_ in CASES.values()} == {
        name for name, method in METHODS.items() if MERGEKIT in method.equal
    }
    assert {f"out.{case}" for case in CASES} == {n for n in GOLDEN if n.startswith("out.")}
    with safetensors.safe_open(PATH, "np") as file:
        assert json.loads(file.metadata()["versions"])["mergekit"] == "0.1.5"
