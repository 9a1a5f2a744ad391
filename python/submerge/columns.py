"""Lines of cells as text that fits a terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["aligned"]

# What is left of a formula in a terminal too narrow for it.
_NARROWEST = 12


def aligned(lines: Sequence[Sequence[str]], left: int = 1, width: int | None = None) -> str:
    """Return lines of cells as text: the first `left` columns flush left, the others right.

    What is wider than `width`, the terminal's if there is one, has its formulas cut, and where that
    is not enough stands in parts below each other, each with the first column.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    for at in range(1, left):
        widths[at] -= max(0, min(over, widths[at] - _NARROWEST))
    parts: list[list[int]] = [[]]
    for at in range(1, len(widths)):
        if parts[-1] and sum(widths[i] + 2 for i in (*parts[-1], at)) > width - widths[0]:
            parts.append([])
        parts[-1].append(at)
    return "\n\n".join(
        "\n".join(_line(line, widths, (0, *part), left) for line in lines) for part in parts
    )


def _line(cells: Sequence[str], widths: Sequence[int], part: Iterable[int], left: int) -> str:
    """Return some of a line's cells as text."""
    cut = {at: cells[at] for at in part}
    cut |= {at: f"{t[: widths[at] - 1]}…" for at, t in cut.items() if len(t) > widths[at]}
    return "  ".join(
        text.ljust(widths[at]) if at < left else text.rjust(widths[at]) for at, text in cut.items()
    ).rstrip()
