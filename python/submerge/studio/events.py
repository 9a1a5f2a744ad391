"""What happens, told to every open page as it happens."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Events"]

_ALIVE = 15.0
_BEHIND = 200


class Events:
    """Hands what any thread says to all who listen, as server-sent events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}

    def say(self, kind: str, **data: Any) -> None:
        """Tell every page; `kind` is the event's name."""
        text = f"event: {kind}\ndata: {json.dumps(data)}\n\n"
        with self._lock:
            for queue, loop in self._listening.items():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_put, queue, text)

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            for queue, loop in self._listening.items():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(queue.put_nowait, None)

    async def stream(self) -> AsyncIterator[str]:
        """Yield what is said from now on, and a comment now and then, by which a gap is noticed."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        with self._lock:
            self._listening[queue] = asyncio.get_running_loop()
        try:
            yield "retry: 1000\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), _ALIVE)
                except TimeoutError:
                    text = ": alive\n\n"
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                self._listening.pop(queue, None)


def _put(queue: asyncio.Queue[str | None], text: str) -> None:
    # A page that sleeps is told again when it asks for the whole state.
    if queue.qsize() < _BEHIND:
        queue.put_nowait(text)
