"""What a merge found in the numbers: values that are not finite or do not fit, what rounding lost.

Made of the plan and the core's figures unit by unit; a run without statistics finds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.blocks import place_of
from submerge.errors import counted, listing, quoted
from submerge.losses import Quantisation
from submerge.plan.form import BESIDE
from submerge.plan.words import selectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from submerge.plan import Plan
    from submerge.plan.form import Unit

__all__ = ["Findings", "Rounding", "Spot", "nonfinite_inputs"]

_SHOWN = 10
_LITTLE = 0.5


class Spot(NamedTuple):
    """Elements of one unit that are infinite or NaN, or too large for the output's dtype.

    Attributes:
        model: the input they are in; empty for the output.
        unit: the unit's canonical name.
        elements: how many.
        first: flat index of the first in the unit.
        row: the row it lies in.
    """

    model: str
    unit: str
    elements: int
    first: int
    row: int

    def words(self, what: str) -> str:
        """Return the spot in words; `what` it is stands after the count."""
        where = f"{self.model}: " if self.model else ""
        first = f"the first is element {self.first:,}, row {self.row:,}"
        return f"{where}{self.elements:,} {what} in {quoted(self.unit)}, {first}"


class Rounding(NamedTuple):
    """The energy that rounding to the output's dtype took from what the formulas changed.

    Attributes:
        lost: `|written - value|^2`, value being what the formula gave in f32.
        change: `|value - first operand|^2`.
        worst: the unit where the share of the two is largest, and `worst_share`.

    Both sums are estimates from one block of 1,024 elements in 16, the same blocks on every run.
    """

    lost: float
    change: float
    worst: str
    worst_share: float

    @property
    def share(self) -> float | None:
        """`lost / change`; None where nothing changed."""
        return self.lost / self.change if self.change > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return self._asdict() | {"share": self.share}


class Findings(NamedTuple):
    """What was found in the numbers of a merge.

    Attributes:
        nonfinite: where the inputs hold infinite or NaN elements.
        overflow: where the output's dtype could not hold what a formula gave from finite inputs.
        rounding: what rounding lost; None where nothing was computed.
        quantisation: what writing in few bits lost; None where nothing was written so.
        equal: the units that were merged and came out as one model has them, by model; as all of
            them have them, under `all`.
        whole: the models that the whole result is equal to, where several went into it.
        vanished: the units of which rounding to the output's dtype left little or nothing.
        notes: what was unusual about units in the formulas' own words, such as the branch slerp
            took, and the units.
    """

    nonfinite: tuple[Spot, ...]
    overflow: tuple[Spot, ...]
    rounding: Rounding | None
    quantisation: Quantisation | None
    equal: Mapping[str, tuple[str, ...]]
    whole: tuple[str, ...]
    vanished: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]]
    lines: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan, figures: Mapping[str, Any]) -> Findings:
        """Gather the findings of a plan that was carried out."""
        found = cls(
            nonfinite=nonfinite_inputs(plan, figures),
            overflow=tuple(_overflow(plan, figures)),
            rounding=_rounding(plan, figures),
            quantisation=Quantisation.of(plan, _units(plan, figures)),
            equal=_equal(plan, figures),
            whole=_whole(plan, figures),
            vanished=tuple(_vanished(plan, figures)),
            notes=_notes(plan, figures),
            lines=(),
        )
        lines = [*found._words([unit.name for unit in plan.units]), *_zeros(plan, figures)]
        return found._replace(lines=tuple(lines))

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return {
            "nonfinite": [spot._asdict() for spot in self.nonfinite],
            "overflow": [spot._asdict() for spot in self.overflow],
            "rounding": None if self.rounding is None else self.rounding.to_dict(),
            "quantisation": None if self.quantisation is None else self.quantisation.to_dict(),
            "equal": {model: list(units) for model, units in self.equal.items()},
            "whole": list(self.whole),
            "vanished": list(self.vanished),
            "notes": {note: list(units) for note, units in self.notes.items()},
        }

    def _words(self, everywhere: Sequence[str]) -> Iterator[str]:
        """Return a line for each kind of finding, or for each of its first spots."""
        for note, names in self.notes.items():
            yield f"{note}, in {_places(everywhere, names)}"
        for spots, what in (
            (self.nonfinite, "non-finite elements"),
            (self.overflow, "elements overflow"),
        ):
            yield from (spot.words(what) for spot in spots[:_SHOWN])
            if len(spots) > _SHOWN:
                yield f"... and {counted(len(spots) - _SHOWN, 'more unit')} with {what}"
        if self.vanished:
            where = _places(everywhere, self.vanished)
            yield f"too small for the output's dtype: hardly anything but zeros is left of {where}"
        for model in self.whole:
            yield f"the whole result is equal to {quoted(model)}"
        for model, names in self.equal.items() if not self.whole else ():
            parents = "every model" if model == "all" else quoted(model)
            yield f"merged, and equal to {parents}: {_places(everywhere, names)}"
        if self.rounding is not None and self.rounding.share is not None:
            worst = f"most in {quoted(self.rounding.worst)}, {self.rounding.worst_share:.2g}"
            yield f"rounding lost {self.rounding.share:.2g} of the energy of the change, {worst}"
        if self.quantisation is not None:
            yield self.quantisation.words


def nonfinite_inputs(plan: Plan, figures: Mapping[str, Any]) -> tuple[Spot, ...]:
    """Return where inputs hold elements that are not finite; of a copy, the output shows it."""
    spots = []
    for unit, figure in _units(plan, figures):
        counts, firsts = figure["nonfinite"], figure["first_nonfinite"]
        models: Sequence[str] = unit.models
        if not counts:
            counts, firsts = [figure["nonfinite_out"]], [figure["first_nonfinite_out"]]
            models = unit.models[:1]
        spots += [
            _spot(plan, unit, model, (count, first))
            for model, count, first in zip(models, counts, firsts, strict=True)
            if count
        ]
    return tuple(spots)


def _units(plan: Plan, figures: Mapping[str, Any]) -> Iterator[tuple[Unit, Mapping[str, Any]]]:
    units = ((plan.units[figure["unit"]], figure) for figure in figures["units"])
    return ((unit, figure) for unit, figure in units if unit.reason != BESIDE)


def _spot(plan: Plan, unit: Unit, model: str, found: tuple[int, int]) -> Spot:
    elements, first = found
    width = max(1, plan.outputs[unit.output].row_elements)
    return Spot(model, unit.name, elements, first, first // width)


def _overflow(plan: Plan, figures: Mapping[str, Any]) -> Iterator[Spot]:
    for unit, figure in _units(plan, figures):
        if figure["overflowed"]:
            yield _spot(plan, unit, "", (figure["overflowed"], figure["first_overflowed"]))


def _rounding(plan: Plan, figures: Mapping[str, Any]) -> Rounding | None:
    lost, change, worst = 0.0, 0.0, ("", 0.0)
    for unit, figure in _units(plan, figures):
        if not figure["sampled"]:
            continue
        scale = figure["elements"] / figure["sampled"]
        lost += figure["rounding2"] * scale
        change += figure["change2"] * scale
        share = figure["rounding2"] / figure["change2"] if figure["change2"] > 0 else 0.0
        if share > worst[1]:
            worst = (unit.name, share)
    return Rounding(lost, change, *worst) if worst[0] else None


def _vanished(plan: Plan, figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the units whose rounding error has at least half the energy of the largest operand."""
    for unit, figure in _units(plan, figures):
        if figure["sampled"] and figure["norm2"]:
            lost = figure["rounding2"] * figure["elements"] / figure["sampled"]
            if lost > 0 and lost >= _LITTLE * max(figure["norm2"]):
                yield unit.name


