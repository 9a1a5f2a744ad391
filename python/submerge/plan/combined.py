"""Adapters as one adapter: the sum of what they add, module by module.

A LoRA's part is thin matrices, which are put beside each other and, to a smaller rank, made smaller
by the core without being multiplied out. What is no product of two (LoHa, LoKr, differences) is
formed in f32, one module at a time, and factored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.adapters import Product, Replacement, spans
from submerge.adapters.written import FORMS
from submerge.checkpoint.dtypes import DTYPES
from submerge.errors import AdapterError, listing, quoted
from submerge.layout import family_of
from submerge.methods import Blend
from submerge.plan.adapted import added
from submerge.plan.factorwise import FACTORWISE, blended
from submerge.plan.form import OutputTensor, Unit
from submerge.plan.making import Module, most
from submerge.plan.outputs import dtype_of
from submerge.plan.products import deltas_of, parts_of, shared_by
from submerge.plan.terms import Rows, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from submerge.adapters import Span
    from submerge.layout import Architecture
    from submerge.plan.adapted import Fused
    from submerge.plan.factorwise import Blending
    from submerge.plan.making import Wanted
    from submerge.plan.outputs import Filled
    from submerge.plan.products import Part
    from submerge.plan.terms import Term

__all__ = ["Combining"]


class Combining:
    """Makes the modules of one adapter of those of several."""

    def __init__(
        self, adapters: Sequence[Fused], arch: Architecture, written: tuple[str, str], how: Blending
    ) -> None:
        """Take adapters resolved on one architecture, each with its strengths by unit.

        `written` are the form and the dtype of what is made.

        Raises:
            AdapterError: a model whose layers are not known.
        """
        family = family_of(arch)
        if family is None:
            raise AdapterError("base: a model whose layers are not known, expected FLUX.1")
        form, dtype = written
        self._adapters = adapters
        self._family = family
        self._arch = arch
        self._form = FORMS[form]
        self._dtype = dtype
        self._how = how
        self._left: list[str] = []
        self._shapes = family.unit_shapes(arch)
        self._index = {fused.name: at for at, fused in enumerate(adapters)}

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files, one for each adapter."""
        files = (fused.adapter.checkpoint.files[0] for fused in self._adapters)
        return tuple(Source(file.path, file.identity) for file in files)

    def modules(self, wanted: Mapping[str, Wanted]) -> Iterator[tuple[Module, list[Filled]]]:
        """Yield the modules that any adapter changes, and the outputs they are made of.

        `wanted` is what is asked for at each unit.

        Raises:
            AdapterError: an adapter that is no sum, or has parts of a module alone.
        """
        names = self._family.layouts[self._form.layout]
        for module, units in self._family.modules(names, self._arch):
            weights = [f"{unit}.weight" for unit in units]
            biases = [f"{unit}.bias" for unit in units]
            if self._replaced(weights):
                yield from self._whole(module, weights)
            elif any(unit in f.strengths for f in self._adapters for unit in (*weights, *biases)):
                yield self._module(module, weights, biases, wanted)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, once all modules were made."""
        if not self._left:
            return ()
        lost = f"{listing(self._left, noun='norm')} left out"
        return (
            f"{lost}: only one adapter at scale 1 can have it, in the forms `peft` and `comfy`",
        )

    def _replaced(self, weights: list[str]) -> bool:
        """Whether these are a norm that an adapter has whole."""
        return len(self._shapes[weights[0]]) == 1 and any(
            isinstance(delta, Replacement)
            for fused in self._adapters
            for delta in fused.resolved.deltas.get(weights[0], ())
        )

    def _whole(self, name: str, weights: list[str]) -> Iterator[tuple[Module, list[Filled]]]:
        """Yield a norm as the only adapter has it, where that is possible."""
        (unit,) = weights
        using = [fused for fused in self._adapters if unit in fused.strengths]
        found = [delta for fused in using for delta in fused.resolved.deltas[unit]]
        (first, *others) = found
        if (
            others
            or not isinstance(first, Replacement)
            or self._form.whole is None
            or using[0].strengths[unit] != 1
        ):
            self._left.append(name)
        else:
            copied = self._copied(using[0], unit, first.rows, 0)
            tensor = OutputTensor(0, self._form.stem(name) + self._form.whole, "F32", (copied.end,))
            yield Module(name, (unit,), "difference", value=True), [(tensor, [copied])]

    def _module(
        self,
        name: str,
        weights: list[str],
        biases: list[str],
        wanted: Mapping[str, Wanted],
    ) -> tuple[Module, list[Filled]]:
        shape = self._shape(weights)
        parts = list(parts_of(self._adapters, self._shapes, weights))
        others = any(
            not isinstance(delta, Product)
            for fused in self._adapters
            for unit in weights
            for delta in deltas_of(fused, unit)
        )
        bias: list[Filled] = []
        if any(unit in fused.strengths for fused in self._adapters for unit in biases):
            bias = [self._bias(name, biases)]
            if not (others or parts):
                return self._bias_alone(name, weights, bias)
        if len(shape) == 1:
            if self._form.norm is None:
                raise AdapterError(
                    f"{quoted(name)}: the difference of a norm, expected none in this form",
                    hint="`--to comfy` has a place for it",
                )
            made = Module(name, tuple(weights), "difference")
            return made, [self._sum(self._form.stem(name) + self._form.norm, weights)]
        wish = most(wanted[unit] for unit in weights)
        if others:
            if self._how.method != "cat":
                raise AdapterError(
                    f"{quoted(name)}: no product of two matrices, expected LoRAs to merge by "
                    f"{quoted(self._how.method)}",
                    hint="`submerge lora resize` makes a LoRA of it first",
                )
            if wish.rank is None and wish.energy is None:
                raise AdapterError(
                    f"{quoted(name)}: no product of two matrices, expected a rank to make one of",
                    hint="add `--rank` or `--energy`",
                )
            rank = min(wish.rank or min(shape), *shape)
            made = Module(name, tuple(weights), "matrix", rank, wish.energy, bias=bool(bias))
            made = made._replace(dtype=self._dtype_of(name, weights))
            return made, [self._sum(f"{name}.weight", weights), *bias]
        return self._products(name, weights, parts, wish, bias)

    def _products(
        self, name: str, weights: list[str], parts: list[Part], wish: Wanted, bias: list[Filled]
    ) -> tuple[Module, list[Filled]]:
        """Return a module of products, and the outputs with their factors."""
        shape = self._shape(weights)
        whole = sum(part.rank for part in parts)
        asked = whole if wish.rank is None else min(wish.rank, *shape)
        rank = min(whole, asked)
        # What stays as it is keeps its numbers, and its alpha with them.
        kept = (
            rank == whole
            and wish.energy is None
            and len({part.alpha for part in parts}) == 1
            and all(part.strength == 1 for part in parts)
            and not (bias and self._form.scales_bias and parts[0].alpha == 0)
        )
        shared = None
        if self._how.method == "knots":
            kept, shared = False, shared_by(self._how, name, parts)
        if self._how.method in FACTORWISE:
            parts, outputs = self._blended(name, weights, parts)
            whole = parts[0].rank
            rank, kept = min(whole, asked), False
        else:
            outputs = []
            for at, part in enumerate(parts):
                outputs += [
                    self._up(f"{name}.{at}.up", part),
                    self._down(f"{name}.{at}.down", part),
                ]
        scale = parts[0].alpha if kept else 1.0
        if bias and self._form.scales_bias:
            bias = [self._bias(name, [unit.name for unit in bias[0][1]], scale)]
        made = Module(
            name,
            tuple(weights),
            "products",
            rank,
            wish.energy,
            bias=bool(bias),
            products=tuple((self._factor(part, kept=kept), part.first) for part in parts),
            rows=shape[0],
            dtype=self._dtype_of(name, weights),
            scale=scale,
            shared=shared,
        )
        return made, outputs + bias

    def _factor(self, part: Part, *, kept: bool) -> float:
        """Return what the core multiplies a product by."""
        if kept:
            return 1.0
        return part.alpha if self._how.method == "knots" else part.scale

    def _blended(
        self, name: str, weights: list[str], parts: list[Part]
    ) -> tuple[list[Part], list[Filled]]:
        """Return the one product that parts become number by number, and its factors."""
        rows = self._shape(weights)[0]
        odd = {(part.rank, part.rows) for part in parts} - {(parts[0].rank, rows)}
        if odd:
            ranks = ", ".join(str(rank) for rank in sorted({part.rank for part in parts}))
            raise AdapterError(
                f"{quoted(name)}: ranks {ranks}, expected one product of one rank for each adapter "
                f"to merge by {quoted(self._how.method)}",
                hint="leave the method out, or resize the adapters first",
            )

        def merged(tensor: str, unit: str, spans: list[Span], start: int, *, signed: bool) -> Unit:
            given = [
                (part.fused.name, self._rows(part.fused, span), part.scale)
                for part, span in zip(parts, spans, strict=True)
            ]
            blend, operands = blended(self._how, tensor, given, signed=signed)
            end = start + spans[0].end - spans[0].start
            return Unit(unit, "adapter", blend, operands, start, end)

        up: list[Unit] = []
        for at, (unit, _) in enumerate(parts[0].ups):
            start = up[-1].end if up else 0
            spans = [part.ups[at][1] for part in parts]
            up.append(merged(f"{unit}.up", unit, spans, start, signed=False))
        downs = [part.down for part in parts]
        down = merged(f"{name}.down", weights[0], downs, 0, signed=True)
        columns = self._shape(weights)[1]
        outputs = [
            (OutputTensor(0, f"{name}.up", "F32", (rows, parts[0].rank)), up),
            (OutputTensor(0, f"{name}.down", "F32", (parts[0].rank, columns)), [down]),
        ]
        return [parts[0]._replace(alpha=1.0, strength=1.0)], outputs

    def _shape(self, units: list[str]) -> tuple[int, ...]:
        rows = sum(self._shapes[unit][0] for unit in units)
        return (rows, *self._shapes[units[0]][1:])

    def _dtype_of(self, name: str, weights: list[str]) -> str:
        """Return the dtype of a module's factors: not FP8, of which BF16 holds every value."""
        found = frozenset(
            fused.adapter.checkpoint.tensors[span.tensor].dtype
            for fused in self._adapters
            for unit in weights
            for delta in deltas_of(fused, unit)
            for span in spans(delta)
        )
        dtype = dtype_of(name, found, self._dtype)
        return "BF16" if DTYPES[dtype].bits == 8 else dtype

    def _rows(self, fused: Fused, span: Span) -> Rows:
        return Rows(self._index[fused.name], *span)

    def _up(self, name: str, part: Part) -> Filled:
        rank = part.down.end - part.down.start
        units, end = [], 0
        for unit, span in part.ups:
            units.append(self._copied(part.fused, unit, span, end))
            end = units[-1].end
        return OutputTensor(0, name, "F32", (end, rank)), units

    def _down(self, name: str, part: Part) -> Filled:
        unit = self._copied(part.fused, part.ups[0][0], part.down, 0)
        columns = self._shapes[part.ups[0][0]][1]
        return OutputTensor(0, name, "F32", (unit.end, columns)), [unit]

    def _copied(self, fused: Fused, unit: str, span: Span, start: int) -> Unit:
        blend = Blend("copy", {}, (fused.name,), fused.name, shares={fused.name: 1.0})
        operands = ((self._rows(fused, span),),)
        return Unit(unit, "adapter", blend, operands, start, start + span.end - span.start)

    def _bias(self, name: str, biases: list[str], scale: float = 1.0) -> Filled:
        """Return what adapters add to biases, for a reader who multiplies it by a scale."""
        return self._sum(self._form.stem(name) + self._form.bias, biases, scale)

    def _bias_alone(
        self, name: str, weights: list[str], bias: list[Filled]
    ) -> tuple[Module, list[Filled]]:
        """Return a module of which nothing but the bias changes."""
        if self._form.scales_bias:
            raise AdapterError(
                f"{quoted(name)}: a bias alone, expected factors that it stands beside",
                hint="`--to comfy` and `--to kohya` have a place for it",
            )
        return Module(name, tuple(weights), "difference"), bias

    def _sum(self, name: str, units: list[str], scale: float = 1.0) -> Filled:
        """Return an output in F32 with what adapters add to units, over a scale."""
        placed: list[Unit] = []
        end = 0
        for unit in units:
            terms: tuple[Term, ...] = ()
            using = [fused for fused in self._adapters if deltas_of(fused, unit)]
            for fused in using:
                over = fused._replace(strengths={unit: fused.strengths[unit] / scale})
                terms = added(over, unit, terms, lambda span, f=fused: self._rows(f, span))  # type: ignore[misc]
            if not terms:
                raise AdapterError(
                    f"{quoted(name)}: adapters change others of {', '.join(units)} and not "
                    f"{quoted(unit)}, expected all or none of what this form stacks",
                    hint="`--to peft` has a module for each",
                )
            names = tuple(fused.name for fused in using)
            blend = Blend("linear", {"weights": [1.0]}, names[:1], " + ".join(names))
            start, end = end, end + self._shapes[unit][0]
            placed.append(Unit(unit, "adapter", blend, (terms,), start, end))
        return OutputTensor(0, name, "F32", (end, *self._shapes[units[0]][1:])), placed
