"""What there is to say of every method, from the methods themselves: a table, a page, JSON."""

from __future__ import annotations

import inspect
import json
import typing
from dataclasses import dataclass
from typing import Any

from submerge.errors import RecipeError, quoted
from submerge.given import meant, plain
from submerge.methods.parameters import EachModel
from submerge.methods.registry import METHODS
from submerge.values import PerModel, Value

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.methods.base import Method

__all__ = ["Catalogue", "Entry", "Parameter", "catalogue"]

_KINDS: dict[Any, str] = {
    Value: "value",
    PerModel: "value for each model",
    EachModel: "value, or one for each model",
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "model",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its name in recipes, what it takes, what it is left out, and what it means."""

    name: str
    kind: str
    default: Any
    meaning: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A method in words.

    Attributes:
        name: the word recipes use.
        summary: what it does, in a sentence.
        more: what else there is to say.
        formula: the result in one line.
        passes: how often a unit is read.
        state: what is kept of a unit between its passes.
        source: where formula and defaults come from.
        parameters: in the order they are declared.
        equal: how far results in F32 agree with those of others, by name.
    """

    name: str
    summary: str
    more: str
    formula: str
    passes: int
    state: str
    source: str
    parameters: tuple[Parameter, ...]
    equal: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All methods a recipe can name."""

    entries: tuple[Entry, ...]

    def of(self, names: Sequence[str]) -> Catalogue:
        """Return the methods of these names; all of them if there are none.

        Raises:
            RecipeError: an unknown name.
        """
        for name in names:
            if name not in METHODS:
                raise RecipeError(
                    f"methods: no method is called {quoted(name)}", hint=meant(name, METHODS)
                )
        return Catalogue(tuple(e for e in self.entries if not names or e.name in names))

    def to_dict(self) -> dict[str, Any]:
        """Return the entries as plain data, by name."""
        return {
            entry.name: {
                "summary": entry.summary,
                "more": entry.more,
                "formula": entry.formula,
                "passes": entry.passes,
                "state": entry.state,
                "source": entry.source,
                "equal": dict(entry.equal),
                "parameters": {
                    p.name: {"takes": p.kind, "default": p.default, "meaning": p.meaning}
                    for p in entry.parameters
                },
            }
            for entry in self.entries
        }

    def to_json(self) -> str:
        """Return the same as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return a block of lines for each method."""
        return "\n\n".join("\n".join(_lines(entry)) for entry in self.entries)

    def page(self) -> str:
        """Return the table and a section for each method, in Markdown."""
        rows = [
            f"| [`{e.name}`](#{e.name}) | `{e.formula.replace('|', chr(92) + '|')}` | {e.passes} "
            f"| {e.state} |"
            for e in self.entries
        ]
        head = ["| method | result | reads | keeps of a unit |", "|---|---|---|---|"]
        return "\n".join([*head, *rows]) + "\n\n" + "\n".join(map(_section, self.entries))


def catalogue() -> Catalogue:
    """Return all methods, in the order of the registry."""
    return Catalogue(tuple(map(_entry, METHODS.values())))


def _entry(kind: type[Method]) -> Entry:
    summary, _, more = inspect.cleandoc(kind.__doc__ or "").partition("\n")
    parameters = tuple(
        Parameter(name, _takes(field.hint), plain(field.default), field.description)
        for name, field in kind.parameters().items()
    )
    return Entry(
        name=kind.name,
        summary=summary,
        more=" ".join(more.split()),
        formula=kind.formula,
        passes=kind.passes,
        state=kind.state,
        source=kind.source,
        parameters=parameters,
        equal=dict(kind.equal),
    )


def _takes(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{word}`" for word in typing.get_args(hint))
    return _KINDS[hint] if hint in _KINDS else _takes(typing.get_args(hint)[0])


def _lines(entry: Entry) -> list[str]:
    lines = [
        entry.name,
        f"  {entry.summary}",
        f"  result = {entry.formula}",
        f"  reads every unit {_times(entry.passes)}, keeps {entry.state}",
        f"  source {entry.source}",
        f"  equal to {_equal(entry)}",
    ]
    if entry.more:
        lines.insert(2, f"  {entry.more}")
    width = max((len(p.name) for p in entry.parameters), default=0)
    return lines + [
        f"    {p.name:<{width}}  {p.meaning} [{p.kind}{_default(p)}]" for p in entry.parameters
    ]


def _equal(entry: Entry) -> str:
    named = {"numpy": "its formula in numpy"}
    return "; ".join(f"{named.get(other, other)} {how}" for other, how in entry.equal.items())


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"at most {count} times")


def _default(parameter: Parameter) -> str:
    if parameter.default is None:
        return ""
    if isinstance(parameter.default, bool):
        return f", {str(parameter.default).lower()}"
    return f", {parameter.default}"


def _section(entry: Entry) -> str:
    lines = [
        f"## {entry.name}",
        "",
        f"{entry.summary} {entry.more}".strip(),
        "",
        "```text",
        f"result = {entry.formula}",
        "```",
        "",
        f"Reads every unit {_times(entry.passes)} and keeps {entry.state}. Source: {entry.source}.",
        "",
        f"Equal to {_equal(entry)}.",
        "",
    ]
    if entry.parameters:
        lines += ["| parameter | takes | left out | |", "|---|---|---|---|"]
        lines += [
            f"| `{p.name}` | {p.kind} | {_default(p)[2:]} | {p.meaning} |" for p in entry.parameters
        ]
        lines.append("")
    return "\n".join(lines)
