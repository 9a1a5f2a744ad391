"""Methods against mergekit 0.1.5, on tensors that scripts/mergekit_golden.py has written.

`EXACT` agree bit for bit; the others to a few units of the last place: mergekit sums norms and
angles in f32 and in another order, and its `linear` fuses multiply and add.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import factory
import submerge

PATH = Path(__file__).parent / "data" / "mergekit.safetensors"
GOLDEN = factory.read(PATH)
WEIGHTS = {"weight": {"anna": 0.7, "carl": 0.4, "dora": -0.25}}
OTHERS = "anna base carl dora"
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
    "breadcrumbs": (
        "breadcrumbs",
        OTHERS,
        {"base": "base", "density": 0.7, "gamma": 0.1, **WEIGHTS},
    ),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        OTHERS,
        {"base": "base", "density": 0.7, "gamma": 0.1, **WEIGHTS},
    ),
    "nearswap": ("nearswap", "carl anna", {"t": 0.1}),
    "ram": ("ram", OTHERS, {"base": "base"}),
}
EXACT = {
    "task_arithmetic",
    "ties",
    "ties_whole",
    "breadcrumbs",
    "breadcrumbs_ties",
    "nearswap",
    "ram",
}


@pytest.mark.parametrize("case", CASES)
def test_a_method_agrees_with_mergekit(tmp_path: Path, case: str) -> None:
    method, models, parameters = CASES[case]
    paths = {}
    for model in models.split():
        path = factory.write(tmp_path / f"{model}.safetensors", {"w": GOLDEN[f"in.{model}"]})
        paths[model] = {"path": str(path), "layout": "generic"}
    out = tmp_path / "out.safetensors"
    recipe = {"models": paths, "method": {method: parameters}, "compat": "mergekit"}
    submerge.merge(recipe, out)
    got, expected = factory.read(out)["w"], GOLDEN[f"out.{case}"]
    assert not np.array_equal(got, GOLDEN[f"in.{models.split()[0]}"])
    if case in EXACT:
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_every_golden_case_is_held_against_a_method() -> None:
    assert {f"out.{case}" for case in CASES} == {n for n in GOLDEN if n.startswith("out.")}
    with safetensors.safe_open(PATH, "np") as file:
        assert json.loads(file.metadata()["versions"])["mergekit"] == "0.1.5"
