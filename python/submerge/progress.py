"""A progress bar for terminals; everything else gets silence.

A line that is written over until it is done: nothing to import, no thread, no colours.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from submerge.plan.sizes import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Estimate", "bar", "time_in_words"]

_LONGEST = 40


class Estimate:
    """How fast something goes on, and how long it will take yet."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def speed(self, done: float) -> float:
        """Return what was done for each second so far."""
        seconds = time.monotonic() - self._begun
        return done / seconds if seconds > 0 else 0.0

    def left(self, done: float, total: float) -> float | None:
        """Return the seconds that the rest will take at the same speed; None before the first."""
        speed = self.speed(done)
        return (total - done) / speed if speed > 0 else None


def time_in_words(seconds: float) -> str:
    """Return a duration to the second: `12 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def bar(
    what: str, *, quiet: bool = False, steps: bool = False
) -> Iterator[Callable[[int, int], object] | None]:
    """Give a progress callback that draws a bar on standard error, or None where none belongs.

    Shows bytes and their speed, or `steps`, and the time left. Drawn by the caller's thread as
    progress is reported; gone when it is over.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    estimate = Estimate()

    def update(done: int, total: int) -> None:
        _draw(_line(what, done, total, estimate, steps=steps))

    update(0, 0)
    try:
        yield update
    finally:
        _draw("")
        sys.stderr.write("\r")
        sys.stderr.flush()


def _line(what: str, done: int, total: int, estimate: Estimate, *, steps: bool) -> str:
    share = done / total if total else 0.0
    filled = int(share * _LONGEST)
    if steps:
        figures = [f"{done}/{total}"]
    else:
        speed = bytes_in_words(int(estimate.speed(done)))
        figures = [f"{bytes_in_words(done)} of {bytes_in_words(total)}", f"{speed}/s"]
    left = estimate.left(done, total)
    figures += [] if left is None or not total else [f"{time_in_words(left)} left"]
    drawn = "#" * filled + "." * (_LONGEST - filled)
    return f"{what} [{drawn}] {share:4.0%}  {'  '.join(figures if total else ())}"


def _draw(line: str) -> None:
    """Write over the last line; never to the last column, where some terminals begin a new one."""
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write(f"\r{line[:width]:<{width}}")
    sys.stderr.flush()
