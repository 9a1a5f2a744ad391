"""How a plan is run: threads, memory, reading, progress, cancellation.

Nothing here changes a byte of the output; that is the recipe's business. The only place that hands
a plan to the core.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Self, TypedDict

from submerge import _core
from submerge.checkpoint import MAX_HEADER_BYTES
from submerge.errors import listing
from submerge.given import PATH, SIZE, Options, declared, hinted, made, meant, size, whole
from submerge.plan.finite import expect_finite
from submerge.profile.environment import cores
from submerge.profile.spans import record
from submerge.statistics import OFF, StatisticsCache, doubt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap

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
    "execute_into",
    "fit",
]

Mode = Literal["write", "measure", "check", "fit"]

MOST_THREADS = 4096
_BUDGET, _MATRIX_BUDGET = "64MiB", "512MiB"
_IO = Literal["auto", "mmap", "pread"]
_Cache = Literal["drop", "keep"]
_Isa = Literal["auto", "scalar", "avx2", "avx512", "neon"]


def build_info() -> dict[str, Any]:
    """Return what the compiled core says of itself: version, numerics, instruction sets, dtypes."""
    info: dict[str, Any] = json.loads(_core.build_info())
    return info


__version__: str = build_info()["version"]


class CancelToken:
    """Cancels the run it was passed to, from any thread, within 250 ms.

    One token belongs to one run of one process, and so does its copy, which is the token itself; a
    run given a token that is already cancelled stops at once.
    """

    __slots__ = ("_job",)

    def __init__(self) -> None:
        self._job = _core.Job()

    def __copy__(self) -> CancelToken:
        return self

    def __deepcopy__(self, memo: object) -> CancelToken:
        return self

    def __reduce__(self) -> NoReturn:
        msg = "a CancelToken belongs to one process, it cannot be pickled"
        raise TypeError(msg)

    def cancel(self) -> None:
        """Ask the run to stop; it raises `Cancelled` and leaves nothing behind."""
        self._job.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._job.cancelled


_TOKEN = made("a CancelToken", lambda raw: isinstance(raw, CancelToken))
_FOLDER = hinted(PATH, "a folder or `off`; leave it out for the user's cache directory")


class RunArguments(TypedDict, total=False):
    """The keywords every verb that reads tensors takes; `RunOptions` has their meaning."""

    threads: int | None
    memory_budget: int | str | None
    chunk: int | str
    io: _IO
    cache: _Cache
    isa: _Isa
    overwrite: bool
    stats: bool
    statistics_cache: str | os.PathLike[str] | None
    progress: Callable[[int, int], object] | None
    cancel: CancelToken | None


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """How to run; none of it changes a byte of the output.

    Attributes:
        threads: worker threads; None is one for each core this process may use.
        memory_budget: bytes of working memory, as a number or `"64MiB"`: buffers, not the process
            (painting has its own, see `load_model`). A job that does not fit takes smaller chunks,
            then fewer threads, then is refused. None is 64 MiB, and what they need up to 512 MiB
            for methods of whole matrices and for adapters.
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
        progress: called as `progress(done_bytes, total_bytes)` on the calling thread when the work
            begins, at most ten times a second, and when it is done, with both equal; returning
            False cancels, the last time too, raising cancels and raises.
        cancel: stops the run from any thread.
    """

    where: ClassVar[str] = ""

    threads: Annotated[int, whole(1, MOST_THREADS + 1)] | None = None
    memory_budget: Annotated[int | str, SIZE] | None = None
    chunk: Annotated[int | str, SIZE] = "1MiB"
    io: _IO = "auto"
    cache: _Cache = "drop"
    isa: _Isa = "auto"
    overwrite: bool = False
    stats: bool = True
    statistics_cache: Annotated[str | os.PathLike[str], _FOLDER] | None = None
    progress: Annotated[Callable[[int, int], object], made("a function", callable)] | None = None
    cancel: Annotated[CancelToken, _TOKEN] | None = None

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None) -> Self:
        """Return the options for a verb's keywords; one that is unknown is a TypeError."""
        known = declared(cls)
        unknown = (
            [name for name in given if name not in known] if isinstance(given, Mapping) else []
        )
        if unknown:
            hint = meant(unknown[0], known) or f"expected {', '.join(known)}"
            raise TypeError(f"unknown run options, {listing(unknown, noun='name')}; {hint}")
        return super().of(given)

    def sizes(self) -> dict[str, int]:
        """Return threads and bytes as numbers, defaults filled in.

        `matrix_budget` is what `memory_budget` grows to for whole matrices and factors of adapters.
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
    existing output byte for byte. Only `write` uses the statistics cache: a check computes them.
    """
    cache = StatisticsCache.of(options.statistics_cache if mode == "write" else OFF)
    unused = "off" if cache.folder is None else doubt(plan)
    known = cache.recall(plan) if unused is None else None
    token = options.cancel if options.cancel is not None else CancelToken()
    arguments = options.to_json(mode, known)
    describe = None if plan.making is None else plan.making.describe
    job = token._job  # noqa: SLF001
    done: dict[str, Any] = json.loads(
        _core.execute(plan.to_json(), arguments, job, options.progress, describe)
    )
    _mark(done["phases"], perf_counter())
    found = done.pop("statistics")
    if found and unused is None and not cache.keep(plan, known or {}, found):
        unused = f"unused: `{cache.folder}` cannot be written"
    done["statistics_cache"] = unused or "on"
    return done


def execute_into(
    plan: Plan,
    options: RunOptions,
    memory: Sequence[bytearray | memoryview | mmap],
    known: Statistics | None = None,
) -> Statistics:
    """Run a plan, and put the data of its weight files into memory instead.

    Args:
        plan: its texts and copies are left out.
        options: how to run.
        memory: for each weight file writable bytes in one dimension, as many as its data has
            without the header; after an error, what they hold means nothing.
        known: what earlier runs found out about whole units; None keeps nothing.

    Returns:
        What this one found out. Nothing of files that may change without a trace.
    """
    token = options.cancel if options.cancel is not None else CancelToken()
    job = token._job  # noqa: SLF001
    kept = None if known is None or doubt(plan) is not None else known
    arguments = options.to_json("write", kept)
    done = _core.execute(plan.to_json(), arguments, job, options.progress, None, list(memory))
    found: Statistics = json.loads(done)["statistics"]
    return found


def expect_finite_adapters(factors: Plan | None, options: RunOptions) -> None:
    """Refuse adapters with numbers that are not finite, before anything is done with them.

    Args:
        factors: what `factors_plan` returns of them.
        options: how to run.

    Raises:
        AdapterError: naming the tensor.
        CheckpointError, Cancelled, OSError: as `execute`.
    """
    if factors is not None:
        look = options.with_(stats=True, progress=None)
        expect_finite(factors, execute(factors, look, "measure"))


def fit(plan: Plan, options: RunOptions) -> Running:
    """Return how a plan would run: the memory and threads its report will name.

    Raises:
        PlanError: it does not fit into the memory allowed, or a file changed since it was made.
    """
    from submerge.plan.form import Running

    figures = execute(plan, options, "fit")
    return Running(threads=figures["threads"], working_bytes=figures["working_bytes"])


def _mark(phases: Mapping[str, float], end: float) -> None:
    """Tell a running profile of the core's phases, the last of which has just ended."""
    start = end - sum(phases.values())
    for name, seconds in phases.items():
        record(name, start, seconds)
        start += seconds
