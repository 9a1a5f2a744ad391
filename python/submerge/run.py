"""How a plan is run: threads, memory, reading, progress, cancellation.

Nothing here changes a byte of the output; that is the recipe's business. The only place that hands
a plan to the core.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from submerge import _core
from submerge.checkpoint import MAX_HEADER_BYTES
from submerge.errors import RecipeError, listing, nearest
from submerge.profile.environment import cores
from submerge.profile.spans import record
from submerge.statistics import OFF, StatisticsCache
from submerge.values import size

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from submerge.plan import Plan
    from submerge.plan.form import Running
    from submerge.statistics import Statistics

__all__ = [
    "CancelToken",
    "RunArguments",
    "RunOptions",
    "__version__",
    "build_info",
    "execute",
    "fit",
]

Mode = Literal["write", "measure", "check", "fit"]

_BUDGET, _MATRIX_BUDGET = "64MiB", "512MiB"
_CHOICES = {
    "io": ("auto", "mmap", "pread"),
    "cache": ("drop", "keep"),
    "isa": ("auto", "scalar", "avx2", "avx512", "neon"),
}


def build_info() -> dict[str, Any]:
    """Return what the compiled core says of itself: version, numerics, instruction sets, dtypes."""
    info: dict[str, Any] = json.loads(_core.build_info())
    return info


__version__: str = build_info()["version"]


class CancelToken:
    """Cancels the run it was passed to, from any thread, within 250 ms.

    One token belongs to one run; a run given a token that is already cancelled stops at once.
    """

    __slots__ = ("_job",)

    def __init__(self) -> None:
        self._job = _core.Job()

    def cancel(self) -> None:
        """Ask the run to stop; it raises `Cancelled` and leaves nothing behind."""
        self._job.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._job.cancelled


class RunArguments(TypedDict, total=False):
    """The keywords every verb that reads tensors takes; `RunOptions` has their meaning."""

    threads: int | None
    memory_budget: int | str | None
    chunk: int | str
    io: str
    cache: str
    isa: str
    overwrite: bool
    stats: bool
    statistics_cache: str | os.PathLike[str] | None
    progress: Callable[[int, int], object] | None
    cancel: CancelToken | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run; none of it changes a byte of the output.

    Attributes:
        threads: worker threads; None is one for each core this process may use.
        memory_budget: bytes of working memory, as a number or `"64MiB"`. A job that does not fit
            takes smaller chunks, then fewer threads, then is refused. None is 64 MiB, and what they
            need up to 512 MiB for methods of whole matrices.
        chunk: bytes of output computed at a time, as a number or `"1MiB"`; less with more than two
            models, so that memory stays the same.
        io: `mmap` windows, positioned reads (`pread`), or what was fastest where it was measured
            (`auto`), which is `pread`.
        cache: `drop` keeps the pages of the output out of the page cache; `keep` leaves them for
            a program that loads the output next.
        isa: the instruction set of the kernels; every one gives the same bytes.
        overwrite: replace an existing output; it stays as it is until the new one is complete.
        stats: measure the parents while merging: cosine and relative L2 of each block and part.
        statistics_cache: the folder where a merge keeps what it found out about whole tensors, for
            later merges of the same files; `off` keeps and uses nothing. None is what
            `SUBMERGE_STATISTICS_CACHE` says, else `submerge/statistics` in the user's cache
            directory.
        progress: called as `progress(done_bytes, total_bytes)` on the calling thread, at most ten
            times a second; returning False cancels, raising cancels and raises.
        cancel: stops the run from any thread.
    """

    threads: int | None = None
    memory_budget: int | str | None = None
    chunk: int | str = "1MiB"
    io: str = "auto"
    cache: str = "drop"
    isa: str = "auto"
    overwrite: bool = False
    stats: bool = True
    statistics_cache: str | os.PathLike[str] | None = None
    progress: Callable[[int, int], object] | None = None
    cancel: CancelToken | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise RecipeError(f"{name}: expected one of {', '.join(choices)}, got `{value}`")
        if self.threads is not None and self.threads < 1:
            raise RecipeError(f"threads: expected at least 1, got {self.threads}")
        self.sizes()
        StatisticsCache.of(self.statistics_cache)

    @classmethod
    def of(cls, arguments: RunArguments) -> RunOptions:
        """Return the options for keywords, refusing unknown ones with the nearest names."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in arguments if name not in known]:
            close = nearest(unknown[0], known) or known
            raise TypeError(
                f"unknown run options, {listing(unknown, noun='name')}; did you mean"
                f" {' or '.join(f'`{name}`' for name in close)}?"
            )
        return cls(**arguments)

    def with_(self, **changes: Any) -> RunOptions:
        """Return a copy with some options changed."""
        return replace(self, **changes)

    def sizes(self) -> dict[str, int]:
        """Return threads and bytes as numbers, defaults filled in.

        `matrix_budget` is what `memory_budget` grows to for methods of whole matrices.
        """
        given = self.memory_budget
        budget = size(_BUDGET if given is None else given, "memory_budget")
        return {
            "threads": self.threads if self.threads is not None else cores(),
            "chunk": size(self.chunk, "chunk"),
            "memory_budget": budget,
            "matrix_budget": size(_MATRIX_BUDGET, "") if given is None else budget,
        }

    def to_json(self, mode: Mode, known: Statistics | None = None) -> str:
        """Return the options in the form the core takes: every value explicit, sizes in bytes.

        `known` are statistics of earlier runs; None tells the core that none are kept.
        """
        return json.dumps(
            self.sizes()
            | {
                "mode": mode,
                "io": self.io,
                "cache": self.cache,
                "overwrite": self.overwrite,
                "stats": self.stats,
                "isa": self.isa,
                "max_header_bytes": MAX_HEADER_BYTES,
                "statistics": known,
            }
        )


def execute(plan: Plan, options: RunOptions, mode: Mode) -> dict[str, Any]:
    """Run a plan and return the core's figures.

    `write` makes the output, `measure` writes nothing, `check` recomputes and compares with the
    existing output byte for byte. Only `write` uses the statistics cache: who checks, looks.
    """
    cache = StatisticsCache.of(options.statistics_cache if mode == "write" else OFF)
    known = cache.recall(plan)
    token = options.cancel if options.cancel is not None else CancelToken()
    told = options.to_json(mode, known)
    done: dict[str, Any] = json.loads(
        _core.execute(plan.to_json(), told, token._job, options.progress)  # noqa: SLF001
    )
    _mark(done["phases"], perf_counter())
    done["statistics_cache"] = _kept(cache, plan, known, done.pop("statistics"))
    return done


def fit(plan: Plan, options: RunOptions) -> Running:
    """Return how a plan would run: the memory and threads its report will name.

    Raises:
        PlanError: it does not fit into the memory allowed, or a file changed since it was made.
    """
    from submerge.plan.form import Running

    figures = execute(plan, options, "fit")
    return Running(threads=figures["threads"], working_bytes=figures["working_bytes"])


def _kept(cache: StatisticsCache, plan: Plan, known: Statistics | None, found: Statistics) -> str:
    """Keep what a run found; return in words what became of it."""
    if cache.folder is None:
        return "off"
    if known is None:
        return "unused: a model changed within the last 2 seconds"
    if found and not cache.keep(plan, known, found):
        return f"unused: `{cache.folder}` cannot be written"
    return "on"


def _mark(phases: Mapping[str, float], end: float) -> None:
    """Tell a running profile of the core's phases, the last of which has just ended."""
    start = end - sum(phases.values())
    for name, seconds in phases.items():
        record(name, start, seconds)
        start += seconds
