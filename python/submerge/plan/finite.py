"""The plan that looks whether the numbers of adapters are finite, before a model is written.

One NaN in a factor is a row or a column of NaN in the model, which would be blamed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.adapters import spans
from submerge.errors import AdapterError, counted, quoted
from submerge.methods import Blend
from submerge.plan.about import About
from submerge.plan.form import OutputTensor, Plan, Unit
from submerge.plan.terms import Rows, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from submerge.plan.adapted import Fused

__all__ = ["expect_finite", "factors_plan"]


def factors_plan(adapters: Iterable[Fused]) -> Plan | None:
    """Return the plan whose measurement `expect_finite` reads; None where nothing is added.

    Each tensor of an adapter that a unit is made with is a unit of its own.
    """
    sources: dict[Path, Source] = {}
    units: dict[tuple[Path, str], Unit] = {}
    outputs: list[OutputTensor] = []
    for fused in adapters:
        file = fused.adapter.checkpoint.files[0]
        deltas = (delta for unit in fused.strengths for delta in fused.resolved.deltas[unit])
        for name in dict.fromkeys(span.tensor for delta in deltas for span in spans(delta)):
            if (file.path, name) in units:
                continue
            sources.setdefault(file.path, Source(file.path, file.identity))
            tensor = fused.adapter.checkpoint.tensors[name]
            rows = Rows(list(sources).index(file.path), name, 0, tensor.rows)
            # Of a copy the core decodes nothing.
            blend = Blend("linear", {"weights": [1.0]}, (str(fused.adapter.path),), fused.name)
            unit = Unit(name, "adapter", blend, ((rows,),), 0, tensor.rows, len(outputs))
            units[file.path, name] = unit
            # Two adapters may have tensors of one name.
            outputs.append(OutputTensor(0, f"{len(outputs)}", "F32", tensor.shape))
    if not units:
        return None
    about = About("factors", "units", "", "", "", ())
    return Plan.measuring(tuple(sources.values()), outputs, tuple(units.values()), about)


def expect_finite(made: Plan, figures: Mapping[str, Any]) -> None:
    """Refuse factors that are not finite, by the figures of a plan that measures them.

    Raises:
        AdapterError: naming the tensor.
    """
    found = [(made.units[f["unit"]], f) for f in figures["units"] if f["nonfinite"][0]]
    if found:
        unit, figure = found[0]
        more = f"; so in {counted(len(found) - 1, 'more tensor')}" if len(found) > 1 else ""
        raise AdapterError(
            f"{unit.models[0]}: {quoted(unit.name)}: {figure['nonfinite'][0]:,} of "
            f"{counted(figure['elements'], 'element')} infinite or NaN, expected none{more}",
            hint="training diverged, or the file is damaged; take an earlier checkpoint of it",
        )
