"""The recipe: which models, which method where, what to write. It says nothing about how to run.

`Recipe.load` reads a file, a text, a dict or a recipe; every error names its field, as in
`recipe.rules[0].alpha: expected a number, ...`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from submerge.blocks import Selector
from submerge.errors import RecipeError, quoted
from submerge.given import (
    declare,
    dump_yaml,
    kind_of,
    load_file,
    load_text,
    meant,
    named,
    one_of,
    plain_copy,
    schema_of,
    shown,
    whole,
)
from submerge.methods import Linear, Method, Setting, Take, plain_method
from submerge.recipe.advice import numbers_in
from submerge.recipe.fields import (
    Action,
    AdapterSource,
    Guidance,
    ModelSource,
    Rule,
)
from submerge.recipe.output import Output, plain_size
from submerge.recipe.saved import find_models, is_checkpoint, saved_recipe

__all__ = ["Recipe", "Step"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# Words that stand beside model names in a field.
_RESERVED = ("drop", "same", "default")
# No parents are that near, and beyond it a percentage is likelier.
_LARGEST_SHARE = 10
_NAMES = {"pattern": f"^{_NAME.pattern}$", "not": {"enum": list(_RESERVED)}}


class Step(NamedTuple):
    """A method and the units it is for.

    Attributes:
        path: the field it was written in, for messages: `recipe.rules[0]`.
        where: the selector, or None for every unit.
        method: what to do with the units.
    """

    path: str
    where: str | None
    method: Method


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe(Action):
    """What the user means; read one with `Recipe.load`. See docs/recipes.md for every field.

    At the top level `alpha`, `weight`, `method` and `take` are written as in a rule and act on
    every unit that no rule reaches; with none of them two models are merged half and half.
    `steps()` holds what they mean.
    """

    schema_also: ClassVar[dict[str, Any]] = {"oneOf": [*Action.ONE, {"not": {"anyOf": Action.ONE}}]}

    models: Annotated[dict[str, ModelSource], named(kind_of(ModelSource), "model", _NAMES)] = (
        declare("The models by name, in order: `alpha` is the second's share.")
    )
    rules: tuple[Rule, ...] = declare(
        "What differs from the top level, and where; the first rule that matches decides.", ()
    )
    include: tuple[str, ...] = declare(
        "Selectors: merge only these units and take the rest from the first model.", ()
    )
    exclude: tuple[str, ...] = declare("Selectors: take these units from the first model.", ())
    guidance: Guidance = declare(
        "What becomes of the guidance embedder when a parent has none.", Guidance()
    )
    extras: str | None = declare(
        "A model's name, or `drop`: whose VAE and text encoders to keep, where files hold them.",
        None,
    )
    adapters: tuple[AdapterSource, ...] = declare(
        "LoRAs and other adapters, added in this order while the models are merged.", ()
    )
    output: Output = declare("What is written, and how.", Output())
    base: str | None = declare("A model's name: what methods on differences take them from.", None)
    seed: Annotated[int, whole(below=1 << 64)] = declare(
        "Seed of methods that draw random numbers.", 0
    )
    scope: Literal["unit", "tensor"] = declare(
        "What methods look at before they merge: units, the same in every layout, or the tensors "
        "of the files, as other programs do.",
        "unit",
    )
    compat: Literal["mergekit"] | None = declare(
        "Whose arithmetic methods follow where it differs from that of their papers.", None
    )

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Recipe) -> Self:
        """Read a recipe from a file, a text, a dict or another recipe.

        A text with a line break or an opening brace is read as YAML or JSON; any other is a path.
        The path of an output that submerge wrote stands for the recipe in its metadata, and its
        models are looked for beside it and in the current folder.

        Raises:
            RecipeError: malformed; the message begins with the path of the field.
            CheckpointError: an output that is damaged.
            OSError: the file cannot be read.
        """
        return cls._checked(_read(source))

    @classmethod
    def for_models(
        cls,
        models: Mapping[str, str | os.PathLike[str]],
        config: str | os.PathLike[str] | Mapping[str, Any] | None,
    ) -> Self:
        """Read a recipe that leaves `models` out, and merge these.

        Raises:
            RecipeError: as `load`, and when the configuration names models itself.
            OSError: the file cannot be read.
        """
        data = {} if config is None else _read(config)
        if isinstance(data, dict):
            if "models" in data:
                raise RecipeError(
                    "recipe.models: given already, expected a recipe without `models`",
                    hint="leave `models` out, or merge the recipe as it is",
                )
            data = {"models": plain_copy(models, "recipe.models"), **data}
        return cls._checked(data)

    @classmethod
    def _checked(cls, data: object) -> Self:
        if not isinstance(data, dict):
            raise RecipeError(
                f"recipe: expected a mapping with `models`, got {shown(data)}",
                hint="`submerge recipe new` prints a template",
            )
        return cls.parse(data, "recipe")

    def check_together(self, where: str) -> None:
        """Refuse several actions, names and selectors that are malformed, unknown models."""
        given = self.given()
        if len(given) > 1:
            got = ", ".join(map(quoted, given))
            raise RecipeError(
                f"{where}: expected at most one of `alpha`, `weight`, `method`, `take`, got {got}",
                hint=self.beside(),
            )
        for name in self.models:
            if not _NAME.fullmatch(name):
                raise RecipeError(
                    f"{where}.models: the name {quoted(name)} is malformed, "
                    "expected a letter and then letters, digits, `_` or `-`"
                )
            if name in _RESERVED:
                raise RecipeError(
                    f"{where}.models: the name {quoted(name)} has a meaning of its own, "
                    "expected another"
                )
        if self.base is not None and self.base not in self.models:
            raise _no_model(f"{where}.base", self.base, list(self.models))
        for step in self.steps():
            step.method.check(self.setting(), step.path)
            _refuse_percent(step)
        for field in ("include", "exclude"):
            for i, text in enumerate(getattr(self, field)):
                Selector.parse(text, f"{where}.{field}[{i}]")
        self._check_names(where)

    def _check_names(self, where: str) -> None:
        """Refuse names of models that are not in the recipe."""
        for i, adapter in enumerate(self.adapters):
            if adapter.onto not in (None, *self.models):
                raise _no_model(f"{where}.adapters[{i}].onto", str(adapter.onto), list(self.models))
        made = self.output.adapter
        if made is not None and made.onto not in self.models:
            raise _no_model(f"{where}.output.adapter.onto", made.onto, list(self.models))
        if self.extras not in (None, "drop", *self.models):
            raise _no_model(f"{where}.extras", str(self.extras), [*self.models, "drop"])
        for field in ("pipeline_from", "scheduler_from"):
            name = getattr(self.output, field)
            # Anything that could not be a model's name is a path.
            if name is not None and _NAME.fullmatch(name) and name not in self.models:
                error = _no_model(f"{where}.output.{field}", name, list(self.models))
                raise RecipeError(
                    error.message, hint=error.hint or f"for a folder write `./{name}`"
                )

    def with_adapters(self, adapters: Sequence[str | Mapping[str, Any]]) -> Recipe:
        """Return the recipe with further adapters, as its field `adapters` takes them.

        Raises:
            RecipeError: malformed, or onto a model that there is not.
        """
        if isinstance(adapters, str):
            raise RecipeError(
                f"adapters: expected a list, got the text {quoted(adapters)}",
                hint="a path alone stands in a list, too",
            )
        if not adapters:
            return self
        data = self.to_dict()
        return Recipe.load(data | {"adapters": [*data.get("adapters", ()), *adapters]})

    def setting(self) -> Setting:
        """Return what methods are told of the recipe around them."""
        return Setting(tuple(self.models), self.base, self.seed, self.compat)

    def steps(self) -> tuple[Step, ...]:
        """Return the rules in order and then what the top level says, each method resolved.

        The first step whose selector reaches a unit decides that unit.
        """
        top = self._top()
        base = _base(top)
        last = "recipe" if self.method is None else f"recipe.method.{self.method.name}"
        rules = [
            Step(_inside(f"recipe.rules[{i}]", rule), rule.where, rule.resolve(base))
            for i, rule in enumerate(self.rules)
        ]
        return (*rules, Step(last, None, top))

    def _top(self) -> Method:
        """Return what the top level says; nothing said merges two models half and half."""
        alone = len(self.models) == 1 and not self.given()
        return Take(next(iter(self.models))) if alone else self.resolve(Linear())

    def to_dict(self) -> dict[str, Any]:
        """Return the normal form: plain data, the method always, other defaults left out.

        However a recipe is spelled, its meaning has one normal form; `Recipe.load` reads it back.
        """
        *rules, last = self.steps()
        base = _base(last.method)
        data: dict[str, Any] = {
            "models": {name: source.plain() for name, source in self.models.items()},
            **_plain_action(last.method),
        }
        if rules:
            data["rules"] = [
                {"where": step.where, **_short_action(step.method, base)} for step in rules
            ]
        data |= {
            field: list(found)
            for field in ("include", "exclude")
            if (found := getattr(self, field))
        }
        if self.guidance != Guidance():
            data["guidance"] = self.guidance.plain()
        if self.extras is not None:
            data["extras"] = self.extras
        if self.base is not None:
            data["base"] = self.base
        if self.adapters:
            data["adapters"] = [adapter.plain() for adapter in self.adapters]
        output = self.output.written()
        if "shard_size" in output:
            output["shard_size"] = plain_size(output["shard_size"])
        return (
            data
            | ({"output": output} if output else {})
            | ({"seed": self.seed} if self.seed else {})
            | ({"scope": self.scope} if self.scope != "unit" else {})
            | ({"compat": self.compat} if self.compat else {})
        )

    def to_yaml(self) -> str:
        """Return the normal form as YAML 1.2."""
        return dump_yaml(self.to_dict())

    def to_json(self) -> str:
        """Return the normal form as compact JSON, the form `digest` is taken of.

        The order of the models and of selectors has a meaning, so keys are not sorted.
        """
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 of the normal form, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Recipe) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of a recipe as it is written."""
        return schema_of(cls, "submerge recipe")


