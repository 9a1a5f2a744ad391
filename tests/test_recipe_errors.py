"""What is no recipe: every refusal, the field it names and the hint it gives."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import factory
from submerge.errors import RecipeError
from submerge.recipe import Recipe
from submerge.recipe.importers import import_recipe

DATA = Path(__file__).parent / "data" / "recipes"
SCHEMA = Draft202012Validator(Recipe.schema())
TWO = {"schnell": "a.safetensors", "krea": "b"}
# Each row: what is added to a recipe of two models, how the message begins, a part of the hint, and
# whether the schema refuses it as well.
REFUSED = json.loads((DATA / "refused.json").read_text(encoding="utf-8"))
# Each row: a text, the whole message as a regular expression, a part of the hint.
MALFORMED = json.loads((DATA / "malformed.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row["name"])
def test_what_is_wrong_is_named(row: dict[str, Any]) -> None:
    written = {"models": TWO} | row["recipe"]
    with pytest.raises(RecipeError) as caught:
        Recipe.load(written)
    assert caught.value.message.startswith(row["message"])
    assert row["hint"] is None or row["hint"] in str(caught.value.hint)
    if row["by_schema"]:
        assert not SCHEMA.is_valid(written)


def test_every_error_at_once() -> None:
    data = {"models": {"a": 1}, "seed": "x", "output": {"card": 1}, "rules": [{"alpha": 1}]}
    with pytest.raises(RecipeError) as caught:
        Recipe.load(data)
    assert caught.value.message.splitlines() == [
        "recipe.models.a: expected a path or {path, layout, nvfp4, license}, got 1",
        "recipe.rules[0].where: missing, expected it to be given",
        "recipe.output.card: expected true or false, got 1",
        "recipe.seed: expected a whole number, got the text `x`",
    ]


def test_many_errors_are_counted() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load({"models": TWO, "rules": [3] * 14})
    assert caught.value.message.splitlines()[-1] == "and 4 more"
    assert len(caught.value.message.splitlines()) == 11


BOMB = "models: {a: x}\nrules:\n" + "".join(
    f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(10)
)
OVERSIZED = {
    "aliases": ("models: {a: &a x}\nrules: [" + "*a, " * 101 + "]\n", "more than 100 aliases"),
    "expansion": (BOMB, "more than 100,000 values"),
    "depth": ("models: " + "[" * 40 + "]" * 40 + "\n", "nested deeper than 32 levels"),
    "depth in JSON": (
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "nested deeper than 32 levels",
    ),
    "text": ("#" * (1 << 20) + "\n", "larger than 1,048,576 bytes"),
    "digits": ('{"seed": ' + "9" * 5000 + "}", "not JSON: .*"),
}


@pytest.mark.parametrize("name", OVERSIZED)
def test_oversized_texts_are_refused(name: str) -> None:
    text, message = OVERSIZED[name]
    with pytest.raises(RecipeError, match=f"^recipe: {message}"):
        Recipe.load(text)


@pytest.mark.parametrize("row", MALFORMED, ids=lambda row: row["name"])
def test_text_that_is_no_recipe_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(row["text"])
    assert re.fullmatch(row["message"], caught.value.message)
    assert row["hint"] is None or row["hint"] in str(caught.value.hint)


def test_oversized_files_of_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"models": {}}' + " " * (1 << 20))
    with pytest.raises(RecipeError, match=r"a\.json: larger than 1,048,576 bytes"):
        Recipe.load(path)
    with pytest.raises(RecipeError, match=r"larger than 1,048,576 bytes"):
        import_recipe('{"1": "' + "x" * (1 << 20) + '"}')


def test_keys_are_text() -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.rules\[0\]: the key 1 is not text") as caught:
        Recipe.load({"models": TWO, "rules": [{1: 2}]})
    assert caught.value.hint == 'quote it: "1"'


def test_a_cyclic_dict_is_refused() -> None:
    data: dict[str, Any] = {"models": TWO}
    data["rules"] = data
    with pytest.raises(RecipeError, match="nested deeper than 32 levels"):
        Recipe.load(data)


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    for name, text, message in (
        ("a.yaml", "models: [\n", "a.yaml:2:1: not YAML"),
        ("b.json", '{"models":}', "b.json:1:11: not JSON"),
        ("c.yaml", "models: {}\nmodels: {}\n", "c.yaml:2:1: `models` is given twice"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(RecipeError, match=re.escape(message)):
            Recipe.load(tmp_path / name)


def test_binary_files_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"models: \xff\xfe")
    with pytest.raises(RecipeError, match="byte 8 is not UTF-8"):
        Recipe.load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\0" * ((1 << 20) + 1))
    with pytest.raises(RecipeError, match="larger than 1,048,576 bytes"):
        Recipe.load(tmp_path / "b.yaml")
    model = factory.save_file(tmp_path / "model.safetensors", factory.SCHNELL)
    with pytest.raises(RecipeError, match="a checkpoint without a recipe of submerge in it"):
        Recipe.load(model)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Recipe.load(tmp_path / "nowhere.yaml")


def test_other_sources_are_refused() -> None:
    with pytest.raises(RecipeError, match="expected a path, a text, a mapping or a Recipe, got 3"):
        Recipe.load(3)  # type: ignore[arg-type] # what the test is about


def test_models_given_twice_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"recipe\.models: given already"):
        Recipe.for_models({"a": "x"}, {"models": {"b": "y"}})


def test_a_recipe_does_not_change() -> None:
    recipe = Recipe.load({"models": TWO})
    with pytest.raises(FrozenInstanceError):
        recipe.seed = 3  # type: ignore[misc] # what the test is about
