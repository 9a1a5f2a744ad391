"""The input tensors that have no place in the output, each with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.checkpoint.forms import DESCRIBED
from submerge.errors import quoted
from submerge.plan.about import Unused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from submerge.layout import Model
    from submerge.plan.form import Unit
    from submerge.plan.guidance import GuidanceOutcome
    from submerge.plan.unit import Inputs

__all__ = ["list_unused"]


def list_unused(
    inputs: Inputs,
    units: Mapping[str, Unit],
    guidance: GuidanceOutcome,
    owner: str | None,
    extras: str | None,
    written: Collection[str],
) -> tuple[Unused, ...]:
    """Return the tensors of all models that are in no output, by model and reason.

    `owner` is the model whose extras are carried, `extras` what the recipe says of them. Tensors of
    a guidance network that was baked are listed too: their numbers count, but they are gone. Marks
    of a number format that are made anew are among the `written` names.
    """
    found: list[Unused] = []
    for name, model in inputs.models.items():
        reasons: dict[str, list[str]] = {}
        for unit in model.units:
            decided = guidance.units.get(unit, units[unit])
            reason = _reason(decided, guidance, used=(name, unit) in inputs.used)
            if reason:
                reasons.setdefault(reason, []).append(unit)
        for reason, gone in reasons.items():
            found.append(Unused(name, _tensors(model, gone), reason))
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
        for what, tensors in model.checkpoint.beside.items():
            lost = tuple(tensor for tensor in tensors if tensor not in written)
            if lost and what != DESCRIBED:  # scales are read with their codes
                found.append(Unused(name, lost, what))
    return (*found, *_of_adapters(inputs))


def _of_adapters(inputs: Inputs) -> Iterator[Unused]:
    """Yield the keys of adapters that are not applied."""
    for fused in inputs.adapters:
        reasons: dict[str, list[str]] = {}
        for made in (fused, *fused.encoders.values()):
            for key, why in {**made.resolved.unmatched, **made.resolved.left}.items():
                reasons.setdefault(why, []).append(key)
        for what, keys in fused.adapter.elsewhere.items():
            if what not in fused.encoders:
                reasons.setdefault(f"for {what}", []).extend(keys)
        for why, lost in reasons.items():
            yield Unused(fused.name, tuple(lost), why)


def _reason(unit: Unit, guidance: GuidanceOutcome, *, used: bool) -> str | None:
    """Return why a unit of a model has no place in the output; None when it has one."""
    if guidance.has(unit.name) and guidance.absent and (used or not guidance.baked):
        return guidance.absent
    if used:
        return None
    if unit.reason in ("include", "exclude"):
        what = "outside `include`" if unit.reason == "include" else "in `exclude`"
        return f"{what}, which is left to the first model"
    if unit.op == "copy":
        return f"{quoted(unit.models[0])} is taken ({unit.reason})"
    return f"weight 0 ({unit.reason})"


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