def _equals(unit: Unit, figure: Mapping[str, Any]) -> set[str]:
    """Return the models whose values a unit of the output has."""
    if not figure["equal"]:  # copied bytes, or nothing was measured
        copied = {"copy": unit.models[:1], "same": unit.models}.get(unit.op, ())
        return set(copied)
    return {model for model, same in zip(unit.models, figure["equal"], strict=True) if same}


def _equal(plan: Plan, figures: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    equal: dict[str, list[str]] = {}
    for unit, figure in _units(plan, figures):
        models = dict.fromkeys(unit.models)
        if len(models) < 2 or not figure["equal"]:
            continue
        same = _equals(unit, figure)
        for model in ["all"] if same == set(models) else [m for m in models if m in same]:
            equal.setdefault(model, []).append(unit.name)
    return {model: tuple(units) for model, units in equal.items()}


def _whole(plan: Plan, figures: Mapping[str, Any]) -> tuple[str, ...]:
    if all(len(set(unit.models)) < 2 for unit in plan.units):
        return ()  # nothing was merged
    models = [parent.name for parent in plan.about.parents]
    for unit, figure in _units(plan, figures):
        same = _equals(unit, figure)
        models = [model for model in models if model in same]
    return tuple(models)


def _zeros(plan: Plan, figures: Mapping[str, Any]) -> Iterator[str]:
    """Tell of blocks that a model has nothing in, norms included: the rest of a download, mostly.

    Of what is copied from one model nothing is measured.
    """
    blocks: dict[tuple[str, str], bool] = {}
    for unit, figure in _units(plan, figures):
        block, part = place_of(unit.name)
        for model, empty in zip(unit.models, figure["zero"], strict=False):
            if block != part:
                blocks[model, block] = blocks.get((model, block), True) and empty
    found: dict[str, list[str]] = {}
    for (model, block), empty in blocks.items():
        if empty:
            found.setdefault(model, []).append(block)
    for model, empty_blocks in found.items():
        what = listing(empty_blocks, noun="block")
        yield f"{quoted(model)}: half a download, perhaps: all zeros in {what}"


def _notes(plan: Plan, figures: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    notes: dict[str, list[str]] = {}
    for unit, figure in _units(plan, figures):
        if figure.get("note"):
            notes.setdefault(figure["note"], []).append(unit.name)
    return {note: tuple(units) for note, units in notes.items()}


def _places(everywhere: Iterable[str], names: Sequence[str]) -> str:
    """Return ``2 units: `final` ``: how many, and the shortest selectors that reach them."""
    where = selectors(everywhere, names)
    more = f" and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
    return f"{counted(len(names), 'unit')}: {', '.join(map(quoted, where[:_SHOWN]))}{more}"
