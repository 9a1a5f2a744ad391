"""Rounds of jobs, interleaved, and what came of each."""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benches.peers.check import Numerics, compare
from benches.peers.measure import Figures, drop_caches, files_of, remove, run, warm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.peers.jobs import Job

__all__ = ["Outcome", "run_rounds"]


@dataclass(slots=True)
class Outcome:
    """All runs of one job, and how right its output is."""

    job: Job
    runs: list[Figures] = field(default_factory=list)
    numerics: Numerics | None = None
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the outcome as data: medians, extremes, every run, or the error."""
        job = self.job
        said = {"name": job.name, "label": job.label, "floor": job.floor, "rival": job.rival}
        said |= {"command": " ".join(job.command), "error": self.error}
        if self.numerics is not None:
            said["numerics"] = asdict(self.numerics) | {"share": self.numerics.share}
        if self.runs:
            names = ("wall", "cpu", "system", "rss", "cached")
            columns = {name: [getattr(run, name) for run in self.runs] for name in names}
            said["median"] = {name: statistics.median(column) for name, column in columns.items()}
            said["wall_range"] = [min(columns["wall"]), max(columns["wall"])]
            said["runs"] = [asdict(run) for run in self.runs]
        return said


def run_rounds(jobs: Sequence[Job], rounds: int, *, cold: bool, sample: int) -> list[Outcome]:
    """Run every job once a round, each round from another start, and check each output once.

    A job that fails is not run again; its error is its result.
    """
    outcomes = [Outcome(job) for job in jobs]
    for number in range(rounds):
        first = number % len(outcomes)
        for outcome in outcomes[first:] + outcomes[:first]:
            if not outcome.error:
                _once(outcome, cold=cold, sample=sample)
    return outcomes


def _once(outcome: Outcome, *, cold: bool, sample: int) -> None:
    job = outcome.job
    remove(job.output)
    if cold:
        drop_caches()
    else:
        warm(file for path in job.inputs for file in files_of(path))
    figures = run(job.command, job.output, environment=job.environment)
    if figures.error:
        outcome.error = figures.error
    else:
        outcome.runs.append(figures)
        if outcome.numerics is None:
            outcome.error = _check(outcome, sample)
    remove(job.output)
    state = "cold" if cold else "warm"
    _say(f"{state} {job.name}: {outcome.error or f'{figures.wall:.2f} s'}")


def _check(outcome: Outcome, sample: int) -> str:
    """Check the output; a job whose numbers are wrong by more than their rounding has failed."""
    job = outcome.job
    outcome.numerics = compare(job.oracle, job.output, job.shares, sample=sample)
    if outcome.numerics.ulp > 1 and not job.rival:
        return f"wrong output: off by up to {outcome.numerics.ulp:.3g} units in the last place"
    if outcome.numerics.problems and not job.rival:
        return f"wrong output: {'; '.join(outcome.numerics.problems[:10])}"
    return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
