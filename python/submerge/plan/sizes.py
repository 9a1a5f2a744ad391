"""Sizes of safetensors files and of shards, from names and shapes alone.

The header's text is the one the `safetensors` package writes: compact JSON, metadata first,
padded with spaces to a multiple of 8. Shards are cut as huggingface_hub cuts them for diffusers.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["bytes_in_words", "data_key", "header_bytes", "split_shards"]

# The order of the enum in the safetensors crate, whose writer sorts by it, largest first. Alignment
# falls along it.
_RANKS = {
    dtype: rank
    for rank, dtype in enumerate(
        (
            "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0",
            "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64",
            "F64", "I64", "U64",
        )
    )
}  # fmt: skip


def data_key(name: str, dtype: str) -> tuple[int, str]:
    """Return the key that sorts the tensors of one file: dtype descending, then name."""
    return (-_RANKS[dtype], name)


def header_bytes(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> int:
    """Return the bytes before the data of a file: 8 for the length, the JSON text, the padding.

    `tensors` are name, dtype, shape and bytes, in data order.
    """
    text: dict[str, Any] = {}
    if metadata:
        text["__metadata__"] = dict(metadata)
    at = 0
    for name, dtype, shape, size in tensors:
        text[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    length = len(json.dumps(text, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + length + -length % 8


def split_shards(sizes: Sequence[tuple[str, int]], limit: int) -> list[list[str]]:
    """Cut tensors (name, bytes) in their given order into shards of at most `limit` bytes.

    Greedy, as `split_state_dict_into_shards_factory` of huggingface_hub: a tensor larger than the
    limit gets a shard of its own, numbered before the shard being filled at that moment.
    """
    shards: list[list[str]] = []
    current: list[str] = []
    filled = 0
    for name, size in sizes:
        if size > limit:
            shards.append([name])
            continue
        if filled + size > limit:
            shards.append(current)
            current, filled = [], 0
        current.append(name)
        filled += size
    return [*shards, current] if current else shards


def bytes_in_words(size: int) -> str:
    """Return a size in decimal units with three digits: `23.8 GB`, `512 B`."""
    if size < 1000:
        return f"{size} B"
    power = min(4, int(math.log10(size)) // 3)
    # 999,999 rounds to 1000 KB; the next unit reads better.
    if round(size / 1000**power, 1) >= 1000 and power < 4:
        power += 1
    return f"{size / 1000**power:.1f} {('B', 'KB', 'MB', 'GB', 'TB')[power]}"
