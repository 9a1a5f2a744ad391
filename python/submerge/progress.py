"""A progress bar for terminals; everything else gets silence.

`rich` is imported only when a bar is really shown: it would cost a merge in a script time and
memory for nothing.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["bar"]


@contextmanager
def bar(
    what: str, *, quiet: bool = False, steps: bool = False
) -> Iterator[Callable[[int, int], object] | None]:
    """Give a progress callback that draws a bar on standard error, or None where none belongs.

    Shows bytes and their speed, or `steps`, and the time left. Drawn by the caller's thread as
    progress is reported; no thread of its own.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *((MofNCompleteColumn(),) if steps else (DownloadColumn(), TransferSpeedColumn())),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, refresh=True)

        yield update
