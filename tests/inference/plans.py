"""Plans of a GPU carried out on the CPU: what they stream or move is streamed and moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.inference import LoadPlan, Machine, planner

if TYPE_CHECKING:
    from collections.abc import Callable

    from submerge.inference import Sizes, Work

__all__ = ["CANDIDATES", "on_a_gpu"]

CANDIDATES = ("resident", "text-first", "time-share", "blocks", "layers", "disk")


def on_a_gpu(name: str, kind: str | None = None) -> Callable[..., LoadPlan]:
    """Return what plans a load by that candidate, in place of `plan_load`."""

    def plan(
        sizes: Sizes, machine: Machine, work: Work, *, quantization: str | None, packages: bool
    ) -> LoadPlan:
        assert packages
        candidates = planner._candidates(sizes, Machine("cuda"), work, quantization)
        found = next(r for r in candidates if (r.name, r.quantization) == (name, kind))
        return LoadPlan(machine, work, sizes, found, ())

    return plan
