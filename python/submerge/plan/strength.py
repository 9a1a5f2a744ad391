"""The plans that measure an adapter: how long what it adds to each unit is.

`|up @ down|` follows from the Gram matrices of the factors, which are as small as the rank. What is
no product of two the core forms in windows and keeps sums of. Beside a model it is what the unit
becomes less what it was, so magnitudes and replaced tensors count too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from submerge.adapters import Magnitude, Multiplied, Product, Replacement
from submerge.methods import Blend
from submerge.plan.about import About
from submerge.plan.adapted import Fused, added
from submerge.plan.form import OutputTensor, Plan, Unit
from submerge.plan.making import Making, Module
from submerge.plan.terms import Rows, Source
from submerge.plan.unit import Inputs

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from submerge.layout import Model
    from submerge.plan.terms import Operand

__all__ = ["lengths_plan", "strength_plan"]


def lengths_plan(fused: Fused, shapes: Mapping[str, tuple[int, ...]]) -> Plan | None:
    """Return the plan whose modules are the units that an adapter adds products alone to.

    Measured they say how long these are; None where there are none.

    Args:
        fused: the adapter.
        shapes: those of the units.
    """
    modules: list[Module] = []
    units: list[Unit] = []
    outputs: list[OutputTensor] = []
    for name in fused.strengths:
        products = _products(fused, name)
        if not products:
            continue
        for product in products:
            for span, columns in zip(product.factors, _widths(fused, product), strict=True):
                rows = span.end - span.start
                blend = Blend("copy", {}, (fused.name,), fused.name, shares={fused.name: 1.0})
                unit = Unit(name, "adapter", blend, ((Rows(0, *span),),), 0, rows, len(outputs))
                units.append(unit)
                outputs.append(OutputTensor(0, f"{len(outputs)}", "F32", (rows, columns)))
        scales = tuple((fused.strengths[name] * product.scale, 0) for product in products)
        rank = sum(product.factors.down.end for product in products)
        made = Module(name, (name,), "products", rank, products=scales, rows=shapes[name][0])
        modules.append(made)
    if not modules:
        return None
    file = fused.adapter.checkpoint.files[0]
    about = About(fused.name, "units", "", "", "", ())
    plan = Plan.measuring((Source(file.path, file.identity),), outputs, units, about)
    return replace(plan, making=Making("peft", "F32", tuple(modules), {}))


def _products(fused: Fused, unit: str) -> list[Product]:
    """Return what an adapter adds to a unit, if that is products of thin matrices alone."""
    deltas = fused.resolved.deltas[unit]
    found = [delta for delta in deltas if isinstance(delta, Product)]
    return found if len(found) == len(deltas) else []


def _widths(fused: Fused, product: Product) -> tuple[int, int]:
    """Return the columns of `up` and of `down`."""
    tensors = fused.adapter.checkpoint.tensors
    up, down = (tensors[span.tensor].shape for span in product.factors)
    return up[1], down[1]


def strength_plan(
    fused: Fused,
    shapes: Mapping[str, tuple[int, ...]],
    model: Model | None,
    *,
    without: Container[str] = (),
) -> Plan | None:
    """Return the plan whose measurement says how long an adapter's part at each unit is.

    Each unit that the adapter changes is `0 * model + 1 * changed`, or, without a model, what is
    added alone; None where nothing can be measured.

    Args:
        fused: the adapter; onto the model, where there is one.
        shapes: those of the units.
        model: what it is put onto.
        without: units that are measured elsewhere.

    Raises:
        AdapterError: it changes what is no float.
    """
    models = {} if model is None else {str(fused.onto): model}
    inputs = Inputs(models, [fused])
    units: list[Unit] = []
    outputs: list[OutputTensor] = []
    for name, operands in _operands(fused, inputs):
        if name in without:
            continue
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
