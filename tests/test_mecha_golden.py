"""Methods against sd-mecha 1.1.8 and SciPy's filters, on what scripts/mecha_golden.py has written.

sd-mecha works in f64 and rounds at the end, submerge in f32 step by step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors

import factory
import submerge
from submerge.methods import METHODS
from submerge.methods.base import CLOSE, MECHA

PATH = Path(__file__).parent / "data" / "mecha.safetensors"
GOLDEN = factory.read(PATH)
NAMES = ("head.bias", "head.weight")
SCIPY = "scipy 1.17.1"
THREE = {"to": "anna", "plus": "carl", "minus": "base"}

if TYPE_CHECKING:
    from collections.abc import Mapping

# Case: method, parameters, models in order.
CASES: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "weighted_sum": ("lerp", {"alpha": 0.3}, "anna carl"),
    "n_average": ("linear", {"weight": {"anna": 1, "base": 1, "carl": 1}}, "anna base carl"),
    "add_difference": ("add_difference", {"alpha": 0.5, **THREE}, "anna base carl"),
    "clamped": ("clamp", {"alpha": 1.5, **THREE}, "anna base carl"),
    "perpendicular": ("orthogonal", {"alpha": 0.7, "base": "base"}, "anna carl base"),
    "train_difference": ("train_difference", {"alpha": 0.75, **THREE}, "anna base carl"),
    "geometric_median": ("geometric_median", {}, "anna base carl"),
    "add_cosine_a": ("add_cosine_a", {"alpha": 0.5}, "anna carl"),
    "add_cosine_b": ("add_cosine_b", {"alpha": 0.5}, "anna carl"),
    "add_opposite": ("add_opposite", {"alpha": 0.7, **THREE}, "anna base carl"),
    "add_strict_opposite": ("add_strict_opposite", {"alpha": 0.7, **THREE}, "anna base carl"),
    "rotate": ("rotate", {"alpha": 0.25, "centralization": 1}, "anna carl"),
    "rotate_part": (
        "rotate",
        {"alpha": 0.3, "alignment": 0.4, "centralization": 1},
        "anna carl",
    ),
    "rotate_plain": ("rotate", {"alpha": 0.25}, "anna carl"),
    "smooth_add": ("smooth_add", {"alpha": 0.7, **THREE}, "anna base carl"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_method_agrees_as_far_as_it_says(tmp_path: Path, case: str) -> None:
    method, parameters, order = CASES[case]
    paths = {}
    for model in order.split():
        tensors = {name: GOLDEN[f"in.{model}.{name}"] for name in NAMES}
        path = factory.write(tmp_path / f"{model}.safetensors", tensors)
        paths[model] = {"path": str(path), "layout": "generic"}
    out = tmp_path / "out.safetensors"
    submerge.merge({"models": paths, "method": {method: parameters}}, out)
    claims = METHODS[method].equal
    how = claims.get(MECHA, claims.get(SCIPY, ""))
    for name, got in factory.read(out).items():
        kind = "out" if f"out.{case}.{name}" in GOLDEN else "more"
        assert not np.array_equal(got, GOLDEN[f"in.anna.{name}"])
        atol = 2e-6 if how.startswith(CLOSE) else 1e-3
        np.testing.assert_allclose(got, GOLDEN[f"{kind}.{case}.{name}"], atol=atol, err_msg=name)


def test_the_catalogue_claims_no_more_than_is_held_against_them() -> None:
    claimed = {n for n, method in METHODS.items() if {MECHA, SCIPY} & set(method.equal)}
    assert claimed == {method for method, *_ in CASES.values()}
    with safetensors.safe_open(PATH, "np") as file:
        versions = json.loads(file.metadata()["versions"])
    assert (f"sd-mecha {versions['sd-mecha']}", f"scipy {versions['scipy']}") == (MECHA, SCIPY)