def _read(source: object) -> Any:
    if isinstance(source, Recipe):
        return source.to_dict()
    if isinstance(source, Mapping):
        return plain_copy(source, "recipe")
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        return plain_copy(load_text(source, "recipe"), "recipe")
    if isinstance(source, str | os.PathLike):
        path = Path(os.fsdecode(os.fspath(source)))
        if is_checkpoint(path):
            return find_models(saved_recipe(path), path)
        return plain_copy(load_file(path), "recipe")
    raise RecipeError(
        f"recipe: expected a path, a text, a mapping or a Recipe, got {shown(source)}"
    )


def _refuse_percent(step: Step) -> None:
    """Refuse a share that nobody means: `alpha: 50` is half."""
    for alpha in numbers_in(step.method.written().get("alpha")):
        if abs(alpha) > _LARGEST_SHARE:
            raise RecipeError(
                f"{step.path}.alpha: expected a share from 0 to 1, got {alpha:g}",
                hint=f"did you mean {alpha / 100:g}? beyond 1 a share extrapolates, by "
                f"{_LARGEST_SHARE} at most",
            )


def _inside(path: str, rule: Rule) -> str:
    """Return the path that a rule's parameters are reported under."""
    return path if rule.method is None else f"{path}.method.{rule.method.name}"


