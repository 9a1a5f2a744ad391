"""Spans of time, and who listens to them.

Kept apart from the profiler because every merge marks its phases: this much must cost nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from threading import get_native_id, local
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Listener", "Span", "listen", "record", "span", "unlisten"]


class Span(NamedTuple):
    """A named stretch of time.

    Attributes:
        name: what was done: `denoise`, `compute`, ...
        start: seconds on the clock `time.perf_counter`; since the profile began in `Profile.spans`.
        seconds: its length.
        thread: the system's number of the thread it ran on.
        depth: how many spans of the same thread were open around it.
        details: what the program said of it: `{"prompt": 0}`.
    """

    name: str
    start: float
    seconds: float
    thread: int
    depth: int
    details: dict[str, Any]

    @property
    def end(self) -> float:
        """When it ended, on the clock of `start`."""
        return self.start + self.seconds


class Listener(Protocol):
    """A running profile, as spans see it."""

    def sample(self) -> None:
        """Look at the memory now: something begins or ends."""

    def add(self, span: Span) -> None:
        """Take a span that has ended."""


# Replaced, never changed in place: any thread may read it without a lock.
_listeners: tuple[Listener, ...] = ()
_thread = local()


def listen(listener: Listener) -> None:
    """Hand every span that ends from now on to `listener`."""
    global _listeners  # noqa: PLW0603 - the one list of running profiles
    _listeners = (*_listeners, listener)


def unlisten(listener: Listener) -> None:
    """Stop handing spans to `listener`."""
    global _listeners  # noqa: PLW0603
    _listeners = tuple(other for other in _listeners if other is not listener)


def _forget() -> None:
    """Leave the profiles to the parent: their threads do not exist in a forked child."""
    global _listeners  # noqa: PLW0603
    _listeners = ()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def span(name: str, /, **details: Any) -> Iterator[None]:
    """Mark what happens inside as `name`; costs nothing when no profile is running.

    Args:
        name: what is done, a word.
        **details: anything JSON can hold that tells this span from others of its name.
    """
    if not _listeners:
        yield
        return
    depth = getattr(_thread, "depth", 0)
    _thread.depth = depth + 1
    for listener in _listeners:
        listener.sample()
    start = perf_counter()
    try:
        yield
    finally:
        seconds = perf_counter() - start
        _thread.depth = depth
        ended = Span(name, start, seconds, get_native_id(), depth, details)
        for listener in _listeners:
            listener.sample()
            listener.add(ended)


def record(name: str, start: float, seconds: float, /, **details: Any) -> None:
    """Add a span that was timed elsewhere; `start` is on the clock `time.perf_counter`."""
    depth = getattr(_thread, "depth", 0)
    for listener in _listeners:
        listener.add(Span(name, start, seconds, get_native_id(), depth, details))
