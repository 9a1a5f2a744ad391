"""Arguments that no formula can be made with: the core refuses such a plan before it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from boundary import blended, execute, rows
from submerge import PlanError

if TYPE_CHECKING:
    from pathlib import Path

BIG = 1e300  # finite, but no f32


def delta(weights: list[float], sparsify: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    fields = {
        "weights": weights,
        "lambda": scale,
        "normalize": "none",
        "consensus": "none",
        "even": "positive",
    }
    return {"delta": fields | {"sparsify": sparsify}}


def matrix(weights: list[float], make: Any, *, apart: bool = False) -> dict[str, Any]:
    return {"matrix": {"weights": weights, "lambda": 1.0, "apart": apart, "make": make}}


def combine(rule: str, **arguments: Any) -> dict[str, Any]:
    return {"combine": {rule: arguments}}


def adaptive(formula: str, **arguments: Any) -> dict[str, Any]:
    return {"adaptive": {formula: arguments}}


RANDOM = {"density": [0.5], "keys": [1], "rescale": "none"}
RANK = RANDOM | {"epsilon": [0.1]}
MEDIAN = {"weights": [1.0, 1.0], "max_iter": 9, "tol": 1e-9, "eps": 1e-9}
MULTI = {"weights": [1.0, 1.0], "normalize": True, "eps": 1e-9, "base": False}
# The operation, how many operands it is given, and what is said.
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "weights of a sum": (
        {"linear": {"weights": [1.0]}}, 2, "1 weights for 2 operands, expected one for each"
    ),
    "a weight that is no f32": (
        {"linear": {"weights": [1.0, BIG]}}, 2, "weight 1e300, expected a finite f32"
    ),
    "a delta's weights": (
        delta([1.0, 1.0], {"none": {}}), 2,
        "2 weights for 2 operands, expected one for each but the base",
    ),
    "a delta's factor": (
        delta([1.0], {"none": {}}, BIG), 2, "weight or lambda 1e300, expected a finite f32"
    ),
    "densities": (
        delta([1.0], {"magnitude": {"density": [0.5, 0.5]}}), 2, "2 of density, expected 1"
    ),
    "a density above 1": (
        delta([1.0], {"magnitude": {"density": [1.5]}}), 2, "density 1.5, expected 0 to 1"
    ),
    "gammas": (
        delta([1.0], {"outliers": {"density": [0.5], "gamma": [-0.5]}}), 2,
        "gamma -0.5, expected 0 to 1",
    ),
    "keys": (delta([1.0], {"random": RANDOM | {"keys": []}}), 2, "0 keys, expected 1"),
    "keys of ranks": (delta([1.0], {"rank": RANK | {"keys": [1, 2]}}), 2, "2 keys, expected 1"),
    "an epsilon too large": (
        delta([1.0], {"rank": RANK | {"epsilon": [0.6]}}), 2,
        "density 0.5 and epsilon 0.6, expected their sum and difference between 0 and 1",
    ),
    "slerp of three": (combine("slerp", alpha=0.5), 3, "slerp of 3 operands, expected 2"),
    "karcher of one": (
        combine("karcher", max_iter=9, tol=1e-9), 1,
        "karcher of 1 operands, expected at least 2",
    ),
    "a stock of two": (
        combine("model_stock", floor=0.0), 1, "model stock of 1 operands, expected at least 3"
    ),
    "a median's weights": (
        combine("geometric_median", **MEDIAN | {"weights": [1.0]}), 2,
        "geometric median with 1 weights for 2 models, expected one for each",
    ),
    "a median of nothing": (
        combine("geometric_median", **MEDIAN | {"weights": [0.0, 0.0]}), 2,
        "geometric median with weights of 0 only, expected one above 0",
    ),
    "a median's negative weight": (
        combine("geometric_median", **MEDIAN | {"weights": [1.0, -1.0]}), 2,
        "geometric median with weight -1.0, expected a finite number of at least 0",
    ),
    "a median's floor": (
        combine("geometric_median", **MEDIAN | {"eps": 0.0}), 2,
        "geometric median with eps 0, expected a number above 0",
    ),
    "directions that sum to nothing": (
        combine("multislerp", **MULTI | {"weights": [1.0, -1.0]}), 2,
        "multislerp with weights that sum to 0, expected another sum",
    ),
    "a limit below 0": (
        combine("norm_limit", weights=[1.0], limit=-1.0, **{"lambda": 1.0}), 2,
        "norm limit with limit -1.0, expected a finite number of at least 0",
    ),
    "fusion of three": (
        adaptive("arcee_fusion"), 3, "arcee fusion of 3 operands, expected a base and a model"
    ),
    "a cosine that is no f32": (
        adaptive("cosine", alpha=BIG, whole=True), 2,
        "cosine with alpha 1e300, expected a finite f32",
    ),
    "a share above 1": (
        adaptive("sce", select_topk=1.5, floor=0.0), 2, "sce with select_topk 1.5, expected 0 to 1"
    ),
    "a floor below 0": (
        adaptive("sce", select_topk=1.0, floor=-1.0), 2,
        "sce with floor -1.0, expected a finite f32 of at least 0",
    ),
    "a matrix's weights": (
        matrix([1.0], {"rank": 2}, apart=True), 2,
        "1 weights for 2 operands, expected one for each but the bases",
    ),
    "no rank": (matrix([1.0], {"rank": 0}), 2, "rank 0, expected at least 1"),
    "no decorrelated rank": (
        matrix([1.0], {"decorrelated": {"rank": 0}}), 2, "rank 0, expected at least 1"
    ),
    "no energy": (
        matrix([1.0], {"energy": 0.0}), 2, "energy 0, expected above 0 and at most 1"
    ),
    "half a rotation": (
        matrix([0.5], {"rotated": {"alignment": 1, "alpha": 0, "centralization": 1}}), 2,
        ("a rotation, expected one model of weight 1, no base apart, an alignment from "
         "0 to 1 and finite numbers"),
    ),
    "smoothing two": ({"smooth": {"alpha": 0.5}}, 2, "smooth of 2 operands, expected 3"),
    "smoothing without end": (
        {"smooth": {"alpha": BIG}}, 3, "smooth with alpha 1e300, expected a finite f32"
    ),
    "one model to look at": (
        {"analyze": {"alpha": 0.5}}, 1, "1 operands, expected 2 or 3"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_do_not_fit_are_refused_in_their_unit(tmp_path: Path, name: str) -> None:
    op, count, message = REFUSED[name]
    path = factory.write(tmp_path / "a.safetensors", {"x": np.ones((4, 3), np.float32)})
    out = tmp_path / "out.safetensors"
    plan = blended(out, [path], [1.0])
    plan["units"][0] |= {"op": op, "operands": [rows(0, "x", 0, 4)] * count}
    with pytest.raises(PlanError) as caught:
        execute(plan, mode="measure" if "analyze" in op else "write")
    assert caught.value.message == f"plan unit `x`: {message}"
    assert not out.exists()
