"""Terms that do not fit a unit, each refused before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from boundary import blended, execute, place, rows
from formulas_terms import Terms, job
from submerge import PlanError
from submerge.plan.terms import (
    Hadamard,
    Kronecker,
    LowRank,
    Magnitude,
    Multiplied,
    Rows,
    Scaled,
    Thin,
    tagged,
)

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array
    from submerge.plan.terms import Term


def planned(folder: Path, term: dict[str, Any], *, added: bool = False) -> dict[str, Any]:
    """A plan with a second term, or with what is added, on an operand of 6 rows of 12."""
    random = np.random.default_rng(0)
    shapes = {
        "w": (6, 12),
        "up": (6, 2),
        "down": (2, 12),
        "square": (12, 2),
        "left": (3, 4),
        "right": (3, 3),
    }
    arrays: dict[str, Array] = {n: random.normal(size=shape) for n, shape in shapes.items()}
    arrays |= {"values": np.ones(6), "column": np.ones(12), "empty": np.ones((6, 0))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays |= {"counts": np.ones((6, 12), np.int8), "nothing": np.ones((0, 12), np.float32)}
    path = factory.write(folder / "in.safetensors", arrays)
    plan = blended(folder / "out.safetensors", [path], [1.0])
    plan["outputs"] = [{"file": 0, "name": "w", "dtype": "F32", "shape": [6, 12]}]
    terms = [*rows(0, "w", 0, 6), *([] if added else [term])]
    unit = {"name": "w", "output": 0, "start": 0, "end": 6, "op": {"copy": {}}}
    plan["units"] = [unit | {"operands": [terms], "added": [term] if added else []}]
    return plan


def refused(folder: Path, term: dict[str, Any], *, added: bool = False) -> PlanError:
    """What the core says of it."""
    plan = planned(folder, term, added=added)
    with pytest.raises(PlanError) as error:
        execute(plan)
    assert not (folder / "out.safetensors").exists()
    return error.value


GOOD: dict[str, dict[str, Any]] = {
    "scaled": {"rows": place(0, "w", 0, 6), "scale": 1.0},
    "low_rank": {"up": place(0, "up", 0, 6), "down": place(0, "down", 0, 2), "scale": 1.0},
    "multiplied": {"up": place(0, "square", 0, 12), "down": place(0, "down", 0, 2), "scale": 1.0},
    "hadamard": {
        "left": {"up": place(0, "up", 0, 6), "down": place(0, "down", 0, 2)},
        "right": {"up": place(0, "up", 0, 6), "down": place(0, "down", 0, 2)},
        "scale": 1.0,
    },
    "kronecker": {
        "left": {"rows": place(0, "left", 0, 3)},
        "right": {"rows": place(0, "right", 0, 3)},
        "first": 3,
        "scale": 1.0,
    },
    "magnitude": {
        "values": place(0, "values", 0, 6),
        "axis": "rows",
        "norm": "sum",
        "strength": 1.0,
        "epsilon": 0.0,
    },
}
TOO_LARGE = "scale 1000000000000000000000000000000000000000, expected a finite f32"
REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("scaled", {"rows": place(0, "w", 0, 5)}, "rows differ, expected 6, got 5"),
    ("scaled", {"rows": place(0, "up", 0, 6)}, "elements in a row differ, expected 12, got 2"),
    ("scaled", {"rows": place(0, "counts", 0, 6)}, "dtype I8 cannot be computed with"),
    ("scaled", {"rows": place(1, "w", 0, 6)}, "source 1, expected one of 1"),
    ("scaled", {"scale": 1e39}, TOO_LARGE),
    ("low_rank", {"up": place(0, "up", 0, 5)}, "rows of `up` differ, expected 6, got 5"),
    ("low_rank", {"up": place(0, "counts", 0, 6)}, "dtype I8 cannot be computed with"),
    ("low_rank", {"down": place(0, "down", 0, 1)}, "rows of `down` differ, expected 2, got 1"),
    ("low_rank", {"down": place(0, "up", 0, 2)}, "columns of `down` differ, expected 12, got 2"),
    ("low_rank", {"scale": -1e39}, "expected a finite f32"),
    (
        "low_rank",
        {"up": place(0, "empty", 0, 6), "down": place(0, "nothing", 0, 0)},
        "rank 0, expected at least 1",
    ),
    ("multiplied", {"up": place(0, "square", 0, 11)}, "rows of `up` differ, expected 12, got 11"),
    ("multiplied", {"up": place(0, "up", 0, 6)}, "rows of `up` differ, expected 12, got 6"),
    ("multiplied", {"down": place(0, "down", 0, 1)}, "rows of `down` differ, expected 2, got 1"),
    ("multiplied", {"up": place(0, "counts", 0, 6)}, "dtype I8 cannot be computed with"),
    ("multiplied", {"scale": 1e39}, TOO_LARGE),
    (
        "hadamard",
        {"left": {"up": place(0, "up", 0, 6), "down": place(0, "down", 0, 1)}},
        "`left`: rows of `down` differ, expected 2, got 1",
    ),
    (
        "hadamard",
        {"right": {"up": place(0, "up", 1, 6), "down": place(0, "down", 0, 2)}},
        "`right`: rows of `up` differ, expected 6, got 5",
    ),
    ("hadamard", {"scale": 1e39}, TOO_LARGE),
    (
        "kronecker",
        {"left": {"rows": place(0, "right", 0, 3)}},
        "columns of the Kronecker product differ, expected 12, got 9",
    ),
    ("kronecker", {"first": 4}, "6 rows from row 4 of a Kronecker product"),
    ("kronecker", {"first": 2**64 - 1}, "of a Kronecker product, expected it to have them"),
    (
        "kronecker",
        {"right": {"rows": place(0, "counts", 0, 3)}},
        "`right`: dtype I8 cannot be computed with",
    ),
    (
        "kronecker",
        {"left": {"low_rank": {"up": place(0, "up", 0, 3), "down": place(0, "left", 0, 1)}}},
        "`left`: rows of `down` differ, expected 2, got 1",
    ),
    ("kronecker", {"scale": 1e39}, TOO_LARGE),
    (
        "magnitude",
        {"values": place(0, "values", 0, 5)},
        "values of the magnitude differ, expected 6, got 5",
    ),
    ("magnitude", {"values": place(0, "counts", 0, 6)}, "dtype I8 cannot be computed with"),
    ("magnitude", {"strength": 1e39}, "strength 1000000000000000000000000000000000000000, exp"),
    ("magnitude", {"epsilon": -1e39}, "expected a finite f32"),
    ("magnitude", {"epsilon": -1e-9}, "epsilon -0.000000001, expected at least 0"),
    ("magnitude", {"axis": "columns"}, "a number for each column, expected one for each row"),
    ("magnitude", {"axis": "both"}, "not in the expected form"),
    ("kronecker", {"extra": 1}, "not in the expected form"),
]


@pytest.mark.parametrize(("kind", "change", "said"), REFUSALS)
def test_terms_that_do_not_fit_are_refused(
    tmp_path: Path, kind: str, change: dict[str, Any], said: str
) -> None:
    error = refused(tmp_path, {kind: GOOD[kind] | change})
    assert said in str(error)
    if "form" not in said:
        assert "plan unit `w`" in str(error)


PRODUCT = Thin(Rows(0, "up", 0, 6), Rows(0, "down", 0, 2))
CLASSES: dict[str, Term] = {
    "scaled": Scaled(Rows(0, "w", 0, 6), 1.0),
    "low_rank": LowRank(PRODUCT, 1.0),
    "multiplied": Multiplied(Thin(Rows(0, "square", 0, 12), PRODUCT.down), 1.0),
    "hadamard": Hadamard(PRODUCT, PRODUCT, 1.0),
    "kronecker": Kronecker(Rows(0, "left", 0, 3), Rows(0, "right", 0, 3), 3, 1.0),
    "magnitude": Magnitude(Rows(0, "values", 0, 6), "rows", "sum", 1.0, 0.0),
}


def test_what_multiplies_the_first_term_needs_one(tmp_path: Path) -> None:
    """What is added to a result has none."""
    term = {"multiplied": GOOD["multiplied"]}
    said = "a term that multiplies the first is the first, expected one before it"
    assert said in str(refused(tmp_path, term, added=True))
    plan = planned(tmp_path, term)
    plan["units"][0]["operands"][0].reverse()
    with pytest.raises(PlanError, match=said):
        execute(plan)


@pytest.mark.parametrize("kind", GOOD)
def test_the_classes_of_python_are_what_the_core_reads(kind: str) -> None:
    assert tagged(CLASSES[kind]) == {kind: GOOD[kind]}


def test_a_factor_of_a_kronecker_product_may_be_a_product() -> None:
    plain = Kronecker(PRODUCT, Rows(0, "right", 0, 3), 0, 2.0).plain()
    assert plain["left"] == {"low_rank": GOOD["hadamard"]["left"]}
    assert plain["right"] == {"rows": place(0, "right", 0, 3)}


@pytest.mark.parametrize("kind", [*GOOD])
def test_the_terms_that_are_changed_there_fit(tmp_path: Path, kind: str) -> None:
    execute(planned(tmp_path, {kind: GOOD[kind]}))


def test_a_magnitude_needs_something_before_it_and_cannot_be_added(tmp_path: Path) -> None:
    term = {"magnitude": GOOD["magnitude"]}
    error = refused(tmp_path, term, added=True)
    assert "added[0]: a magnitude, expected what can be added" in str(error)
    assert "give it to the operand whose length it sets" in (error.hint or "")
    terms = Terms(1, (6, 12), "F32")
    plan = job(tmp_path, [[terms.make("magnitude", 1.0)]], (6, 12))
    with pytest.raises(PlanError, match="a magnitude without a term before it"):
        execute(plan)


def test_what_is_added_must_fit_too(tmp_path: Path) -> None:
    term = {"low_rank": GOOD["low_rank"] | {"up": place(0, "up", 0, 5)}}
    error = refused(tmp_path, term, added=True)
    assert "plan unit `w`: added[0]: rows of `up` differ, expected 6, got 5" in str(error)


def test_equal_bytes_cannot_be_added_to(tmp_path: Path) -> None:
    terms = Terms(1, (6, 12), "F32")
    base, change = terms.make("rows", 1.0), terms.make("scaled", 1.0)
    plan = job(tmp_path, [[base], [base]], (6, 12), op={"same": {}}, added=[change])
    with pytest.raises(PlanError, match="`same` copies bytes, to which nothing can be added"):
        execute(plan)
