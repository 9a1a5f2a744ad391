"""Plans of a GPU carried out on the CPU: what they stream or move is streamed and moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.inference import LoadPlan, Machine, planner

if TYPE_CHECKING:
    from collections.abc import Callable

    from submerge.inference import Sizes, Work

__all__ = ["RUNGS", "on_a_gpu"]

RUNGS = ("resident", "text-first", "time-share", "blocks", "layers", "disk")


def on_a_gpu(rung: str, kind: str | None = None) -> Callable[..., LoadPlan]:
    """Return what plans a load by that rung, in place of `plan_load`."""

    def plan(
        sizes: Sizes, machine: Machine, work: Work, *, quantization: str | None, packages: bool
    ) -> LoadPlan:
        assert packages
        ladder = planner._ladder(sizes, Machine("cuda"), work, quantization)
        found = next(r for r in ladder if (r.name, r.quantization) == (rung, kind))
        return LoadPlan(machine, work, sizes, found, ())

    return plan
