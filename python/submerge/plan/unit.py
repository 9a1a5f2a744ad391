"""One unit, compiled: from what the recipe says of it to rows of files the core can read.

Operands stand in an order that permuting the models of a recipe does not change: by name, a base
first. Weights of 0 were left out before; one whole model is a copy, which keeps its bytes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from submerge.checkpoint import NUMBERS
from submerge.errors import AdapterError, LayoutError, RecipeError, quoted
from submerge.methods import copied, weighted_sum
from submerge.plan.adapted import added
from submerge.plan.form import Unit
from submerge.plan.terms import Layer, Mix, Network, Operand, Rows, Side, Source
from submerge.plan.words import adapted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from submerge.checkpoint import FileInfo, TensorInfo
    from submerge.layout import Model
    from submerge.methods import Blend
    from submerge.plan.adapted import Fused
    from submerge.plan.guidance import GuidanceOutcome
    from submerge.plan.terms import Term

__all__ = ["Inputs", "bake", "compile_unit"]


class Inputs:
    """The files of models and adapters, and what of them is used.

    Attributes:
        models: the models by name.
        adapters: what is added to them, and to the result.
        used: the pairs of model and unit that rows were taken from.
        adapting: the names of the adapters that change something.
    """

    def __init__(self, models: Mapping[str, Model], adapters: Sequence[Fused] = ()) -> None:
        self.models = models
        self.adapters = adapters
        self.used: set[tuple[str, str]] = set()
        self.adapting: set[str] = set()
        self._sources: dict[Path, Source] = {}
        self._index: dict[tuple[str, int], int] = {}

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that rows were taken from, in order of first use."""
        return tuple(self._sources.values())

    def rows(self, model: str, unit: str) -> Rows:
        """Return where a unit lies in a model, and count it as used."""
        place = self.models[model].units[unit].place
        self.used.add((model, unit))
        info = self.models[model].checkpoint.tensors[place.tensor]
        rows = Rows(self.source(model, info), *place)
        if info.packed is None:
            return rows
        sides = tuple(Side(self.source(model, side), side.name) for side in info.sides)
        return rows._replace(codec=info.packed.spec, sides=sides)

    def operand(self, model: str, unit: str) -> Operand:
        """Return what a model is at a unit: its rows, and what adapters add to them.

        Raises:
            AdapterError: what is changed is no float, or was replaced in part.
        """
        rows = self.rows(model, unit)
        dtypes = frozenset({self.models[model].units[unit].dtype})
        return self._added(model, unit, (rows,), dtypes)

    def added(self, unit: Unit) -> tuple[Term, ...]:
        """Return what adapters add to the result at a unit; raises as `operand`."""
        return self._added(None, unit.name, (), self.dtypes(unit))

    def words(self, unit: Unit) -> str:
        """Return the formula of a unit with the adapters in it."""
        onto = {
            model: [fused.words(unit.name) for fused in self._onto(model, unit.name)]
            for model in (*unit.models, None)
        }
        return adapted(unit.formula, onto) if any(onto.values()) else unit.formula

    def _onto(self, model: str | None, unit: str) -> list[Fused]:
        return [a for a in self.adapters if a.onto == model and unit in a.strengths]

    def _added(
        self, model: str | None, unit: str, terms: tuple[Term, ...], dtypes: frozenset[str]
    ) -> tuple[Term, ...]:
        for fused in self._onto(model, unit):
            if not dtypes <= NUMBERS:
                raise AdapterError(
                    f"{fused.field}: {quoted(fused.name)} changes {quoted(unit)}, which is "
                    f"{', '.join(sorted(dtypes))}, expected numbers",
                    hint="leave that module out of the adapter, or merge another model",
                )
            terms = self.with_added(fused, unit, terms)
        return terms

    def with_added(self, fused: Fused, unit: str, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """Return terms and what an adapter adds to them, and count it as used; as `operand`."""
        self.adapting.add(fused.name)
        file = self.file(fused.adapter.checkpoint.files[0])
        return added(fused, unit, terms, lambda span: Rows(file, *span))

    def carried(self, model: str, name: str) -> Unit:
        """Return the copy of a whole tensor that is no unit of the model, such as a VAE's."""
        info = self.models[model].checkpoint.tensors[name]
        operand = (Rows(self.source(model, info), name, 0, info.rows),)
        return Unit(name, "extras", copied(model), (operand,), 0, info.rows)

    def tensor(self, model: str, unit: str) -> TensorInfo:
        """Return the tensor of a model's file that a unit lies in."""
        found = self.models[model]
        return found.checkpoint.tensors[found.units[unit].place.tensor]

    def dtypes(self, unit: Unit) -> frozenset[str]:
        """Return the dtypes a unit has in the files of its models."""
        name, models = unit.name, self.models
        return frozenset([models[m].units[name].dtype for m in unit.blend.models])

    def nbytes(self, unit: Unit) -> int:
        """Return the bytes a unit takes in the files of its models, and of what is added to it."""
        total = 0
        for model in unit.models:
            rows = self.models[model].units[unit.name].rows
            total += self.tensor(model, unit.name).stored(rows)
        return total + sum(
            fused.nbytes(unit.name)
            for model in (*unit.models, None)
            for fused in self._onto(model, unit.name)
        )

    def trailing(self, unit: Unit) -> tuple[int, ...]:
        """Return the shape of one row of a unit."""
        return self.tensor(unit.models[0], unit.name).shape[1:]

    def shape(self, unit: Unit) -> tuple[int, ...]:
        """Return the shape of a unit that is a whole tensor; () where it has no dimensions."""
        flat = not any(self.tensor(model, unit.name).shape for model in unit.models)
        return () if flat else (unit.end, *self.trailing(unit))

    def source(self, model: str, tensor: TensorInfo) -> int:
        """Return the index of a tensor's file among the sources, which it becomes one of."""
        key = (model, tensor.file)
        if (known := self._index.get(key)) is None:
            known = self._index[key] = self.file(self.models[model].checkpoint.files[tensor.file])
        return known

    def file(self, info: FileInfo) -> int:
        """Return the index of a file among the sources, which it becomes one of."""
        # Two names may be one file.
        self._sources.setdefault(info.path, Source(info.path, info.identity))
        return list(self._sources).index(info.path)


def compile_unit(unit: Unit, inputs: Inputs, network: Network | None = None) -> Unit:
    """Return a decided unit with the rows it is made of, and the operation the core runs on them.

    Args:
        unit: as the recipe decided it.
        inputs: where the models' units lie.
        network: what gives a vector that is added to the result, one number for each row.

    Raises:
        RecipeError: every weight is 0.
        LayoutError: a model lacks the unit, or shapes or dtypes do not fit together.
        AdapterError: an adapter changes what is no float.
    """
    if not unit.models:
        raise RecipeError(
            f"recipe.{unit.reason}: every weight of {quoted(unit.name)} is 0, expected at least "
            "one other",
            hint="the output would be zero there",
        )
    if network is not None and not unit.blend.is_sum:
        # A vector can be added to a sum, not into another formula.
        unit = unit._replace(blend=weighted_sum(unit.shares))
    rows, columns = _common_shape(unit, inputs)
    blend = _executable(unit, inputs.dtypes(unit), columns, adding=network is not None)
    operands = tuple(inputs.operand(model, unit.name) for model in unit.models)
    more = inputs.added(unit)
    blend = dataclasses.replace(blend, words=inputs.words(unit))
    if blend.op == "copy" and blend.words != unit.formula:
        # What is computed is no copy: F64 becomes F32, as in any sum.
        blend = dataclasses.replace(blend, op="linear", arguments={"weights": [1.0]})
    if network is not None:
        blend, more = _adding(unit, blend), (network, *more)
    return Unit(unit.name, unit.reason, blend, operands, 0, rows, added=more)


def _executable(unit: Unit, dtypes: frozenset[str], columns: int, *, adding: bool) -> Blend:
    """Return what the core runs: a sum of one whole model is a copy, what is no float stays.

    Raises:
        LayoutError: numbers that are no floats, of several dtypes or with a weight.
    """
    blend = unit.blend
    if dtypes <= NUMBERS:
        if unit.weights == (1.0,):
            return dataclasses.replace(blend, op="copy", arguments={})
        # Rows of one element make one vector.
        vector = blend.op == "rows" and columns == 1
        return dataclasses.replace(blend, op="combine") if vector else blend
    if len(dtypes) > 1 or adding:
        raise LayoutError(
            f"{quoted(unit.name)}: dtypes {', '.join(sorted(dtypes))} in one sum, expected floats",
            hint="take that tensor from one model by a rule",
        )
    if unit.op == "linear" and len(unit.weights) == 1 != unit.weights[0]:
        (dtype,) = dtypes
        raise LayoutError(
            f"{quoted(unit.name)}: a weight of {unit.weights[0]:g} on {dtype}, expected 1 for what "
            "is no float"
        )
    return dataclasses.replace(blend, op="copy" if len(unit.models) == 1 else "same", arguments={})


def _adding(unit: Unit, blend: Blend) -> Blend:
    """Return the weighted sum of a unit to whose result a vector is added."""
    weights = unit.weights or (1.0,)
    words = f"{blend.words} + guidance"
    return dataclasses.replace(blend, op="linear", arguments={"weights": [*weights]}, words=words)


def _common_shape(unit: Unit, inputs: Inputs) -> tuple[int, int]:
    """Return rows and elements of a row of a unit, which are the same in all its models.

    Raises:
        LayoutError: a model lacks the unit, or has it in another shape.
    """
    name, (first, *_) = unit.name, unit.models
    module = name.rpartition(".")[0] or name
    shapes = {}
    for model in unit.models:
        info = inputs.models[model].units.get(name)
        if info is None:
            raise LayoutError(
                f"{quoted(model)} has no {quoted(name)}, expected every model with a weight "
                "there to have it",
                hint=f"add `rules: [{{where: {module}, take: NAME}}]`",
            )
        shapes[model] = (info.rows, *inputs.tensor(model, name).shape[1:])
    for model, shape in shapes.items():
        if shape != shapes[first]:
            raise LayoutError(
                f"{quoted(name)}: {quoted(first)} has the shape {list(shapes[first])}, "
                f"{quoted(model)} {list(shape)}; they cannot be merged",
                hint=f"add `rules: [{{where: {module}, take: {first}}}]`, or `take: {model}`",
            )
    return shapes[first][0], math.prod(shapes[first][1:])


def bake(outcome: GuidanceOutcome, inputs: Inputs) -> Network | None:
    """Return the guidance network at one value, where it is folded into a bias.

    Raises:
        RecipeError, LayoutError: as `compile_unit`; numbers that are no floats.
    """
    if outcome.network is None or not outcome.baked:
        return None
    network, baked = outcome.network, outcome.baked
    first = baked[f"{network.layers[0]}.weight"]
    width = inputs.models[next(iter(first.shares))].units[first.name].row_elements

    def mix(name: str) -> Mix:
        unit = compile_unit(baked[name]._replace(blend=weighted_sum(baked[name].shares)), inputs)
        dtypes = inputs.dtypes(unit)
        if not dtypes <= NUMBERS:
            raise LayoutError(f"{name}: dtype {', '.join(sorted(dtypes))}, expected floats to bake")
        rows = tuple(o[0] for o in unit.operands if len(o) == 1 and isinstance(o[0], Rows))
        if len(rows) < len(unit.operands) or unit.added:
            raise RecipeError(
                f"recipe.guidance: an adapter changes {quoted(name)}, which is baked, expected "
                "numbers of models alone",
                hint="bake the adapter into its model first: `submerge lora bake`",
            )
        return Mix(rows, unit.weights or (1.0,))

    inner, outer = (Layer(mix(f"{layer}.weight"), mix(f"{layer}.bias")) for layer in network.layers)
    return Network(network.sinusoid(outcome.value, width), (inner, outer), network.activation)
