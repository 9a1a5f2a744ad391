"""GGUF files for tests, written and read byte by byte from the format's specification.

This is an oracle: it shares no code with submerge.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from factory import Array

# Name, number of the type, elements and bytes of a block.
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "BF16": (30, 1, 2)}
_PLAIN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
_ALIGNMENT = 32


class Tensor(NamedTuple):
    """A tensor of a file: its type, its shape in elements, slowest first, and its bytes."""

    kind: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def numbers(self) -> Array:
        """What it holds, in f32."""
        if self.kind != "Q8_0":
            flat = np.frombuffer(self.data, _PLAIN[self.kind]).astype(np.float32)
            return flat.reshape(self.shape)
        blocks = np.frombuffer(self.data, np.dtype([("d", "<f2"), ("q", "i1", 32)]))
        values = blocks["q"].astype(np.float32) * blocks["d"].astype(np.float32)[:, None]
        return values.reshape(self.shape)


def tensor(kind: str, numbers: Array) -> Tensor:
    """Return numbers in a type; in Q8_0 by the first scale that holds them, not the best."""
    numbers = numbers.astype(np.float32)
    if kind != "Q8_0":
        return Tensor(kind, numbers.shape, numbers.astype(_PLAIN[kind]).tobytes())
    rows = numbers.reshape(-1, 32)
    scales = (np.abs(rows).max(1) / 127).astype(np.float16)
    safe = np.where(scales == 0, 1, scales).astype(np.float32)[:, None]
    blocks = np.empty(len(rows), np.dtype([("d", "<f2"), ("q", "i1", 32)]))
    blocks["d"], blocks["q"] = scales, np.clip(np.rint(rows / safe), -127, 127)
    return Tensor(kind, numbers.shape, blocks.tobytes())


def write(
    path: Path, tensors: Mapping[str, Tensor], pairs: Mapping[str, str | int] | None = None
) -> Path:
    """Write a file of version 3; texts and uint32 as key-values."""
    pairs = pairs or {}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, value in pairs.items():
        is_text = isinstance(value, str)
        head += _text(key) + struct.pack("<I", 8 if is_text else 4)
        head += _text(value) if isinstance(value, str) else struct.pack("<I", value)
    data = b""
    for name, (kind, shape, content) in tensors.items():
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += _text(name) + dims + struct.pack("<IQ", TYPES[kind][0], len(data))
        data += _padded(content)
    path.write_bytes(_padded(head) + data)
    return path


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


class Read(NamedTuple):
    """What a file holds: its key-values in file order, and its tensors."""

    pairs: dict[str, str | int]
    tensors: dict[str, Tensor]


def read(path: Path) -> Read:
    """Read a file of texts and uint32 that pads with zeros and leaves nothing else between."""
    data = path.read_bytes()
    at = 0

    def take(form: str) -> Any:
        nonlocal at
        found = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return found[0] if len(found) == 1 else found

    def text() -> str:
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length : at].decode()

    assert take("4s") == b"GGUF"
    assert take("I") == 3
    count, n_pairs = take("QQ")
    pairs: dict[str, str | int] = {}
    for _ in range(n_pairs):
        key = text()
        kind = take("I")
        assert kind in (4, 8)
        pairs[key] = text() if kind == 8 else take("I")
    entries = []
    for _ in range(count):
        name = text()
        rank = take("I")
        shape = tuple(take("Q") for _ in range(rank))[::-1]
        entries.append((name, shape, *take("IQ")))
    used = [(0, at)]
    start = at + -at % _ALIGNMENT
    by_number = {number: (kind, n, size) for kind, (number, n, size) in TYPES.items()}
    tensors = {}
    for name, shape, number, offset in entries:
        kind, elements, nbytes = by_number[number]
        size = int(np.prod(shape)) // elements * nbytes
        assert offset % _ALIGNMENT == 0
        used.append((start + offset, start + offset + size))
        tensors[name] = Tensor(kind, shape, data[start + offset : start + offset + size])
    for (_, end), (begin, _) in zip(used, [*used[1:], (len(data), 0)], strict=True):
        assert 0 <= begin - end < _ALIGNMENT
        assert not any(data[end:begin])
    return Read(pairs, tensors)
