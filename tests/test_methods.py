"""Methods and parameter values: weights against formulas written out here."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_units import flux_units
from planning import weights_of
from submerge.errors import RecipeError
from submerge.methods import METHODS, Linear, Setting, Take, notes_on, parse_method, plain_method
from submerge.values import PerModel, Selection, Value

UNITS = flux_units()
ALL = Selection.of(UNITS)
TWO = ["schnell", "krea"]
THREE = ["schnell", "krea", "dev"]


def alpha(raw: object) -> Linear:
    return Linear(alpha=Value.parse(raw, "alpha"))


def weight(raw: object, *, normalize: bool = True) -> Linear:
    return Linear(weight=PerModel.parse(raw, "weight"), normalize=normalize)


def second(method: Linear, selection: Selection = ALL) -> dict[str, float]:
    rows = weights_of(method, TWO, selection, "m")
    assert all(list(row) == TWO for row in rows.values())
    assert all(row["schnell"] == 1.0 - row["krea"] for row in rows.values())
    return {unit: row["krea"] for unit, row in rows.items()}


def test_there_are_as_many_units_as_flux_has() -> None:
    assert len(UNITS) == len(set(UNITS)) == 1162


def test_alpha_is_the_share_of_the_second_model() -> None:
    assert weights_of(alpha(0.3), TWO, ALL, "m")["final.linear.bias"] == {
        "schnell": 0.7,
        "krea": 0.3,
    }
    assert weights_of(alpha(0.3), TWO[::-1], ALL, "m")["final.linear.bias"] == {
        "krea": 0.7,
        "schnell": 0.3,
    }


def test_the_only_default_is_half_and_half() -> None:
    assert set(second(Linear()).values()) == {0.5}


@pytest.mark.parametrize("share", [0, 1])
def test_whole_models_have_whole_weights(share: int) -> None:
    assert set(second(alpha(share)).values()) == {float(share)}


def test_one_model_has_all_the_weight() -> None:
    assert weights_of(Linear(), ["a"], ALL, "m")["guidance.in.bias"] == {"a": 1.0}


def test_a_list_has_a_number_for_every_block_in_execution_order() -> None:
    numbers = [i / 100 for i in range(57)]
    found = second(alpha(numbers))
    for i in range(19):
        assert found[f"double.{i}.txt.mlp.in.bias"] == i / 100
    for i in range(38):
        assert found[f"single.{i}.norm.q.weight"] == (19 + i) / 100
    assert {found["embed.img.weight"], found["guidance.out.bias"]} == {0.0}
    assert {found["final.linear.weight"], found["final.mod.shift.bias"]} == {0.56}


def test_a_list_counts_the_selected_blocks_only() -> None:
    chosen = [unit for unit in UNITS if unit.startswith(("double.3.", "double.10.", "single.0."))]
    found = second(alpha([0.1, 0.2, 0.3]), Selection.of(chosen))
    assert found["double.3.img.mod.bias"] == 0.1
    assert found["double.10.img.mod.bias"] == 0.2
    assert found["single.0.mod.bias"] == 0.3


@given(
    start=st.floats(-2, 2),
    stop=st.floats(-2, 2),
    count=st.integers(2, 19),
)
def test_a_gradient_runs_in_equal_steps_and_meets_both_ends(
    start: float, stop: float, count: int
) -> None:
    units = [
        "embed.img.bias",
        *(f"double.{i}.img.mod.bias" for i in range(count)),
        "final.linear.bias",
    ]
    table = Value.parse({"from": start, "to": stop}, "alpha").table(Selection.of(units), "alpha")
    numbers = list(table.values())
    assert numbers[0] == numbers[1] == start
    assert numbers[-1] == numbers[-2] == stop
    for i, number in enumerate(numbers[1:-1]):
        assert number == pytest.approx(start + (stop - start) * i / (count - 1), abs=1e-12)


def test_the_first_selector_that_matches_decides() -> None:
    found = second(
        alpha(
            {
                "double[0:2].img": 0.1,
                "double": {"from": 0, "to": 1},
                "single[37]": [0.9],
                "default": 0.5,
            }
        )
    )
    assert found["double.1.img.attn.q.weight"] == 0.1
    assert found["double.1.txt.attn.q.weight"] == pytest.approx(1 / 18)
    assert found["double.18.img.norm.k.weight"] == 1.0
    assert found["single.37.out.bias"] == 0.9
    assert found["single.36.out.bias"] == found["embed.time.in.weight"] == 0.5


def test_units_decided_elsewhere_need_no_number() -> None:
    value = Value.parse({"double": 0.2}, "alpha")
    wanted = [unit for unit in UNITS if unit.startswith("double.")]
    assert set(value.table(Selection.of(UNITS, wanted), "alpha")) == set(wanted)


def test_weights_are_divided_by_their_sum() -> None:
    row = weights_of(weight({"krea": 3, "schnell": 1}), THREE, ALL, "m")["single.4.mod.bias"]
    assert row == {"schnell": 0.25, "krea": 0.75, "dev": 0.0}
    assert list(row) == THREE


def test_weights_can_stay_as_they_are() -> None:
    method = weight({"krea": 1, "schnell": 0.8, "dev": -0.8}, normalize=False)
    assert weights_of(method, THREE, ALL, "m")["embed.img.bias"] == {
        "schnell": 0.8,
        "krea": 1.0,
        "dev": -0.8,
    }


def test_weights_differ_by_block() -> None:
    method = weight({"schnell": {"double": 3, "default": 1}, "krea": 1})
    rows = weights_of(method, TWO, ALL, "m")
    assert rows["double.7.img.attn.v.bias"] == {"schnell": 0.75, "krea": 0.25}
    assert rows["single.7.attn.v.bias"] == {"schnell": 0.5, "krea": 0.5}


@given(st.permutations(THREE), st.tuples(*[st.floats(0.01, 10)] * 3))
def test_the_order_of_models_means_nothing_to_named_weights(
    order: list[str], numbers: tuple[float, float, float]
) -> None:
    raw = dict(zip(THREE, numbers, strict=True))
    one = weights_of(weight(raw), THREE, ALL, "m")
    other = weights_of(weight(dict(reversed(raw.items()))), order, ALL, "m")
    assert one == other


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=8))
def test_normalised_weights_are_shares(numbers: list[float]) -> None:
    models = [f"m{i}" for i in range(len(numbers))]
    row = weights_of(weight(dict(zip(models, numbers, strict=True))), models, ALL, "m")[UNITS[0]]
    for model, number in zip(models, numbers, strict=True):
        assert row[model] == pytest.approx(number / sum(numbers))


def test_take_is_one_model_whole() -> None:
    found = Take("krea").blends(Setting(tuple(THREE)), ALL, "m")["final.linear.bias"]
    assert (found.op, found.models) == ("copy", ("krea",))


def test_shares_outside_the_unit_interval_are_noted() -> None:
    rows = weights_of(alpha({"double": 1.5, "default": 0.5}), TWO, ALL, "m")
    (note,) = notes_on(rows, "recipe.method")
    count = sum(unit.startswith("double.") for unit in UNITS)
    assert note.startswith(
        f"recipe.method: shares from -0.5 to 1.5 in {count} units lie outside 0..1"
    )


def test_sums_other_than_one_are_noted() -> None:
    rows = weights_of(weight({"schnell": 1, "krea": 0.5}, normalize=False), TWO, ALL, "m")
    assert notes_on(rows, "m") == ["m: the weights of 1,162 units sum to 1.5, not 1"]


def test_ordinary_weights_are_not_noted() -> None:
    assert notes_on(weights_of(weight(dict.fromkeys(THREE, 0.1)), THREE, ALL, "m"), "m") == []


EMBEDDERS = [unit for unit in UNITS if unit.startswith("embed.")]
FAILURES: list[tuple[str, Any, list[str], list[str], str, str | None]] = [
    # name, method, models, units (empty: all), message, hint
    (
        "alpha of three",
        alpha(0.5),
        THREE,
        [],
        "m.alpha: the share of the second model, expected two models, got 3",
        "name them: `weight: {schnell: 1, krea: 1, dev: 1}`",
    ),
    (
        "alpha of one",
        alpha(0.5),
        ["a"],
        [],
        "m.alpha: the share of the second model, expected two models, got 1",
        "name them: `weight: {a: 1}`",
    ),
    (
        "unknown name",
        weight({"kera": 1}),
        TWO,
        [],
        "m.weight: no model is called `kera`, expected one of `schnell`, `krea`",
        "did you mean `krea`?",
    ),
    (
        "unknown take",
        Take("dev"),
        TWO,
        [],
        "m.take: no model is called `dev`, expected one of `schnell`, `krea`",
        None,
    ),
    (
        "both",
        Linear(Value.parse(0.5, ""), PerModel.parse({"krea": 1}, "")),
        TWO,
        [],
        "m: both `alpha` and `weight` are given, expected one of them",
        None,
    ),
    (
        "sum of 0",
        weight({"schnell": 1, "krea": -1}),
        TWO,
        [],
        (
            "m.weight: the weights of `embed.img.weight` cannot be normalised, "
            "expected a sum other than 0, got 0"
        ),
        "`method: {linear: {weight: ..., normalize: false}}` uses them as they are",
    ),
    (
        "sum of almost 0",
        weight({"schnell": 0.1, "krea": 0.2, "dev": -0.3}),
        THREE,
        [],
        (
            "m.weight: the weights of `embed.img.weight` cannot be normalised, "
            "expected a sum other than 0, got 2.77556e-17"
        ),
        "`method: {linear: {weight: ..., normalize: false}}` uses them as they are",
    ),
    (
        "huge",
        weight({"schnell": 1e308, "krea": 1e308}),
        TWO,
        [],
        "m.weight: the weights of `embed.img.weight` are too large to normalise",
        None,
    ),
    (
        "length",
        alpha([0.1, 0.2]),
        TWO,
        [],
        "m.alpha: a list takes one number per selected block, expected 57, got 2",
        "write `{from: a, to: b}` for numbers that fit any count of blocks",
    ),
    (
        "list without blocks",
        alpha([0.1]),
        TWO,
        EMBEDDERS,
        "m.alpha: a list takes one number per selected block, expected 0, got 1",
        None,
    ),
    (
        "gradient without blocks",
        alpha({"from": 0, "to": 1}),
        TWO,
        EMBEDDERS,
        "m.alpha: a gradient runs over blocks, expected at least one selected, got none",
        "write a plain number",
    ),
    (
        "no number for some",
        alpha({"double": 0.5, "single": 0.5, "embed": 0.1, "guidance": 0}),
        TWO,
        [],
        (
            "m.alpha: no selector matches 6 units: `final.mod.shift.weight`, "
            "`final.mod.shift.bias`, "
            "`final.mod.scale.weight`, `final.mod.scale.bias`, `final.linear.weight`, "
            "`final.linear.bias`"
        ),
        "add `default: <number>` for the rest",
    ),
]


@pytest.mark.parametrize(
    ("method", "models", "units", "message", "hint"),
    [pytest.param(*row[1:], id=row[0]) for row in FAILURES],
)
def test_what_does_not_fit_is_refused(
    method: Any, models: list[str], units: list[str], message: str, hint: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        method.blends(Setting(tuple(models)), Selection.of(units) if units else ALL, "m")
    assert caught.value.message == message
    assert caught.value.hint == hint


def test_a_selector_without_a_match_names_its_field_and_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        weights_of(alpha({"doubel[0:4]": 0.5, "default": 0}), TWO, ALL, "m")
    assert caught.value.message.startswith('m.alpha["doubel[0:4]"]: the selector `doubel[0:4]`')
    assert "double" in str(caught.value.hint)


def test_the_registry_knows_every_method_by_its_name() -> None:
    assert {name: kind.name for name, kind in METHODS.items()} == {name: name for name in METHODS}


@pytest.mark.parametrize(
    "raw",
    [
        {"linear": {"alpha": 0.25}},
        {"linear": {"alpha": [0.1, 0.2]}},
        {"linear": {"alpha": {"from": 0.0, "to": 1.0}}},
        {"linear": {"alpha": {"double": {"from": 0.0, "to": 1.0}, "default": 0.5}}},
        {
            "linear": {
                "weight": {"a": 1.0, "b": {"single": 2.0, "default": 1.0}},
                "normalize": False,
            }
        },
        {"linear": {}},
    ],
)
def test_methods_survive_the_round_trip(raw: dict[str, Any]) -> None:
    assert plain_method(parse_method(raw, "m")) == raw


def test_a_method_may_be_its_name_alone() -> None:
    assert parse_method("linear", "m") == parse_method({"linear": None}, "m") == Linear()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_kept_as_they_are(number: float) -> None:
    (found,) = set(
        Value.parse(number, "x").table(Selection.of(["final.linear.bias"]), "x").values()
    )
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number) or number == 0
