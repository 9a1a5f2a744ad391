"""The most memory held during stretches of time, kept as one number each however long they are."""

from __future__ import annotations

import os
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from submerge.profile.memory import KINDS, read

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Watch", "larger"]

_INTERVAL = 0.05


class Watch:
    """Looks at the memory now and then; a context manager, used once.

    ```python
    with Watch() as watch:
        with watch.peak() as most:
            ...
        print(most["rss"])
    ```
    """

    def __init__(self, interval: float = _INTERVAL) -> None:
        """Prepare a watch that looks at the memory every `interval` seconds."""
        self._interval = interval
        # Replaced, never changed in place, and each dict written by the thread alone: no lock that
        # a forked child could inherit held.
        self._open: tuple[dict[str, int | None], ...] = ()
        self._stop, self._process = Event(), 0
        self._thread = Thread(target=self._look_now_and_then, name="submerge-watch", daemon=True)

    def __enter__(self) -> Self:
        self._process = os.getpid()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # In a forked child the thread was left to the parent.
        if os.getpid() == self._process:
            self._stop.set()
            self._thread.join()

    @contextmanager
    def peak(self) -> Iterator[dict[str, int | None]]:
        """Give a dict that holds, once this is over, the most bytes of each kind that were seen.

        A peak between two looks counts where the system keeps count and it is the process's
        highest so far.
        """
        before, highest = read()
        most, seen = before._asdict(), dict[str, int | None]()
        self._open = (*self._open, seen)
        try:
            yield most
        finally:
            self._open = tuple(other for other in self._open if other is not seen)
            after, higher = read()
            rose = {
                kind: getattr(higher, kind)
                for kind in KINDS
                if (getattr(higher, kind) or 0) > (getattr(highest, kind) or 0)
            }
            for found in (dict(seen), after._asdict(), rose):
                most.update(larger(most, found))

    def _look_now_and_then(self) -> None:
        while not self._stop.wait(self._interval):
            held = read()[0]._asdict()
            for seen in self._open:
                seen.update(larger(seen, held))


def larger(one: dict[str, int | None], other: dict[str, int | None]) -> dict[str, int | None]:
    """Return the larger of both by kind; what one does not know counts for nothing."""
    known = {kind: (one.get(kind), other.get(kind)) for kind in {**one, **other}}
    return {
        kind: max((n for n in pair if n is not None), default=None) for kind, pair in known.items()
    }
