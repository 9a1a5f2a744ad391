"""Sizes of safetensors files and of shards, from names and shapes alone.

The header's text is the one the `safetensors` package writes: compact JSON, metadata first,
padded with spaces to a multiple of 8. Shards are cut as huggingface_hub cuts them for diffusers.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["bytes_in_words", "data_key", "header", "split_shards"]


def data_key(name: str, dtype: str) -> tuple[int, str]:
    """Return the key that sorts the tensors of one file: the widest dtypes first, then by name."""
    return (-DTYPES[dtype].rank, name)


def header(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> bytes:
    """Return the bytes before the data of a file: 8 for the length, the JSON text, the padding.

    `tensors` are name, dtype, shape and bytes, in data order.
    """
    text: dict[str, Any] = {}
    if metadata:
        text["__metadata__"] = dict(sorted(metadata.items()))
    at = 0
    for name, dtype, shape, size in tensors:
        text[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    plain = json.dumps(text, separators=(",", ":"), ensure_ascii=False).encode()
    length = len(plain) + -len(plain) % 8
    return length.to_bytes(8, "little") + plain.ljust(length)


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