def _no_model(where: str, name: str, choices: Sequence[str]) -> RecipeError:
    return RecipeError(
        f"{where}: no model is called {quoted(name)}, expected one of {one_of(choices)}",
        hint=meant(name, choices),
    )


def _base(top: Method) -> Linear:
    """Return the method whose parameters a rule's `alpha` or `weight` replaces."""
    return top if isinstance(top, Linear) else Linear()


def _plain_action(method: Method) -> dict[str, Any]:
    return (
        {"take": method.model}
        if isinstance(method, Take)
        else {"method": plain_method(_spelled(method))}
    )


def _short_action(method: Method, base: Linear) -> dict[str, Any]:
    """Return a rule's action, as `alpha` or `weight` alone where that says it all."""
    method = _spelled(method)
    if isinstance(method, Linear) and method.alpha is not None:
        return {"alpha": method.alpha.plain()}
    if (
        isinstance(method, Linear)
        and method.weight is not None
        and method.normalize == base.normalize
    ):
        return {"weight": method.weight.plain()}
    return _plain_action(method)


def _spelled(method: Method) -> Method:
    """Return a linear method with the share it has when none is given."""
    bare = isinstance(method, Linear) and method.alpha is None and method.weight is None
    return (
        Linear(Linear.EVEN, normalize=method.normalize)
        if isinstance(method, Linear) and bare
        else method
    )
