"""The plan that measures an adapter: how long what it adds to each unit is.

`|up @ down|` needs no product in memory: the core forms it in windows and keeps sums. Beside a
model it is what the unit becomes less what it was, so magnitudes and replaced tensors count too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.adapters import Magnitude, Multiplied, Replacement
from submerge.methods import Blend
from submerge.plan.about import About
from submerge.plan.adapted import Fused, added
from submerge.plan.form import OutputTensor, Plan, Unit
from submerge.plan.terms import Rows, Source
from submerge.plan.unit import Inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from submerge.layout import Model
    from submerge.plan.terms import Operand

__all__ = ["strength_plan"]


def strength_plan(
    fused: Fused, shapes: Mapping[str, tuple[int, ...]], model: Model | None
) -> Plan | None:
    """Return the plan whose measurement says how long an adapter's part at each unit is.

    Each unit that the adapter changes is `0 * model + 1 * changed`, or, without a model, what is
    added alone; None where nothing can be measured.

    Args:
        fused: the adapter; onto the model, where there is one.
        shapes: those of the units.
        model: what it is put onto.

    Raises:
        AdapterError: it changes what is no float.
    """
    models = {} if model is None else {str(fused.onto): model}
    inputs = Inputs(models, [fused])
    units: list[Unit] = []
    outputs: list[OutputTensor] = []
    for name, operands in _operands(fused, inputs):
        weights = [0.0] * (len(operands) - 1) + [1.0]
        blend = Blend("linear", {"weights": weights}, (fused.name,) * len(operands), fused.name)
        shape = shapes[name]
        units.append(Unit(name, "adapter", blend, operands, 0, shape[0], len(outputs)))
        outputs.append(OutputTensor(0, name, "F32", shape))
    if not units:
        return None
    file = fused.adapter.checkpoint.files[0]
    about = About(fused.name, "units", "", "", "", ())
    sources = inputs.sources if models else (Source(file.path, file.identity),)
    read = sum(map(fused.nbytes, (unit.name for unit in units)))
    return Plan.measuring(sources, outputs, units, about, read)


def _operands(fused: Fused, inputs: Inputs) -> Iterator[tuple[str, tuple[Operand, ...]]]:
    for name in fused.strengths:
        for model in inputs.models:
            yield name, ((inputs.rows(model, name),), inputs.operand(model, name))
        if not inputs.models:
            alone = tuple(
                delta
                for delta in fused.resolved.deltas[name]
                if not isinstance(delta, Magnitude | Multiplied | Replacement)
            )
            if alone:
                resolved = fused.resolved._replace(deltas={name: alone})
                part = fused._replace(resolved=resolved)
                yield name, (added(part, name, (), lambda span: Rows(0, *span)),)
