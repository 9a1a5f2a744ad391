"""Selectors that name a set of units reach exactly that set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submerge.blocks import Selector
from submerge.layout import Architecture, unit_shapes
from submerge.plan.words import selectors

SMALL = Architecture("flux1", (4, 5), 64, 16, 256, 64, 64, 48, 32, guidance=True)
UNITS = list(unit_shapes(SMALL))


def reached(texts: list[str]) -> set[str]:
    parsed = [Selector.parse(text, "here") for text in texts]
    return {unit for unit in UNITS if any(selector.matches(unit) for selector in parsed)}


@given(st.sets(st.sampled_from(UNITS), min_size=1))
def test_any_set_of_units(chosen: set[str]) -> None:
    assert reached(selectors(UNITS, chosen)) == chosen


@pytest.mark.parametrize(
    "text",
    [
        "**",
        "double",
        "double[0:2]",
        "double[1]",
        "single[0,2:4].mlp",
        "double[0:3].img.attn",
        "double.txt.mlp.in.weight",
        "embed.time",
        "guidance",
        "final.mod.shift",
    ],
)
def test_what_a_selector_reaches_is_named_by_it(text: str) -> None:
    assert selectors(UNITS, reached([text])) == [text]


def test_sets_are_named_in_execution_order() -> None:
    chosen = reached(["final", "single[1]", "double[0]", "guidance", "embed.img"])
    expected = ["embed.img", "guidance", "double[0]", "single[1]", "final"]
    assert selectors(UNITS, chosen) == expected


def test_names_that_are_no_units_of_flux() -> None:
    names = ["a", "a.b", "a.c", "steps"]
    assert selectors(names, ["a", "steps"]) == ["a", "steps"]
    assert selectors(names, ["a.b", "a.c"]) == ["a.b", "a.c"]
    assert selectors(names, []) == []


def test_names_with_empty_segments() -> None:
    names = [".", ".a", "a..b", "a.", "..", "double.0.", "double.0..x", "double.1.x"]
    assert selectors(names, ["."]) == ["."]
    assert selectors(names, [".a", "a..b"]) == [".a", "a..b"]
    assert selectors(names, ["a..b", "a."]) == ["a"]
    assert selectors(names, ["double.0.", "double.0..x"]) == ["double[0]"]
    assert selectors(names, ["double.0..x"]) == ["double[0]..x"]
