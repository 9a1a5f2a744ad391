"""A profile: a thread that looks at the memory now and then, and the spans that ended meanwhile."""

from __future__ import annotations

import os
from itertools import pairwise
from threading import Event, Thread, get_native_id
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from submerge.profile.memory import KINDS, Reading, read
from submerge.profile.spans import Span, listen, unlisten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Profile", "Sample", "profile"]

# Spans begin and end thousands of times a second in small models; memory is looked at less often.
_SHORTEST = 0.001


class Sample(NamedTuple):
    """The memory at one moment.

    Attributes:
        seconds: since the profile began.
        memory: what the process held.
    """

    seconds: float
    memory: Reading


class Profile:
    """Time and memory of what runs inside; a context manager, used once.

    Attributes:
        interval: seconds between samples.
        seconds: how long it ran, or has run.
        samples: the memory at each moment looked at, in order.
        spans: the spans that ended, by their start in seconds since the profile began.
    """

    def __init__(self, interval: float = 0.05) -> None:
        """Prepare a profile that looks at the memory every `interval` seconds.

        Raises:
            ValueError: an interval of zero or less.
        """
        if not interval > 0:
            raise ValueError(f"interval: expected seconds above 0, got {interval}")
        self.interval = interval
        self._samples: list[tuple[float, Reading]] = []
        self._spans: list[Span] = []
        self._start = perf_counter()
        self._end: float | None = None
        self._before = self._after = Reading()  # the most ever held, at the beginning and the end
        self._stop = Event()
        self._process = 0
        self._thread = Thread(target=self._watch, name="submerge-profile", daemon=True)

    def __enter__(self) -> Self:
        self._start, self._process = perf_counter(), os.getpid()
        self._before = self._look()
        listen(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        unlisten(self)
        # In a forked child the thread was left to the parent, and its lock in an unknown state.
        if os.getpid() == self._process:
            self._stop.set()
            self._thread.join()
        self._after = self._look()
        self._end = perf_counter()

    def __getstate__(self) -> dict[str, Any]:
        """Return what was seen so far: the thread that looks stays where it is."""
        seen = {"_samples": list(self._samples), "_spans": list(self._spans)}
        left = {"_stop", "_thread"}
        kept = {name: value for name, value in vars(self).items() if name not in left}
        return kept | seen | {"_end": perf_counter() if self._end is None else self._end}

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self.sample()

    def _look(self) -> Reading:
        """Take a sample and return the most that was ever held, where the system keeps count."""
        at = perf_counter()
        held, most = read()
        self._samples.append((at, held))
        return most

    def sample(self) -> None:
        """Look at the memory now, unless that was done a moment ago."""
        if perf_counter() - self._samples[-1][0] >= _SHORTEST:
            self._look()

    def add(self, span: Span) -> None:
        """Take a span that has ended."""
        self._spans.append(span)

    @property
    def seconds(self) -> float:
        """How long the profile ran, or has run until now."""
        return (perf_counter() if self._end is None else self._end) - self._start

    @property
    def samples(self) -> list[Sample]:
        """The memory at each moment looked at, in order."""
        found = sorted(self._samples, key=lambda pair: pair[0])
        return [Sample(at - self._start, held) for at, held in found]

    @property
    def spans(self) -> list[Span]:
        """The spans that ended, in the order they began, the outer before the inner."""
        found = sorted(self._spans, key=lambda span: (span.start, -span.seconds))
        return [span._replace(start=span.start - self._start) for span in found]

    @property
    def peak(self) -> dict[str, int | None]:
        """The most bytes of each kind of memory that were held at once.

        A peak between two samples counts where the system keeps count of it (resident memory on
        Linux, device memory) and it is the highest of the process's life so far.
        """
        peak = _most([held for _, held in self._samples])
        for kind in KINDS:
            before, after = getattr(self._before, kind), getattr(self._after, kind)
            if before is not None and after is not None and after > before:
                peak[kind] = max(after, peak[kind] or 0)
        return peak

    @property
    def average(self) -> dict[str, int | None]:
        """The average bytes of each kind of memory over time, straight lines between samples."""
        return {kind: _average(self.samples, kind) for kind in KINDS}

    def during(self, span: Span) -> dict[str, int | None]:
        """Return the most bytes of each kind of memory that were seen during one of `spans`."""
        inside = [
            s.memory for s in self.samples if span.start - 1e-3 <= s.seconds <= span.end + 1e-3
        ]
        return _most(inside)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data, ready for JSON; times in seconds, memory in bytes."""
        return {
            "seconds": self.seconds,
            "interval": self.interval,
            "peak": self.peak,
            "average": self.average,
            "samples": [{"seconds": s.seconds, **s.memory._asdict()} for s in self.samples],
            "spans": [span._asdict() for span in self.spans],
        }

    def trace(self) -> dict[str, Any]:
        """Return the profile in the Chrome trace event format, which Perfetto reads."""
        from submerge.profile.trace import trace

        return trace(self.to_dict(), process=self._process or os.getpid(), thread=get_native_id())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `trace()` to a file, which appears complete or not at all."""
        import json

        from submerge.files import write_whole

        write_whole(path, json.dumps(self.trace(), ensure_ascii=False, allow_nan=False))


def profile(interval: float = 0.05) -> Profile:
    """Measure time and memory of what runs inside: `with submerge.profile() as p: ...`.

    Args:
        interval: seconds between looks at the memory; spans that begin or end look as well.

    Returns:
        A `Profile`: `p.peak` and `p.average` in bytes, `p.spans`, `p.samples`, and `p.save(path)`
        for a timeline that opens in Perfetto.
    """
    return Profile(interval)


def _most(readings: Sequence[Reading]) -> dict[str, int | None]:
    return {kind: max(_known(readings, kind), default=None) for kind in KINDS}


def _known(readings: Iterable[Reading], kind: str) -> list[int]:
    found = [getattr(reading, kind) for reading in readings]
    return [value for value in found if value is not None]


def _average(samples: Sequence[Sample], kind: str) -> int | None:
    held = [(s.seconds, getattr(s.memory, kind)) for s in samples]
    points: list[tuple[float, int]] = [(at, bytes_) for at, bytes_ in held if bytes_ is not None]
    if not points:
        return None
    length = points[-1][0] - points[0][0]
    if length == 0:
        return points[0][1]
    area = sum((t1 - t0) * (m0 + m1) / 2 for (t0, m0), (t1, m1) in pairwise(points))
    return round(area / length)
