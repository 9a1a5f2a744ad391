"""The input tensors that have no place in the output, each with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.errors import quoted
from submerge.plan.form import Unused
from submerge.plan.guidance import is_guidance

if TYPE_CHECKING:
    from submerge.layout import Model
    from submerge.plan.decide import Choice, Decided
    from submerge.plan.fill import Filler
    from submerge.plan.guidance import Settled

__all__ = ["list_unused"]


def list_unused(
    filler: Filler, decided: Decided, settled: Settled, owner: str | None, extras: str | None
) -> tuple[Unused, ...]:
    """Return the tensors of all models that are in no output, by model and reason.

    `owner` is the model whose extras are carried, `extras` what the recipe says of them. Tensors of
    a guidance MLP that was baked are listed too: their numbers count, but they are gone.
    """
    found: list[Unused] = []
    for name, model in filler.models.items():
        reasons: dict[str, list[str]] = {}
        for unit in model.units:
            choice = settled.choices.get(unit, decided.choices[unit])
            reason = _reason(name, unit, choice, filler, settled)
            if reason:
                reasons.setdefault(reason, []).append(unit)
        for reason, units in reasons.items():
            found.append(Unused(name, _tensors(model, units), reason))
        if model.extras and name != owner:
            why = (
                "`extras: drop`"
                if extras == "drop"
                else f"those of {quoted(str(owner))} are carried"
            )
            found.append(Unused(name, model.extras, why))
        others = _others(model)
        if others:
            found.append(Unused(name, others, "no part of the transformer"))
    return tuple(found)


def _reason(name: str, unit: str, choice: Choice, filler: Filler, settled: Settled) -> str | None:
    """Return why a unit of a model has no place in the output; None when it has one."""
    used = (name, unit) in filler.used
    if is_guidance(unit) and settled.absent and (used or settled.baked is None):
        return settled.absent
    if used:
        return None
    field = choice.reason
    if field in ("include", "exclude"):
        what = "outside `include`" if field == "include" else "in `exclude`"
        return f"{what}, which is left to the first model"
    if choice.take and choice.weights:
        return f"{quoted(next(iter(choice.weights)))} is taken ({field})"
    return f"weight 0 ({field})"


def _tensors(model: Model, units: list[str]) -> tuple[str, ...]:
    """Return the tensors the units make up; of a tensor used in part, the rows that are not."""
    gone: dict[str, list[tuple[int, int]]] = {}
    for unit in units:
        place = model.units[unit].place
        gone.setdefault(place.tensor, []).append((place.start, place.end))
    names = []
    for tensor, ranges in gone.items():
        rows = sum(end - start for start, end in ranges)
        if rows == model.checkpoint.tensors[tensor].rows:
            names.append(tensor)
        else:
            names += [f"{tensor} rows {start}..{end}" for start, end in sorted(ranges)]
    return tuple(names)


def _others(model: Model) -> tuple[str, ...]:
    placed = {info.place.tensor for info in model.units.values()} | set(model.extras)
    return tuple(name for name in sorted(model.checkpoint.tensors) if name not in placed)
