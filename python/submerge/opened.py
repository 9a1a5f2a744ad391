"""A plan opened instead of written: its tensors, each made when it is asked for.

What is made is byte for byte what the file would hold. Nothing is kept between two tensors, so
memory is that of the tensor asked for and of the core's buffers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from submerge.plan.form import OutFile
from submerge.plan.terms import Rows
from submerge.run import RunOptions, execute_into, expect_finite_adapters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.plan import Plan
    from submerge.plan.form import OutputTensor, Unit

__all__ = ["Opened"]


class Opened:
    """The tensors of a plan; any thread may ask for them.

    Args:
        plan: what would be written; its target is left alone.
        options: how to run, for each tensor.

    Raises:
        AdapterError: an adapter of the plan holds numbers that are not finite.
        PlanError: a file changed since the plan was made.
        OSError: a file cannot be read.

    Attributes:
        tensors: the tensors by name.
    """

    def __init__(self, plan: Plan, options: RunOptions | None = None) -> None:
        given = RunOptions() if options is None else options
        self._options = given.with_(stats=False, progress=None)
        self._plan = replace(plan, texts=(), copies=(), files=(OutFile("", {}),), factors=None)
        self.tensors: Mapping[str, OutputTensor] = {o.name: o for o in plan.outputs}
        self._units: dict[str, list[Unit]] = {o.name: [] for o in plan.outputs}
        for unit in plan.units:
            name = plan.outputs[unit.output].name
            self._units[name].append(unit._replace(output=0))
        expect_finite_adapters(plan.factors, given)

    @property
    def computed(self) -> frozenset[str]:
        """The names of the tensors that are not rows of the files as they are, but for a dtype."""
        return frozenset(n for n, units in self._units.items() if not all(map(_is_copy, units)))

    def into(self, name: str, memory: bytearray | memoryview) -> None:
        """Fill memory with a tensor.

        Args:
            name: the tensor.
            memory: writable bytes in one dimension, as many as `tensors[name].nbytes`.

        Raises:
            KeyError: there is no such tensor.
            PlanError: a file was written or replaced meanwhile, or memory of another size.
            Cancelled: the run was cancelled.
            OSError: a file cannot be read, or is no longer there.
        """
        output = self.tensors[name]._replace(file=0)
        one = replace(self._plan, outputs=(output,), units=tuple(self._units[name]))
        execute_into(one, self._options, memory)


def _is_copy(unit: Unit) -> bool:
    """Tell whether a unit is rows of one file, whose dtype says what they mean."""
    if unit.op != "copy" or unit.added:
        return False
    ((first, *more),) = unit.operands
    return not more and isinstance(first, Rows) and first.codec is None
