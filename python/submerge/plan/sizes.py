"""Sizes of files and of shards, from names and shapes alone.

The header of safetensors is the one that package writes: compact JSON, metadata first, padded with
spaces to a multiple of 8. That of a GGUF is the core's (`format/gguf/write.rs`). Shards are cut as
huggingface_hub cuts them for diffusers.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["bytes_in_words", "data_key", "gguf_size", "header", "split_shards"]


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


_ALIGNMENT = 32


def gguf_size(
    tensors: Iterable[tuple[str, str, Sequence[int], int]],
    texts: Mapping[str, str],
    numbers: Mapping[str, int],
) -> int:
    """Return the bytes of a GGUF: its header and each tensor, all padded to multiples of 32.

    `tensors` are name, dtype, shape and bytes; `texts` and `numbers` the key-values, to which the
    core adds the alignment. Every text has its length before it, every value its type.
    """
    length = 24  # magic, version, numbers of tensors and key-values
    length += sum(8 + len(key.encode()) + 4 + 8 + len(text.encode()) for key, text in texts.items())
    length += sum(8 + len(key.encode()) + 4 + 4 for key in (*numbers, "general.alignment"))
    data = 0
    for name, _, shape, size in tensors:
        length += 8 + len(name.encode()) + 4 + 8 * len(shape) + 4 + 8
        data += size + -size % _ALIGNMENT
    return length + -length % _ALIGNMENT + data


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
