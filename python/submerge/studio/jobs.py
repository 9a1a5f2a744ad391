"""What takes its time, one after the other on a thread: merging, analysing, painting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import Cancelled, SubmergeError
from submerge.run import CancelToken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from submerge.studio.events import Events
    from submerge.studio.store import Store

__all__ = ["Job", "Jobs"]


class Job(NamedTuple):
    """What work is given: how to stop, and whom to tell how far it is.

    Attributes:
        token: cancelled when the user says so.
        progress: called as `progress(done, total)`; returns False when it was cancelled.
        say: tells in words what is being done.
    """

    token: CancelToken
    progress: Callable[[int, int], bool]
    say: Callable[[str], None]


class Jobs:
    """Runs one job at a time; each is a try of the store."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events
        self._pool = ThreadPoolExecutor(1, "studio")
        self._lock = threading.Lock()
        self._tokens: dict[int, CancelToken] = {}
        self._told: dict[int, dict[str, Any]] = {}

    def start(self, ident: int, project: int, work: Callable[[Job], Mapping[str, Any]]) -> None:
        """Run `work` when its turn comes; what it returns becomes the try's result."""
        token = CancelToken()
        with self._lock:
            self._tokens[ident] = token
        self._pool.submit(self._run, (ident, project), token, work)

    def cancel(self, ident: int) -> bool:
        """Ask a job to stop; tells whether there is such a job."""
        with self._lock:
            token = self._tokens.get(ident)
        if token is not None:
            token.cancel()
        return token is not None

    def progress_of(self, ident: int) -> dict[str, Any]:
        """Return how far a job is: `done`, `total`, `said`."""
        return dict(self._told.get(ident, {}))

    def close(self) -> None:
        """Stop everything and wait for it."""
        with self._lock:
            for token in self._tokens.values():
                token.cancel()
        self._pool.shutdown(wait=True)

    def _run(
        self,
        which: tuple[int, int],
        token: CancelToken,
        work: Callable[[Job], Mapping[str, Any]],
    ) -> None:
        ident, project = which
        told = self._told.setdefault(ident, {"done": 0, "total": 0, "said": ""})

        def progress(done: int, total: int) -> bool:
            told.update(done=done, total=total)
            self._events.say("progress", id=ident, project=project, **told)
            return not token.cancelled

        def say(words: str) -> None:
            told.update(said=words)
            self._events.say("progress", id=ident, project=project, **told)

        try:
            state, result = self._outcome(ident, Job(token, progress, say), work)
            self._store.set_try(ident, state, result)
        except SubmergeError as error:  # the file of the studio cannot be written
            self._events.say("trouble", error=str(error))
        finally:
            with self._lock:
                self._tokens.pop(ident, None)
            self._told.pop(ident, None)
            self._events.say("try", id=ident, project=project)

    def _outcome(
        self, ident: int, job: Job, work: Callable[[Job], Mapping[str, Any]]
    ) -> tuple[str, Mapping[str, Any]]:
        try:
            if job.token.cancelled:
                return "cancelled", {}
            self._store.set_try(ident, "running")
            job.say("")
            return "done", work(job)
        except Cancelled:
            return "cancelled", {}
        except (SubmergeError, OSError) as error:
            return "failed", {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - a defect must end the job, not the thread
            return "failed", {"error": f"{type(error).__name__}: {error}; this is a defect"}
