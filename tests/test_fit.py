"""The memory a plan names is what the core takes, for every method."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factory
import submerge
from submerge import PlanError, cli
from submerge.run import RunOptions, fit
from test_methods_merge import CASES, IDS, Case, recipe

if TYPE_CHECKING:
    from submerge.run import RunArguments

MB = 1_000_000
RUNS: list[RunArguments] = [
    {}, {"threads": 1}, {"threads": 5, "chunk": "256KiB"}, {"memory_budget": "60MiB"},
    {"memory_budget": "1GiB", "threads": 2},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_plan_names_what_the_report_names(tmp_path: Path, case: Case) -> None:
    made = recipe(tmp_path, case)
    out = tmp_path / "out.safetensors"
    plan = submerge.plan(made, out)
    for run in RUNS:
        told = fit(plan, RunOptions.of(run))
        assert not out.exists()
        report = submerge.merge(made, out, **run)
        assert told == (report.run.threads, report.run.working_bytes), run
        out.unlink()


def test_the_smallest_budget_is_the_one_of_the_merge(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.method == "ties")
    made, out = recipe(tmp_path, case), tmp_path / "out.safetensors"
    plan = submerge.plan(made, out)
    with pytest.raises(PlanError, match=r"too few, expected at least \d+") as caught:
        fit(plan, RunOptions(memory_budget=1000))
    least = int(re.findall(r"at least (\d+)", caught.value.message)[0])
    assert fit(plan, RunOptions(memory_budget=least)) == (1, least)
    assert submerge.merge(made, out, memory_budget=least).run.working_bytes == least
    with pytest.raises(PlanError):
        fit(plan, RunOptions(memory_budget=least - 1))


def test_the_command_line_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.method == "breadcrumbs")
    path = factory.write_json(tmp_path / "recipe.json", recipe(tmp_path, case))
    out = tmp_path / "out.safetensors"
    assert cli._run(["plan", str(path), "-o", str(out), "--threads", "1"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("memory"))
    report = submerge.merge(path, out, threads=1)
    # A kernel that looks for sets of the largest keeps far more than its windows.
    assert report.run.working_bytes > 20 * MB
    assert f"memory    {report.run.working_bytes / MB:.1f} MB of windows" in line
    assert "(1 thread, up to 3 operands at a time)" in line


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, CASES[0])
    plan = submerge.plan(made, tmp_path / "out.safetensors")
    path = Path(plan.sources[0].path)
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))
    with pytest.raises(PlanError, match="is not the file the plan was made for"):
        fit(plan, RunOptions())


# Of the whole process, measured: what it has beside what the core takes is what a merge of next to
# nothing has.


# The peak of this process alone: what `getrusage` tells begins with that of who started it.
CHILD = """
import sys
from pathlib import Path
from submerge import cli
code = cli._run(sys.argv[1:])
print("\\n" + Path("/proc/self/status").read_text())
sys.exit(code)
"""


def peak(recipe: Path, out: Path, io: str) -> tuple[int, int]:
    """Peak resident bytes of a merge in a process of its own, and what it was planned to take."""
    arguments = ["merge", str(recipe), "-o", str(out), "--json", "--threads", "2", "--io", io]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True
    )
    report, _, status = done.stdout.partition("\nName:")
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    out.unlink()
    return int(kilobytes) * 1024, json.loads(report)["run"]["working_bytes"]


MAKE = """
import sys
from pathlib import Path
import numpy as np
import factory
random = np.random.default_rng(1)
base = random.standard_normal((2048, 2048), np.float32)
for name in ("anna", "base", "carl", "dora"):
    off = 0.0 if name == "base" else random.standard_normal(base.shape, np.float32)
    for prefix, x in (("", base + np.float32(0.1) * off), ("small-", base[:4, :4])):
        factory.write(Path(sys.argv[1], f"{prefix}{name}.safetensors"), {"w": x})
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of 16 MB in one matrix, and small ones; made elsewhere: we stay small."""
    folder = tmp_path_factory.mktemp("models")
    tests = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True, env=tests)
    return folder


# Windows are mapped for all methods alike. `rotate` would take most of a minute of one core.
MAPPED = ("lerp", "slerp", "ties", "sce", "smooth_add", "tsv_m")
ONE_OF_EACH = {case.method: case for case in reversed(CASES) if case.method != "rotate"}
MEASURED = [(name, "pread") for name in sorted(ONE_OF_EACH)] + [(name, "mmap") for name in MAPPED]
# What a process has beside its own from one run to the next: stacks, heaps of threads.
NOISE = 2 * MB  # the base may run on one thread where the case runs on two
# Mapped pages are given back by blocks: each operand of a thread may touch one more than it sees.
BLOCK = 2 << 20


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
@pytest.mark.parametrize(("name", "io"), MEASURED)
def test_the_process_takes_no_more_than_that_and_its_base(
    models: Path, tmp_path: Path, name: str, io: str
) -> None:
    case = ONE_OF_EACH[name]

    def measured(prefix: str, method: Any) -> tuple[int, int]:
        paths = {m: {"path": str(models / f"{prefix}{m}.safetensors"), "layout": "generic"}
                 for m in case.models}  # fmt: skip
        made = {"models": paths, "method": method}
        made |= {} if case.base is None or method == "linear" else {"base": case.base}
        path = factory.write_json(tmp_path / "recipe.json", made)
        return peak(path, tmp_path / "out.safetensors", io)

    parameters = dict(case.parameters) | ({"rank": 8} if case.method == "tsv_m" else {})
    base, _ = measured("small-", {"linear": {"weight": dict.fromkeys(case.models, 1)}})
    taken, planned = measured("", {case.method: parameters})
    mapped = 2 * len(case.models) * BLOCK if io == "mmap" else 0
    assert taken <= base + planned + mapped + NOISE, (case.method, taken, base, planned)
