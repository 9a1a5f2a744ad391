"""Adapters in a plan: which terms each adds to which unit, at which strength.

An adapter onto a model is a part of that model: terms of its operand, before any method sees it.
One onto the result is added to what the method makes, before the one rounding. Units that an
adapter does not touch, or touches at strength 0, are as they would be without it.
"""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from submerge.adapters import (
    F32_MAX,
    Difference,
    Factors,
    Hadamard,
    Kronecker,
    Magnitude,
    Multiplied,
    Product,
    Replacement,
    in_words,
    resolve,
    spans,
)
from submerge.adapters.keys import ENCODERS, split
from submerge.errors import AdapterError, RecipeError, listing, quoted
from submerge.methods import number_in_words
from submerge.plan import terms as t
from submerge.plan.labels import label
from submerge.values import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from submerge.adapters import Adapter, Part, Resolved, Span
    from submerge.layout import Architecture, Model
    from submerge.plan.terms import Rows, Term
    from submerge.recipe import AdapterSource

__all__ = [
    "Fused",
    "added",
    "expect_change",
    "expect_matched",
    "expect_used",
    "fuse",
    "strengths_of",
]


class Fused(NamedTuple):
    """One adapter of a recipe, resolved on the model it is for.

    Attributes:
        name: what it is called in formulas.
        field: where the recipe names it.
        onto: the model it is added to, or None for the result.
        source: what the recipe says of it.
        adapter: the opened file.
        resolved: what it does to which unit.
        strengths: by unit, only those it changes.
        encoders: the same of its parts for text encoders that are written too, by their titles.
    """

    name: str
    field: str
    onto: str | None
    source: AdapterSource
    adapter: Adapter
    resolved: Resolved
    strengths: Mapping[str, float]
    encoders: Mapping[str, Fused] = MappingProxyType({})

    def words(self, unit: str) -> str:
        """Return what it adds to a unit, in words: `0.80 * style`."""
        strength = self.strengths[unit]
        return self.name if strength == 1 else f"{number_in_words(strength)} * {self.name}"

    @property
    def kind(self) -> str:
        """What it is, in words: `LoRA, kohya names, 304 modules, rank 16`."""
        return in_words(self.resolved.targets)

    def nbytes(self, unit: str) -> int:
        """Return the bytes of its file that a unit is made with."""
        tensors = self.adapter.checkpoint.tensors
        rows = [span for delta in self.resolved.deltas[unit] for span in spans(delta)]
        return sum(
            tensors[name].nbytes * (end - start) // max(1, tensors[name].rows)
            for name, start, end in rows
        )


def fuse(
    sources: Sequence[AdapterSource],
    adapters: Sequence[Adapter],
    models: Mapping[str, Model],
    units: Sequence[str],
    parts: Sequence[Sequence[Part]] = (),
) -> tuple[Fused, ...]:
    """Return adapters on their models.

    Args:
        sources: what a recipe says of each adapter.
        adapters: the opened files, one for each.
        models: the opened models by name.
        units: every unit of the models, which lists and gradients of `scale` run over.
        parts: for each adapter its parts for text encoders that are written; none if left out.

    Raises:
        AdapterError: keys without a place in the model, shapes of another one, nothing to change.
        RecipeError: a `scale` that does not fit the units.
    """
    names = _names_of(sources, models)
    found = []
    for at, (source, adapter) in enumerate(zip(sources, adapters, strict=True)):
        # A model alone is the result.
        onto = source.onto or (next(iter(models)) if len(models) == 1 else None)
        arch = _arch(models, onto)
        resolved = resolve(adapter, arch, source.compat)
        beside = parts[at] if parts else ()
        expect_matched(adapter, resolved, source)
        for part in beside:
            expect_matched(part.adapter, part.resolved, source)
        expect_change(adapter, resolved, *(part.resolved for part in beside))
        field = f"recipe.adapters[{at}]"
        inside = [unit for unit in units if unit in resolved.deltas]
        outside = [unit for part in beside for unit in part.resolved.deltas]
        selection = Selection.of((*units, *outside), (*inside, *outside))
        scale = _scale(source, selection, field)
        own = Fused(names[at], field, onto, source, adapter, resolved, _strong(resolved, scale))
        encoders = {
            part.title: own._replace(
                adapter=part.adapter,
                resolved=part.resolved,
                strengths=_strong(part.resolved, scale),
            )
            for part in beside
        }
        found.append(own._replace(encoders=encoders))
    return tuple(found)


