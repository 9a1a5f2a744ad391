"""The plan that compares two models: only the statistics of their pairs are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from submerge.checkpoint import FLOATS
from submerge.errors import LayoutError, listing, quoted
from submerge.plan.compile import agree
from submerge.plan.decide import union
from submerge.plan.fill import Filler
from submerge.plan.form import About, OutFile, Output, Parent, Plan, Unit, Unused
from submerge.plan.provenance import label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.layout import Model

__all__ = ["comparison_plan"]


def comparison_plan(models: Mapping[str, Model]) -> Plan:
    """Return the plan whose measurement compares the second of two models with the first.

    Each unit both have is `0 * first + 1 * second` in the first's dtype, an output of its own that
    nobody writes, so that `changed` counts the elements that differ from the first's. Units only
    one has, and units of other shapes or of dtypes that are no floats, are left out and named in
    the notes.

    Raises:
        LayoutError: not two models, of different architectures, or with no unit in common.
    """
    if len(models) != 2:
        raise LayoutError(f"models: expected two to compare, got {len(models)}")
    agree(models)
    first, second = models
    a = models[first]
    filler = Filler(models)
    outputs: list[Output] = []
    units: list[Unit] = []
    left: dict[tuple[str, str], list[str]] = {}
    read = 0
    for name in union(models):
        why = _obstacle(name, models)
        if why is not None:
            left.setdefault(why, []).append(name)
            continue
        # Recipes order operands by name; here the first model is the reference, whatever its name.
        info = a.units[name]
        trailing = a.checkpoint.tensors[info.place.tensor].shape[1:]
        operands = (filler.rows(first, name), filler.rows(second, name))
        unit = Unit(
            name=name,
            output=len(outputs),
            start=0,
            end=info.rows,
            operands=operands,
            op="linear",
            arguments={"weights": [0.0, 1.0]},
            models=(first, second),
            shares={second: 1.0},
            formula=second,
            reason="comparison",
        )
        units.append(unit)
        outputs.append(Output(0, name, info.dtype, (info.rows, *trailing)))
        read += sum(filler.nbytes(model, name) for model in models)
    if not units:
        raise LayoutError(f"{quoted(first)} and {quoted(second)} have no units in common")
    parents = tuple(
        Parent(name, label(str(model.checkpoint.path)), model.variant, "", contributes=True)
        for name, model in models.items()
    )
    notes = tuple(f"{why}: {listing(names, noun='unit')}" for (_, why), names in left.items())
    unused = tuple(
        Unused(model, tuple(names), why) for (model, why), names in left.items() if model in models
    )
    about = About(
        title=f"{first} and {second}",
        layout="units",
        dtype="",
        guidance="",
        license="",
        parents=parents,
        notes=notes,
        unused=unused,
    )
    return Plan(
        # Never written: the core only measures.
        target=Path("compared.safetensors").absolute(),
        is_folder=False,
        overflow="saturate",
        sources=tuple(filler.sources.values()),
        files=(OutFile("", {}),),
        texts=(),
        copies=(),
        outputs=tuple(outputs),
        units=tuple(units),
        about=about,
        read_bytes=read,
    )


def _obstacle(unit: str, models: Mapping[str, Model]) -> tuple[str, str] | None:
    """Return why a unit cannot be compared, and the only model that has it, if one does."""
    having = [name for name, model in models.items() if unit in model.units]
    if len(having) < len(models):
        return having[0], f"only {quoted(having[0])} has"
    infos = [model.units[unit] for model in models.values()]
    if any(info.dtype not in FLOATS for info in infos):
        return "", "not compared, no floats"
    if len({(info.rows, info.row_elements) for info in infos}) > 1:
        return "", "not compared, different shapes"
    return None
