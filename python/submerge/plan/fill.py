"""Where the rows of each unit come from: choices turned into operands the core can read.

Operands stand in an order that permuting the models of a recipe does not change: by name, a base
first. Weights of 0 were left out before; one whole model is a copy, which keeps its bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint import FLOATS
from submerge.errors import LayoutError, RecipeError, quoted
from submerge.plan.form import Layer, Mix, Mlp, Operand, Rows, Source
from submerge.plan.guidance import BAKED_INTO, sinusoid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from submerge.checkpoint import TensorInfo
    from submerge.layout import Model
    from submerge.plan.decide import Choice

__all__ = ["Filled", "Filler"]


class Filled(NamedTuple):
    """What fills one unit, before it is known where in the output it goes.

    Attributes:
        shares: the weight of each model, as in `Unit`.
        rows: rows of the unit.
        trailing: the shape of one row.
        scalar: whether it is a tensor without dimensions, and not one of a single row.
        dtypes: of the operands that are rows, each once.
        nbytes: bytes read.
    """

    operands: tuple[Operand, ...]
    op: str
    arguments: Mapping[str, Any]
    models: tuple[str, ...]
    shares: Mapping[str, float]
    formula: str
    reason: str
    rows: int
    trailing: tuple[int, ...]
    scalar: bool
    dtypes: frozenset[str]
    nbytes: int


@dataclass(slots=True)
class Filler:
    """Finds units in the models' files and keeps count of the files and units used."""

    models: Mapping[str, Model]
    sources: dict[Path, Source] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)
    _index: dict[Path, int] = field(default_factory=dict)

    def fill(self, unit: str, choice: Choice, mlp: Mlp | None = None) -> Filled:
        """Return what fills a unit; `mlp` is added to it.

        Raises:
            RecipeError: every weight is 0.
            LayoutError: a model lacks the unit, or shapes or dtypes do not fit together.
        """
        names = sorted(choice.weights) if choice.blend is None else list(choice.blend.models)
        if not names:
            raise RecipeError(
                f"recipe.{choice.reason}: every weight of {quoted(unit)} is 0, expected at least "
                "one other",
                hint="the output would be zero there",
            )
        rows, trailing = self._shape(unit, names)
        dtypes = frozenset(self.models[name].units[unit].dtype for name in names)
        operands: tuple[Operand, ...] = tuple(self.rows(name, unit) for name in names)
        formula, models = choice.formula, tuple(names)
        if choice.blend is not None and dtypes <= FLOATS:
            op, arguments = _among(choice.blend.op, trailing), choice.blend.arguments
        else:
            weights = tuple(choice.weights.get(name, 0.0) for name in names)
            if mlp is not None:
                operands, weights = (*operands, mlp), (*weights, 1.0)
                formula, models = f"{formula} + guidance", (*models, "guidance")
            op = self._op(unit, dtypes, weights)
            arguments = {"weights": list(weights)} if op == "linear" else {}
        return Filled(
            operands=operands,
            op=op,
            arguments=arguments,
            models=models,
            shares=choice.weights,
            formula=formula,
            reason=choice.reason,
            rows=rows,
            trailing=trailing,
            scalar=all(not self._tensor(name, unit).shape for name in names),
            dtypes=dtypes,
            nbytes=sum(self.nbytes(name, unit) for name in names),
        )

    def tensor(self, model: str, name: str) -> Filled:
        """Return the copy of a whole tensor that is no unit of the model, such as a VAE's."""
        info = self.models[model].checkpoint.tensors[name]
        return Filled(
            operands=(Rows(self._source(model, name), name, 0, info.rows),),
            op="copy",
            arguments={},
            models=(model,),
            shares={model: 1.0},
            formula=model,
            reason="extras",
            rows=info.rows,
            trailing=info.shape[1:],
            scalar=not info.shape,
            dtypes=frozenset({info.dtype}),
            nbytes=info.nbytes,
        )

    def bake(self, mixtures: Mapping[str, Choice], value: float) -> Mlp:
        """Return the guidance MLP at one guidance value, from the mixture of each tensor."""
        first = next(iter(mixtures["guidance.in.weight"].weights))
        width = self.models[first].units["guidance.in.weight"].row_elements
        inner = Layer(
            self._mix("guidance.in.weight", mixtures), self._mix("guidance.in.bias", mixtures)
        )
        outer = Layer(
            self._mix("guidance.out.weight", mixtures), self._mix("guidance.out.bias", mixtures)
        )
        return Mlp(sinusoid(value, width), (inner, outer))

    def rows(self, model: str, unit: str) -> Rows:
        """Return where a unit lies in a model, and count it as used."""
        place = self.models[model].units[unit].place
        self.used.add((model, unit))
        return Rows(self._source(model, place.tensor), place.tensor, place.start, place.end)

    def _mix(self, unit: str, mixtures: Mapping[str, Choice]) -> Mix:
        filled = self.fill(unit, mixtures[unit])
        if not filled.dtypes <= FLOATS:
            raise LayoutError(
                f"{unit}: dtype {', '.join(sorted(filled.dtypes))}, expected floats to bake"
            )
        weights = tuple(filled.arguments.get("weights", (1.0,)))
        return Mix(tuple(o for o in filled.operands if isinstance(o, Rows)), weights)

    def _source(self, model: str, tensor: str) -> int:
        checkpoint = self.models[model].checkpoint
        info = checkpoint.files[checkpoint.tensors[tensor].file]
        if info.path not in self.sources:
            self._index[info.path] = len(self.sources)
            self.sources[info.path] = Source(info.path, info.identity)
        return self._index[info.path]

    def nbytes(self, model: str, unit: str) -> int:
        """Return the bytes a unit takes in a model's file."""
        info = self.models[model].units[unit]
        tensor = self._tensor(model, unit)
        return tensor.nbytes * info.rows // max(1, tensor.rows)

    def _tensor(self, model: str, unit: str) -> TensorInfo:
        found = self.models[model]
        return found.checkpoint.tensors[found.units[unit].place.tensor]

    def _shape(self, unit: str, names: list[str]) -> tuple[int, tuple[int, ...]]:
        for name in names:
            if unit not in self.models[name].units:
                raise LayoutError(
                    f"{quoted(name)} has no {quoted(unit)}, expected every model with a weight "
                    "there to have it",
                    hint=f"add `rules: [{{where: {_parent(unit)}, take: NAME}}]`",
                )
        shapes = {
            n: (self.models[n].units[unit].rows, self._tensor(n, unit).shape[1:]) for n in names
        }
        first = shapes[names[0]]
        for name, shape in shapes.items():
            if shape != first:
                raise LayoutError(
                    f"{quoted(unit)}: {quoted(names[0])} has the shape {_brackets(first)}, "
                    f"{quoted(name)} {_brackets(shape)}; they cannot be merged",
                    hint=f"add `rules: [{{where: {_parent(unit)}, take: {names[0]}}}]`, "
                    f"or `take: {name}`",
                )
        return first

    @staticmethod
    def _op(unit: str, dtypes: frozenset[str], weights: tuple[float, ...]) -> str:
        if dtypes <= FLOATS:
            return "copy" if weights == (1.0,) else "linear"
        if len(dtypes) > 1 or unit == BAKED_INTO:
            raise LayoutError(
                f"{quoted(unit)}: dtypes {', '.join(sorted(dtypes))} in one sum, expected floats",
                hint="take that tensor from one model by a rule",
            )
        if len(weights) == 1 and weights != (1.0,):
            (dtype,) = dtypes
            raise LayoutError(
                f"{quoted(unit)}: a weight of {weights[0]:g} on {dtype}, expected 1 for what is no "
                "float"
            )
        return "copy" if len(weights) == 1 else "same"


def _parent(unit: str) -> str:
    """Return the selector of a unit's module: `embed.img` for `embed.img.weight`."""
    return unit.rpartition(".")[0] or unit


def _brackets(shape: tuple[int, tuple[int, ...]]) -> str:
    return f"[{', '.join(map(str, (shape[0], *shape[1])))}]"


def _among(op: str, trailing: tuple[int, ...]) -> str:
    """Return the operation for rows of this shape; rows of one element make one vector."""
    return "combine" if op == "rows" and math.prod(trailing) == 1 else op
