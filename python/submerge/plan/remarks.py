"""What headers and files alone say against a merge: lost precision, another size, missing data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from submerge.blocks import block_of
from submerge.checkpoint import DTYPES
from submerge.errors import counted, listing, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from submerge.checkpoint import Checkpoint
    from submerge.layout import Model
    from submerge.plan.outputs import Placed

__all__ = ["never_written", "of_precision"]

# Significant bits of a number, the one before the point included.
_BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}
# A size that differs by less is a matter of norms and biases.
_ANOTHER_SIZE = 1.2
# Holes begin and end at pages, so a tensor shares its first and last with its neighbours; one of a
# few pages says nothing of holes.
_SMALL, _SHARED = 65_536, 2 * 4_096


def of_precision(models: Mapping[str, Model], placed: Placed) -> list[str]:
    """Tell whose numbers are rounded, or take another size, where no dtype was asked for.

    A dtype that is asked for surprises nobody.
    """
    notes = []
    for name, model in models.items():
        rounded: dict[tuple[str, str], int] = {}
        before = after = 0
        widths: dict[tuple[str, str], None] = {}
        for unit in placed.units:
            info = model.units.get(unit.name)
            if info is None or name not in unit.models or unit.reason == "extras":
                continue
            pair = (info.dtype, placed.outputs[unit.output].dtype)
            if _BITS.get(pair[0], 0) > _BITS.get(pair[1], 0) > 0:
                rounded[pair] = rounded.get(pair, 0) + 1
            before += model.checkpoint.tensors[info.place.tensor].stored(info.rows)
            after += DTYPES[pair[1]].size(info.rows * info.row_elements)
            if pair[0] != pair[1]:
                widths.setdefault(pair)
        for (own, written), units in rounded.items():
            notes.append(
                f"{quoted(name)}: {counted(units, 'unit')} in {own} ({_BITS[own]} significant "
                f"bits) rounded to {written} ({_BITS[written]}); `output.dtype` chooses another"
            )
        if after > _ANOTHER_SIZE * before:
            pairs = ", ".join(f"{own} there and {written} here" for own, written in widths)
            notes.append(
                f"{quoted(name)}: the output takes {after / before:.1f} times its bytes, {pairs}; "
                "`output.dtype` chooses another"
            )
    return notes


def never_written(models: Mapping[str, Model]) -> list[str]:
    """Tell of blocks that lie in holes of a file, where nothing was ever written.

    That is what half a download leaves in a file that was given its size beforehand. Only a file
    system that tells its holes is asked; no tensor is read.
    """
    notes = []
    for name, model in models.items():
        empty = _unwritten(model.checkpoint)
        if not empty:
            continue
        held: dict[tuple[str, int], bool] = {}
        for unit, info in model.units.items():
            tensor, block = model.checkpoint.tensors[info.place.tensor], block_of(unit)
            if block is not None and tensor.nbytes >= _SMALL:
                held[block] = held.get(block, True) and tensor.name in empty
        blocks = [f"{stack}.{index}" for (stack, index), all_of in held.items() if all_of]
        what = listing(blocks, noun="block") if blocks else listing(sorted(empty), noun="tensor")
        notes.append(
            f"{quoted(name)}: half a download, perhaps: all zeros, never written to the disk, in "
            f"{what}"
        )
    return notes


def _unwritten(checkpoint: Checkpoint) -> set[str]:
    """Return the tensors that lie in holes, but for what they share with their neighbours."""
    found: set[str] = set()
    for index, file in enumerate(checkpoint.files):
        holes = list(_holes(file.path, file.size))
        for name, tensor in checkpoint.tensors.items() if holes else ():
            start, end = file.data_start + tensor.start, file.data_start + tensor.end
            inside = max(min(end, b) - max(start, a) for a, b in holes)
            if (
                tensor.file == index
                and tensor.nbytes - inside <= _SHARED
                and tensor.nbytes >= _SMALL
            ):
                found.add(name)
    return found


def _holes(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield where nothing was written, as ranges of bytes, where the system tells."""
    if not hasattr(os, "SEEK_HOLE"):
        return
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        at = 0
        while at < size:
            hole = os.lseek(file, at, os.SEEK_HOLE)
            if hole >= size:
                return
            try:
                at = os.lseek(file, hole, os.SEEK_DATA)
            except OSError:  # no data behind the last hole
                at = size
            yield hole, at
    except OSError:
        return
    finally:
        os.close(file)
