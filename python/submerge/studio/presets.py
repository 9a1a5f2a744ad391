"""Curves over the blocks to begin with: shares of the second model, by the place of a block.

They are written for any depth: a block stands at 0 (first double block) to 1 (last single block).
None of them is a finding about images; each says what it does in its name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PRESETS", "Preset", "shares_of"]


class Preset(NamedTuple):
    """A curve; `share` takes the place of a block and whether it is of the first stack."""

    name: str
    share: Callable[[float, bool], float]
    outside: tuple[float, float]


PRESETS = (
    Preset("all A", lambda _, __: 0.0, (0.0, 0.0)),
    Preset("all B", lambda _, __: 1.0, (1.0, 1.0)),
    Preset("half and half", lambda _, __: 0.5, (0.5, 0.5)),
    Preset("rising, A first", lambda at, _: at, (0.0, 1.0)),
    Preset("falling, B first", lambda at, _: 1 - at, (1.0, 0.0)),
    Preset("smooth rise", lambda at, _: at * at * (3 - 2 * at), (0.0, 1.0)),
    Preset("hill, B in the middle", lambda at, _: math.sin(math.pi * at), (0.0, 0.0)),
    Preset("valley, A in the middle", lambda at, _: 1 - math.sin(math.pi * at), (1.0, 1.0)),
    Preset("double blocks from B", lambda _, first: float(first), (0.0, 0.0)),
    Preset("single blocks from B", lambda _, first: float(not first), (0.0, 0.0)),
)


def shares_of(preset: Preset, groups: Sequence[str]) -> dict[str, float]:
    """Return the share of every group; `groups` in execution order, as sliders are."""
    blocks = [group for group in groups if "[" in group]
    last = max(1, len(blocks) - 1)
    first = blocks[0].partition("[")[0] if blocks else ""
    found = {}
    for group in groups:
        if group in blocks:
            place = blocks.index(group) / last
            share = preset.share(place, group.startswith(f"{first}["))
        else:
            share = preset.outside[group == "final"]
        found[group] = round(share, 2)
    return found