def strengths_of(
    source: AdapterSource, resolved: Resolved, units: Sequence[str], field: str
) -> dict[str, float]:
    """Return the strength at each unit that an adapter changes.

    Args:
        source: what is asked of the adapter.
        resolved: what it does to which unit.
        units: every unit of the model, which lists and gradients run over.
        field: where that is asked, for messages.

    Raises:
        RecipeError: strengths that do not fit the units, or that f32 does not hold.
    """
    selection = Selection.of(units, [unit for unit in units if unit in resolved.deltas])
    return _strong(resolved, _scale(source, selection, field))


def _scale(source: AdapterSource, selection: Selection, field: str) -> Mapping[str, float]:
    """Return the strength at each selected unit; raises as `strengths_of`."""
    scale = source.scale.table(selection, f"{field}.scale")
    for unit, strength in scale.items():
        if abs(strength) > F32_MAX:
            raise RecipeError(
                f"{field}.scale: {strength:g} for {quoted(unit)}, expected a number that f32 holds",
                hint="strengths are mostly between -2 and 2",
            )
    return scale


def _strong(resolved: Resolved, scale: Mapping[str, float]) -> dict[str, float]:
    """Return the strength at each unit that is changed at one other than 0."""
    return {unit: scale[unit] for unit in resolved.deltas if scale.get(unit, 0) != 0}


def _names_of(sources: Sequence[AdapterSource], models: Container[str]) -> list[str]:
    """Return what each adapter is called: its label, made unlike those of models and others."""
    names: list[str] = []
    for source in sources:
        own = label(source.path).rpartition("/")[2]
        name, number = own, 1
        while name in models or name in names:
            number += 1
            name = f"{own}-{number}"
        names.append(name)
    return names


def _arch(models: Mapping[str, Model], onto: str | None) -> Architecture:
    """Return the architecture of a model; the result has guidance if any model has it."""
    if onto is not None:
        return models[onto].arch
    guided = any(model.arch.guidance for model in models.values())
    return replace(next(iter(models.values())).arch, guidance=guided)


def expect_matched(adapter: Adapter, resolved: Resolved, source: AdapterSource) -> None:
    """Refuse keys that have no place in the model and are not allowed to have none."""
    lost = {key: why for key, why in resolved.unmatched.items() if not _allows(source.allow, key)}
    if lost:
        first = next(iter(lost))
        parts = split(first)
        entry = (first if parts is None else parts.stem).replace("\n", "\\u{a}")
        raise AdapterError(
            f"{adapter.path}: {listing(list(lost), noun='key')} without a place in the model "
            f"({lost[first]}), expected every key to have one",
            hint=f"`allow: [{entry}]` leaves it out, `--allow` on the command line; patterns may "
            "hold `*`",
        )


def expect_change(adapter: Adapter, *resolved: Resolved) -> None:
    """Refuse an adapter that changes nothing of what is written."""
    if any(found.deltas for found in resolved):
        return
    elsewhere = ", ".join(adapter.elsewhere) or "nothing"
    encodes = not set(adapter.elsewhere).isdisjoint(ENCODERS)
    raise AdapterError(
        f"{adapter.path}: changes nothing in the transformer, expected a part for it, got parts "
        f"for: {elsewhere}",
        hint="parts for text encoders are added where a pipeline is written: `pipeline_from`"
        if encodes
        else "`submerge lora info` lists what the file holds",
    )


def _allows(allowed: Sequence[str], key: str) -> bool:
    return any(
        key == entry or key.startswith(f"{entry}.") or fnmatch.fnmatchcase(key, entry)
        for entry in allowed
    )


