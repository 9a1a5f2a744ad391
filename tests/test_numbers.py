"""Numbers of every kind, in tensors of any name: special values, other dtypes, odd shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import oracle
import submerge
from factory import FLOATS
from submerge import PlanError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("overflow", ["saturate", "nan"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_hard_numbers_to_every_dtype(tmp_path: Path, dtype: str, overflow: str) -> None:
    shape = (331, 251)  # more than one cell of the reduction grid, and no round number
    for wide in FLOATS:
        held = {
            name: {"x": oracle.hard_numbers(wide, math.prod(shape), seed).reshape(shape)}
            for seed, name in enumerate("ab")
        }
        models = {
            name: {
                "path": str(factory.write(tmp_path / f"{name}{wide}.safetensors", arrays)),
                "layout": "generic",
            }
            for name, arrays in held.items()
        }
        out = tmp_path / f"{wide}.safetensors"
        report = submerge.merge(
            {
                "models": models,
                "alpha": 0.3,
                "output": {"dtype": dtype.lower(), "overflow": overflow},
            },
            out,
        )
        expected = oracle.weighted([held["a"]["x"], held["b"]["x"]], [0.7, 0.3], dtype, overflow)
        assert oracle.differing(oracle.read(out), {"x": expected}) == [], wide
        (row,) = report.rows
        finite = [np.isfinite(oracle.decoded(held[n]["x"])) for n in "ab"]
        assert row.nonfinite == sum(int((~f).sum()) for f in finite)
        assert row.nonfinite_out == int((~np.isfinite(oracle.decoded(expected))).sum())


def test_what_is_no_float_is_copied_when_equal_and_refused_when_not(tmp_path: Path) -> None:
    held: oracle.Arrays = {
        "w": np.ones((3, 2), np.float32),
        "ids": np.arange(5),
        "mask": np.array([True, False]),
    }
    odd: oracle.Arrays = {"scalar": np.array(2.5, np.float32), "none": np.zeros((0, 4), np.float16)}
    a = factory.write(tmp_path / "a.safetensors", held | odd)
    b = factory.write(tmp_path / "b.safetensors", {**held, "w": 3 * held["w"], **odd})
    models = {n: {"path": str(p), "layout": "generic"} for n, p in {"a": a, "b": b}.items()}
    out = tmp_path / "out.safetensors"
    submerge.merge({"models": models, "alpha": 0.25}, out)
    expected: oracle.Arrays = {**held, "w": 1.5 * held["w"], **odd}
    assert oracle.differing(oracle.read(out), expected) == []
    factory.write(b, {**held, "ids": np.arange(5) + 1, **odd})
    with pytest.raises(PlanError, match="`ids`: differs between the models"):
        submerge.merge({"models": models, "alpha": 0.25}, tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()
    taken = {"models": models, "alpha": 0.25, "rules": [{"where": "ids", "take": "b"}]}
    submerge.merge(taken, tmp_path / "taken.safetensors")
    assert oracle.read(tmp_path / "taken.safetensors")["ids"].tolist() == [1, 2, 3, 4, 5]
