"""The reader of what users write: fields, all faults at once, paths, nearest names, the schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from submerge.errors import RecipeError
from submerge.given import (
    Count,
    Filled,
    Options,
    Record,
    Seed,
    declare,
    kind_of,
    listed,
    ranged,
    read_document,
    schema_of,
    whole,
)


@dataclass(frozen=True)
class Bean(Record):
    """A bean."""

    name: Filled = declare("What it is called.")
    colour: Literal["red", "white"] = declare("Its colour.", "white")
    length: Annotated[float, ranged(0, 9)] | None = declare("Millimetres.", None)


@dataclass(frozen=True)
class Soup(Record):
    """What is cooked."""

    beans: tuple[Bean, ...] = declare("The beans.")
    salt: float = declare("Grams.", 1.5)
    spoons: Annotated[tuple[int, ...], listed(kind_of(Count), least=1, distinct=True)] = (1,)
    lambda_: bool = declare("A word of Python's.", default=False)

    def check_together(self, where: str) -> None:
        """Refuse salt without beans."""
        if self.salt and not self.beans:
            raise RecipeError(f"{where}: salt alone, expected beans")


@dataclass(frozen=True, kw_only=True)
class Cooking(Options):
    """How it is cooked."""

    where: ClassVar[str] = "cooking"

    minutes: Annotated[int, whole(1, 100)] = 20
    seed: Seed | None = None


@dataclass(frozen=True, kw_only=True)
class Evening(Options):
    """Options that hold those of another."""

    passes_on: ClassVar[tuple[str, type[Record]] | None] = ("cooking", Cooking)

    guests: Count = 2
    cooking: Mapping[str, Any] = field(default_factory=dict)


def refused(read: Any, *arguments: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read(*arguments)
    return caught.value


GOOD = {"beans": [{"name": "navy"}], "lambda": True, "spoons": [2, 1], "salt": 2}


def test_a_mapping_becomes_a_record() -> None:
    soup = Soup.parse(GOOD, "soup")
    assert soup == Soup((Bean("navy"),), 2.0, (2, 1), lambda_=True)
    assert soup.written() == {
        "beans": [{"name": "navy"}], "salt": 2.0, "spoons": [2, 1], "lambda": True
    }  # fmt: skip
    assert Soup.parse(soup, "soup") is soup


def test_everything_wrong_is_told_at_once_with_its_path() -> None:
    raw = {
        "beans": [{"nmae": "navy"}, {"name": "", "colour": "whit", "length": 9.5}],
        "salt": math.nan, "spoons": [], "lambda": None, "pepper": 1,
    }  # fmt: skip
    error = refused(Soup.parse, raw, "soup")
    assert error.message.splitlines() == [
        "soup.beans[0].name: missing, expected it to be given",
        "soup.beans[0]: unknown field `nmae`, expected one of `name`, `colour`, `length`",
        "soup.beans[1].name: expected at least one character, got the text ``",
        "soup.beans[1].colour: expected one of `red`, `white`, got the text `whit`",
        "soup.beans[1].length: expected a number from 0 to 9, got 9.5",
        "soup.salt: expected a finite number, got nan",
        "soup.spoons: expected at least 1 item, got 0",
        "soup.lambda: is empty, expected a value",
        "soup: unknown field `pepper`, expected one of `beans`, `salt`, `spoons`, `lambda`",
    ]
    assert error.hint == "did you mean `name`?"
    assert [fault.message for fault in error.faults] == error.message.splitlines()
    assert error.faults[3].hint == "did you mean `white`?"


def test_fields_that_do_not_fit_together_are_told_when_each_is_right() -> None:
    assert refused(Soup.parse, {"beans": []}, "soup").message == "soup: salt alone, expected beans"
    assert "salt alone" not in str(refused(Soup.parse, {"beans": [], "x": 1}, "soup"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (3, "soup: expected a mapping, got 3"),
        ({"beans": []} | {1: 2}, "soup: the key 1 is not text, expected names as keys"),
        (GOOD | {"spoons": [1, 1]}, "soup.spoons: expected different items, got 1 twice"),
        (GOOD | {"spoons": [0, 2**31]}, "soup.spoons[0]: expected a whole number of at least 1, "),
        (GOOD | {"spoons": [2**31]}, "soup.spoons[0]: expected a whole number of at most 2^31 - 1"),
        (GOOD | {"spoons": True}, "soup.spoons: expected a list, got true"),
        (GOOD | {"salt": True}, "soup.salt: expected a number, got true"),
        (GOOD | {"salt": 10**400}, "soup.salt: expected a finite number, got a huge integer"),
        (GOOD | {"lambda": 1}, "soup.lambda: expected true or false, got 1"),
        (GOOD | {"a\x1b[2Jb" * 99: 1}, r"soup: unknown field `a\u{1b}[2Jb"),
    ],
)
def test_other_values_are_refused(raw: Any, message: str) -> None:
    error = refused(Soup.parse, raw, "soup")
    assert error.message.startswith(message)
    assert len(error.message) < 300
    assert "\x1b" not in str(error)


def test_numbers_of_other_libraries_are_numbers() -> None:
    read = kind_of(float).read
    assert [read(x, "") for x in (np.float32(0.5), np.int64(2), Fraction(1, 4), -0.0)] == [
        0.5, 2.0, 0.25, 0.0,
    ]  # fmt: skip
    assert math.copysign(1, read(-0.0, "")) == 1
    assert type(kind_of(int).read(np.int64(3), "")) is int
    for wrong in (np.bool_(1), "1", 1j, None, [1]):
        refused(read, wrong, "x")


def test_options_are_read_as_keywords_and_as_a_dict() -> None:
    assert Cooking.of({"minutes": 3, "seed": None}) == Cooking(minutes=3)
    assert Cooking.of(None) == Cooking()
    assert Cooking(minutes=3).with_(seed=1) == Cooking.of({"minutes": 3, "seed": 1})
    for act in (
        lambda: Cooking(minutes=0, seed=-1),
        lambda: Cooking.of({"minutes": 0, "seed": -1}),
    ):
        assert refused(act).message.splitlines() == [
            "cooking.minutes: expected a whole number from 1 to 99, got 0",
            "cooking.seed: expected a whole number of at least 0, got -1",
        ]
    assert refused(lambda: Cooking(minutes=1).with_(minutes=None)).message == (
        "cooking.minutes: expected a whole number, got nothing"
    )


def test_options_of_others_stand_beside_ones_own() -> None:
    evening = Evening.of({"guests": 3, "minutes": 7})
    assert evening == Evening(guests=3, cooking={"minutes": 7})
    error = refused(Evening.of, {"guests": 0, "minutes": 0, "sede": 1})
    assert error.message.splitlines() == [
        "options.guests: expected a whole number of at least 1, got 0",
        "options.minutes: expected a whole number from 1 to 99, got 0",
        "options: unknown field `sede`, expected one of `guests`, `cooking`, `minutes`, `seed`",
    ]
    assert error.faults[-1].hint == "did you mean `seed`?"


def test_the_schema_accepts_what_is_read() -> None:
    schema = schema_of(Soup, "soup")
    Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(schema)
    assert list(schema["$defs"]) == ["Bean"]
    assert schema["properties"]["salt"] == {
        "description": "Grams.", "default": 1.5, "type": "number"
    }  # fmt: skip
    assert check.is_valid(GOOD)
    for wrong in ({}, GOOD | {"x": 1}, GOOD | {"beans": [{}]}, GOOD | {"spoons": [1, 1]}):
        assert not check.is_valid(wrong)
        refused(Soup.parse, wrong, "soup")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', r"d.json.a: expected a finite number, got nan"),
        ('{"a": 1e999}', r"d.json.a: expected a finite number, got inf"),
        ('{"a": 1, "a": 2}', "d.json: `a` is given twice"),
        ('{"a": "\\ud800"}', "d.json.a: the text"),
        ('{"a\\u0000": 1}', "d.json: the text"),
        ("[" * 40 + "]" * 40, "d.json: nested deeper than 32 levels"),
        ("[" * 100_000, "d.json: nested deeper than 32 levels"),
        ("9" * 5000, "d.json: not JSON: "),
        ("{\n 'a'", "d.json:2:2: not JSON"),
    ],
)
def test_documents_are_plain_data(tmp_path: Any, text: str, message: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    assert refused(read_document, path).message.removeprefix(f"{tmp_path}/").startswith(message)
