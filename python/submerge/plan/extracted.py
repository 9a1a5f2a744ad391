"""A recipe whose result is an adapter: what the merge adds to one of its models, module by module.

The delta of a module is its result, in f32 before any rounding, less that model's numbers. The core
makes factors of it as it comes; nothing is held but one module.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from submerge.adapters.written import FORMS
from submerge.checkpoint.codecs import NUMBERS
from submerge.checkpoint.dtypes import WORDS
from submerge.checkpoint.names import is_safetensors
from submerge.errors import LayoutError, RecipeError, listing, quoted
from submerge.layout import family_of
from submerge.plan.form import OutputTensor
from submerge.plan.making import Making, Module, Wanted, expect_energy, expect_rank, most
from submerge.plan.outputs import Placed
from submerge.plan.terms import Scaled
from submerge.values import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from submerge.layout import Architecture, Model
    from submerge.plan.form import Unit
    from submerge.plan.outputs import Filled
    from submerge.plan.unit import Inputs
    from submerge.recipe import AdapterOutput, Output, Recipe

__all__ = [
    "Factored",
    "expect_plain",
    "factored",
    "making_of",
    "placed_in_one",
]

# What an energy may ask for where no rank is named: more is no adapter.
_MOST = 512


class Factored(NamedTuple):
    """The outputs that become an adapter, the modules made of them, and what has no place in it."""

    filled: list[Filled]
    modules: tuple[Module, ...]
    notes: tuple[str, ...]


def expect_plain(output: Output, target: Path) -> None:
    """Refuse wishes that an adapter has no place for.

    Raises:
        RecipeError: a folder as the target, or a layout, shards or a pipeline.
    """
    if not is_safetensors(target.name):
        raise RecipeError(
            f"recipe.output.adapter: {quoted(target.name)}, expected one `.safetensors` file for "
            "an adapter",
            hint="let the output's name end in `.safetensors`",
        )
    for field in ("shard_size", "pipeline_from", "scheduler_from", "for_"):
        if getattr(output, field) is not None:
            raise RecipeError(f"recipe.output.{field.rstrip('_')}: of an adapter, expected none")
    if output.layout != "same":
        raise RecipeError(
            f"recipe.output.layout: {quoted(output.layout)} of an adapter, expected none",
            hint="`adapter: {form: ...}` says how its modules are named",
        )
    if output.dtype.entries or output.dtype.default not in ("same", "f32", "f16", "bf16"):
        got = quoted(output.dtype.names[0])
        raise RecipeError(
            f"recipe.output.dtype: {got} of an adapter, expected `bf16`, `f16` or `f32`"
        )


def factored(recipe: Recipe, units: Mapping[str, Unit], inputs: Inputs) -> Factored:
    """Return the outputs of an adapter and its modules.

    Args:
        recipe: one whose output is an adapter.
        units: every unit of the result, compiled.
        inputs: where the models' units lie.

    Raises:
        LayoutError: models whose layers are not known.
        RecipeError: ranks or energies out of range, or none for any unit.
    """
    asked = recipe.output.adapter
    assert asked is not None  # noqa: S101 - the caller asks for it
    base = inputs.models[asked.onto]
    arch = _common(base, units)
    made = _Making(asked, base, units, inputs, _wishes(asked, arch, units))
    filled: list[Filled] = []
    modules: list[Module] = []
    for name, stacked in _modules(asked, base, arch):
        for module, tensors in made.module(name, stacked):
            modules.append(module)
            filled += tensors
    if not modules:
        raise RecipeError(
            "recipe.output.adapter: nothing differs from "
            f"{quoted(asked.onto)}, expected units that do",
            hint="every unit comes from that model as it is, or has rank 0",
        )
    return Factored(filled, tuple(modules), tuple(made.notes(units)))


def _common(base: Model, units: Mapping[str, Unit]) -> Architecture:
    """Return the architecture of what the model and the result have in common."""
    family = family_of(base.arch)
    if family is None:
        raise LayoutError(
            "recipe.output.adapter: a model whose layers are not known, expected FLUX.1",
            hint="leave `layout: generic` out",
        )
    guided = base.arch.guidance and any(family.guides(unit) for unit in units)
    return replace(base.arch, guidance=guided)


def _modules(
    asked: AdapterOutput, base: Model, arch: Architecture
) -> Iterator[tuple[str, tuple[str, ...]]]:
    family = family_of(base.arch)
    if family is not None:
        yield from family.modules(family.layouts[FORMS[asked.form].layout], arch)


def _wishes(
    asked: AdapterOutput, arch: Architecture, units: Mapping[str, Unit]
) -> dict[str, Wanted]:
    """Return what is asked for at each unit that both have."""
    family = family_of(arch)
    shapes = {} if family is None else family.unit_shapes(arch)
    selection = Selection.of(unit for unit in units if unit in shapes)
    where = "recipe.output.adapter"
    ranks = None if asked.rank is None else asked.rank.table(selection, f"{where}.rank")
    energies = None if asked.energy is None else asked.energy.table(selection, f"{where}.energy")
    found = {}
    for unit in selection.units:
        energy = None if energies is None else energies[unit]
        if energy is not None:
            expect_energy(energy, f"{where}.energy", unit)
        rank = _MOST if ranks is None else ranks[unit]
        found[unit] = Wanted(expect_rank(rank, f"{where}.rank", unit), energy)
    side = max((min(shapes[unit]) for unit in found if len(shapes[unit]) == 2), default=0)
    rank = max((wanted.rank or 0 for wanted in found.values()), default=0)
    if ranks is not None and rank > side:
        raise RecipeError(
            f"{where}.rank: {rank} is more than the smaller side of every matrix, expected "
            f"at most {side}",
            hint="a matrix has no larger rank",
        )
    return found


class _Making:
    """Makes modules of units."""

    def __init__(
        self,
        asked: AdapterOutput,
        base: Model,
        units: Mapping[str, Unit],
        inputs: Inputs,
        wishes: Mapping[str, Wanted],
    ) -> None:
        self._asked = asked
        self._base = base
        self._units = units
        self._inputs = inputs
        self._wishes = wishes
        self._placed: set[str] = set()

    def module(self, name: str, stacked: tuple[str, ...]) -> Iterator[tuple[Module, list[Filled]]]:
        """Yield what an adapter has for a module, if it may differ, and the outputs for it."""
        form = FORMS[self._asked.form]
        stem = form.stem(name)
        weights = [f"{unit}.weight" for unit in stacked]
        biases = [f"{unit}.bias" for unit in stacked if f"{unit}.bias" in self._units]
        wish = most(self._wishes[unit] for unit in weights)
        if not wish.rank or not (self._differ(weights) or self._differ(biases)):
            return
        self._placed.update(weights, biases)
        delta = self._delta(f"{name}.weight", weights)
        shape = delta[0].shape
        if len(shape) == 2:
            outputs = [delta]
            if biases:
                outputs.append(self._delta(stem + form.bias, biases))
            rank = min(wish.rank, *shape)
            yield (
                Module(name, tuple(weights), "matrix", rank, wish.energy, bias=bool(biases)),
                outputs,
            )
        elif form.norm is None:
            outputs = [delta, self._stacked(f"{form.prefix}{name}.weight", weights)]
            yield Module(name, tuple(weights), "whole"), outputs
        else:
            yield (
                Module(name, tuple(weights), "difference"),
                [self._delta(stem + form.norm, weights)],
            )

    def _differ(self, units: Iterable[str]) -> bool:
        """Whether any of these may be other than the model's."""
        return any(
            self._units[unit].op != "copy"
            or self._units[unit].models != (self._asked.onto,)
            or len(self._units[unit].operands[0]) > 1
            or bool(self._units[unit].added)
            for unit in units
        )

    def _delta(self, name: str, units: list[str]) -> Filled:
        """Return an output with what these units have beyond the model's."""
        less = {unit: (Scaled(self._inputs.rows(self._asked.onto, unit), -1.0),) for unit in units}
        tensor, filled = self._stacked(name, units)
        return tensor, [u._replace(added=(*u.added, *less[u.name])) for u in filled]

    def _stacked(self, name: str, units: list[str]) -> Filled:
        """Return an output in F32 that stacks units of the result."""
        placed, end = [], 0
        for unit in (self._units[name] for name in units):
            dtypes = self._inputs.dtypes(unit)
            if not dtypes <= NUMBERS:
                raise LayoutError(
                    f"{quoted(unit.name)}: dtype {', '.join(sorted(dtypes))}, expected floats for "
                    "an adapter"
                )
            placed.append(unit._replace(start=end, end=end + unit.end))
            end += unit.end
        trailing = self._inputs.trailing(self._units[units[0]])
        return OutputTensor(0, name, "F32", (end, *trailing)), placed

    def notes(self, units: Mapping[str, Unit]) -> Iterator[str]:
        """Yield which units of the result have no place in the adapter, and why."""
        lost = [unit for unit in units if unit not in self._base.units]
        if lost:
            yield (
                f"{listing(lost, noun='unit')} left out of the adapter: {quoted(self._asked.onto)} "
                "has none to add to"
            )
        gone = [unit for unit in self._base.units if unit not in units]
        if gone:
            yield f"{listing(gone, noun='unit')} left out of the adapter: the result has none"


def placed_in_one(filled: Iterable[Filled]) -> Placed:
    """Return outputs in their order, as one file."""
    outputs: list[OutputTensor] = []
    units: list[Unit] = []
    for tensor, inside in filled:
        units += [unit._replace(output=len(outputs)) for unit in inside]
        outputs.append(tensor)
    return Placed(("",), tuple(outputs), tuple(units), ())


def making_of(output: Output, made: Factored, facts: Mapping[str, str]) -> Making:
    """Return what the core makes of the outputs; factors are in BF16 where nothing is asked for."""
    assert output.adapter is not None  # noqa: S101 - it is made for one
    dtype = WORDS.get(output.dtype.default, "BF16")
    return Making(output.adapter.form, dtype, made.modules, facts)
