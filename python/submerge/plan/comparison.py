"""The plan that compares two models: only the statistics of their pairs are wanted."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from submerge.adapters import open_adapter
from submerge.checkpoint import NUMBERS
from submerge.checkpoint.codecs import CODECS
from submerge.errors import LayoutError, counted, listing, quoted
from submerge.methods import Blend
from submerge.plan.about import About, Parent, Unused
from submerge.plan.adapted import fuse
from submerge.plan.compile import agree
from submerge.plan.decide import union
from submerge.plan.finite import factors_plan
from submerge.plan.form import OutputTensor, Plan, Unit
from submerge.plan.labels import label
from submerge.plan.outputs import dtype_of
from submerge.plan.precision import precision_words
from submerge.plan.unit import Inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.layout import Model
    from submerge.recipe import AdapterSource

__all__ = ["Question", "comparison_plan"]


class Question(NamedTuple):
    """What an analysis asks beyond a comparison.

    Attributes:
        alpha: share of the second model in the merge that is asked about.
        dtype: what that merge would be rounded to, as headers spell it; None: the first model's.
        base: the name of the model both come from, if one is given.
    """

    alpha: float
    dtype: str | None = None
    base: str | None = None


def comparison_plan(
    models: Mapping[str, Model],
    question: Question | None = None,
    adapters: Sequence[AdapterSource] = (),
) -> Plan:
    """Return the plan whose measurement compares the second of two models with the first.

    Each unit both have is `0 * first + 1 * second` in the first's dtype, an output of its own that
    nobody writes, so that `changed` counts the elements that differ from the first's. With a
    `question` each unit is analysed instead, beside the base where the base has it. Units only one
    has, and units of other shapes or of dtypes that are no numbers, are left out and named in the
    notes.

    `adapters` are added to the models they name before anything is measured.

    Raises:
        LayoutError: not two models, of different architectures, or with no unit in common.
        AdapterError, CheckpointError: an adapter is damaged, or does not fit its model.
    """
    base = None if question is None else question.base
    pair = {name: model for name, model in models.items() if name != base}
    if len(pair) != 2:
        raise LayoutError(f"models: expected two to compare, got {len(pair)}")
    agree(models)
    first, second = pair
    opened = [open_adapter(source.path) for source in adapters]
    inputs = Inputs(models, fuse(adapters, opened, models, union(models)))
    outputs: list[OutputTensor] = []
    units: list[Unit] = []
    left: dict[tuple[str, str], list[str]] = {}
    read = 0
    for name in union(pair):
        why = _obstacle(name, pair)
        if why is not None:
            left.setdefault(why, []).append(name)
            continue
        # Recipes order operands by name; here the first model is the reference, whatever its name.
        using: tuple[str, ...] = (first, second)
        if base is not None and _obstacle(name, {first: pair[first], base: models[base]}) is None:
            using = (base, first, second)
        elif base is not None:
            left.setdefault(("", "without a base"), []).append(name)
        unit = _compared(inputs, using, name, question)
        units.append(unit._replace(output=len(outputs)))
        info = pair[first].units[name]
        dtype = (question.dtype if question else None) or _exact(name, info.dtype)
        shape = (info.rows, *inputs.tensor(first, name).shape[1:])
        outputs.append(OutputTensor(0, name, dtype, shape))
        read += inputs.nbytes(unit)
    if not units:
        raise LayoutError(f"{quoted(first)} and {quoted(second)} have no units in common")
    about = _about(f"{first} and {second}", inputs, left, [unit.name for unit in units])
    made = Plan.measuring(inputs.sources, outputs, units, about, read)
    return replace(made, factors=factors_plan(inputs.adapters))


def _exact(name: str, dtype: str) -> str:
    """Return a dtype that holds what numbers of this one are decoded to."""
    return "F32" if dtype in CODECS else dtype_of(name, (dtype,), "same")


def _rounded(models: Mapping[str, Model], names: Sequence[str]) -> tuple[str, ...]:
    """Tell whose numbers are not compared as they are: F64 is decoded to F32."""
    held = {name: [n for n in names if n in model.units] for name, model in models.items()}
    counts = {m: sum(models[m].units[n].dtype == "F64" for n in held[m]) for m in models}
    return tuple(
        f"{quoted(model)}: {counted(count, 'unit')} in F64 compared as the nearest F32"
        for model, count in counts.items()
        if count
    )


def _about(
    title: str,
    inputs: Inputs,
    left: Mapping[tuple[str, str], Sequence[str]],
    compared: Sequence[str],
) -> About:
    """Return what the plan says of itself; `left` are the units it leaves out, and why."""
    models = inputs.models
    notes = [f"{why}: {listing(names, noun='unit')}" for (_, why), names in left.items()]
    notes += _rounded(models, compared)
    notes += [
        f"{quoted(fused.name)} onto {quoted(str(fused.onto))}: {fused.kind}"
        for fused in inputs.adapters
    ]
    return About(
        title=title,
        layout="units",
        dtype="",
        guidance="",
        license="",
        parents=tuple(
            Parent(
                name,
                label(str(model.checkpoint.path)),
                model.variant,
                "",
                True,
                precision_words(model),
            )
            for name, model in models.items()
        ),
        notes=tuple(notes),
        unused=tuple(
            Unused(model, tuple(names), why)
            for (model, why), names in left.items()
            if model in models
        ),
    )


def _compared(inputs: Inputs, using: tuple[str, ...], name: str, question: Question | None) -> Unit:
    """Return the unit that measures the models' rows, the last two beside each other."""
    operands = tuple(inputs.operand(model, name) for model in using)
    rows = inputs.models[using[-1]].units[name].rows
    return Unit(name, "comparison", _blend(using, question), operands, 0, rows)


@lru_cache(maxsize=16)
def _blend(using: tuple[str, ...], question: Question | None) -> Blend:
    """Return the operation that measures models, the last two beside each other."""
    second = using[-1]
    shares = {second: 1.0}
    if question is None:
        return Blend("linear", {"weights": [0.0, 1.0]}, using, second, shares=shares)
    return Blend("analyze", {"alpha": question.alpha}, using, second, shares=shares)


def _obstacle(unit: str, models: Mapping[str, Model]) -> tuple[str, str] | None:
    """Return why a unit cannot be compared, and the only model that has it, if one does."""
    having = [name for name, model in models.items() if unit in model.units]
    if len(having) < len(models):
        return having[0], f"only {quoted(having[0])} has"
    infos = [model.units[unit] for model in models.values()]
    if any(info.dtype not in NUMBERS for info in infos):
        return "", "not compared, no numbers"
    if len({(info.rows, info.row_elements) for info in infos}) > 1:
        return "", "not compared, different shapes"
    return None