def added(
    fused: Fused, unit: str, before: tuple[Term, ...], rows: Callable[[Span], Rows]
) -> tuple[Term, ...]:
    """Return the terms of a unit once an adapter is added to them.

    Args:
        fused: the adapter.
        unit: one that it changes.
        before: the terms so far; none where it is added to the result of a method.
        rows: says where a span of the adapter's file lies.

    Raises:
        AdapterError: it replaces what others changed, or sets lengths of what is no model.
    """
    strength, deltas = fused.strengths[unit], fused.resolved.deltas[unit]
    whole = any(isinstance(delta, Magnitude) and delta.whole for delta in deltas)
    found = list(before)
    for delta in deltas:
        if isinstance(delta, Replacement):
            found = _replaced(fused, unit, found, rows(delta.rows))
        elif isinstance(delta, Magnitude):
            if not before:
                raise _needs_model(fused, unit, "sets the lengths of rows")
            if delta.axis == "columns":
                raise AdapterError(
                    f"{fused.field}: {quoted(fused.name)} sets the lengths of columns of "
                    f"{quoted(unit)}, expected one number for each row",
                    hint="fuse it with the program that made it: a merge that streams rows does "
                    "not see whole columns",
                )
            found.append(
                t.Magnitude(rows(delta.values), delta.axis, delta.norm, strength, delta.epsilon)
            )
        else:
            if isinstance(delta, Multiplied) and not isinstance((*before, None)[0], t.Rows):
                raise _needs_model(fused, unit, "multiplies the weight")
            found.append(_term(delta, 1.0 if whole else strength, rows))
    return tuple(found)


def _term(
    delta: Product | Multiplied | Hadamard | Kronecker | Difference,
    strength: float,
    rows: Callable[[Span], Rows],
) -> Term:
    """Return what a delta adds, at a strength."""

    def pair(factors: Factors) -> t.Thin:
        return t.Thin(rows(factors.up), rows(factors.down))

    def factor(found: Span | Factors) -> Rows | t.Thin:
        return pair(found) if isinstance(found, Factors) else rows(found)

    scale = strength * delta.scale
    match delta:
        case Product(factors):
            return t.LowRank(pair(factors), scale)
        case Multiplied(factors):
            return t.Multiplied(pair(factors), scale)
        case Hadamard(left, right):
            return t.Hadamard(pair(left), pair(right), scale)
        case Kronecker(left, right, first):
            return t.Kronecker(factor(left), factor(right), first, scale)
    return t.Scaled(rows(delta.rows), scale)


def _replaced(fused: Fused, unit: str, before: Sequence[Term], rows: Rows) -> list[Term]:
    """Return the terms that go from what is there to what replaces it."""
    strength = fused.strengths[unit]
    if not before:
        raise _needs_model(fused, unit, "replaces numbers")
    if strength == 1:
        return [rows]
    (first, *others) = before
    if others or not isinstance(first, t.Rows):
        raise AdapterError(
            f"{fused.field}: {quoted(fused.name)} replaces {quoted(unit)} in part (scale "
            f"{strength:g}) after another adapter changed it, expected it before",
            hint="name it first",
        )
    return [t.Scaled(first, 1.0 - strength), t.Scaled(rows, strength)]


def _needs_model(fused: Fused, unit: str, what: str) -> AdapterError:
    return AdapterError(
        f"{fused.field}: {quoted(fused.name)} {what} of {quoted(unit)}, expected a model that it "
        "is put onto",
        hint="add `onto: MODEL`, on the command line `@MODEL`",
    )


def expect_used(adapters: Sequence[Fused], units: Container[str]) -> None:
    """Refuse what is added to units of the result that it does not have.

    Raises:
        AdapterError: guidance that the result is made without, most likely.
    """
    for fused in adapters:
        lost = [unit for unit in fused.strengths if unit not in units]
        if fused.onto is None and lost:
            raise AdapterError(
                f"{fused.field}: {quoted(fused.name)} changes {listing(lost, noun='unit')} that "
                "the result does not have",
                hint="`scale: {guidance: 0, default: 1}` leaves guidance out",
            )
