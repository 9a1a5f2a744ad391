"""Ways to paint in tests: by a GPU's plans on the CPU, and in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from submerge.inference import LoadPlan, Machine, planner

if TYPE_CHECKING:
    from collections.abc import Callable

    from submerge.inference import Sizes, Work

__all__ = ["CANDIDATES", "alone", "on_a_gpu"]

CANDIDATES = ("resident", "text-first", "time-share", "blocks", "layers", "disk")


def on_a_gpu(name: str, kind: str | None = None) -> Callable[..., LoadPlan]:
    """Return what plans a load by that candidate, in place of `plan_load`.

    What it streams or moves is streamed and moved.
    """

    def plan(
        sizes: Sizes, machine: Machine, work: Work, *, quantization: str | None, packages: bool
    ) -> LoadPlan:
        assert packages
        candidates = planner._candidates(sizes, Machine("cuda"), work, quantization)
        found = next(r for r in candidates if (r.name, r.quantization) == (name, kind))
        return LoadPlan(machine, work, sizes, found, ())

    return plan


def alone(program: str, *arguments: object) -> str:
    """Return what a program prints in a process of its own, which must end well."""
    paths = os.pathsep.join([str(Path("python").absolute()), str(Path("tests").absolute())])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
