"""How far codes may be from the numbers that were rounded to them, by their scales.

A number that was rounded to one of a few levels lies anywhere between the points halfway to its
neighbours: the square of its error is on average `((b - v)^3 + (v - a)^3) / (3 (b - a))` for the
level `v` between the points `a` and `b`, and `step^2 / 12` where levels are a step apart. What a
scale multiplies, it multiplies by its square. Scales of rows are all read, of blocks 16 a unit.
"""

from __future__ import annotations

import json
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from submerge.checkpoint import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from submerge.plan.terms import Rows, Source

__all__ = ["Stored"]

_SAMPLES = 16
# Codes of FP8 that are looked at in each sample.
_CODES = 256


class _Tensor(NamedTuple):
    """A tensor of a file: what reads it, and where it lies."""

    reader: Any
    start: int
    nbytes: int
    dtype: str

    def read(self, at: int, count: int) -> bytes:
        """Return bytes of it, as many as there are."""
        memory = bytearray(max(0, min(count, self.nbytes - at)))
        self.reader.read_into(self.start + at, memory)
        return bytes(memory)

    def floats(self, at: int, count: int) -> Sequence[float]:
        """Return numbers of it, from number `at` on."""
        size = {"F32": 4, "F16": 2, "BF16": 2}[self.dtype]
        raw = self.read(at * size, count * size)
        if self.dtype == "BF16":
            wide = bytearray(2 * len(raw))
            wide[2::4], wide[3::4] = raw[::2], raw[1::2]
            raw = bytes(wide)
        kind = "e" if self.dtype == "F16" else "f"
        return struct.unpack(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw)


class Stored:
    """The sources of a plan, read in samples; opened as they are asked for.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be read.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._open: dict[int, tuple[Any, int, dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open.values():
            opened[0].close()

    def error2(self, rows: Rows, elements: int) -> float:
        """Return the sum of squares of the errors of so many numbers, which these rows are."""
        word, said = _spec(rows.codec)
        sample = _Sample(
            codes=self._tensor(rows.source, rows.tensor),
            sides=[self._tensor(side.source, side.tensor) for side in rows.sides],
            rows=(rows.start, rows.end),
            columns=elements // max(1, rows.end - rows.start),
            said=said,
        )
        return (_MEANS.get(word) or _ggml(word))(sample) * elements

    def _tensor(self, source: int, name: str) -> _Tensor:
        from submerge import _core

        if source not in self._open:
            file = self._sources[source]
            header = read_header(Path(file.path))
            reader = _core.Reader(str(file.path), json.dumps(dict(file.identity)))
            tensors = {tensor["name"]: tensor for tensor in header["tensors"]}
            self._open[source] = (reader, header["data_start"], tensors)
        reader, start, tensors = self._open[source]
        found = tensors[name]
        size = found["end"] - found["start"]
        return _Tensor(reader, start + found["start"], size, found["dtype"])


def _spec(spec: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the word of a codec and its parameters."""
    if isinstance(spec, str):
        return spec, {}
    ((word, said),) = spec.items()
    return word, said


class _Sample(NamedTuple):
    """Rows of codes: what is beside them, which they are, and numbers in each."""

    codes: _Tensor
    sides: list[_Tensor]
    rows: tuple[int, int]
    columns: int
    said: Mapping[str, Any]

    def blocks(self, elements: int) -> Iterator[tuple[int, int]]:
        """Yield the row, and the place in it, of some blocks of so many numbers."""
        first, last = self.rows
        in_row = max(1, self.columns // elements)
        count = (last - first) * in_row
        step = max(1, count // _SAMPLES)
        # Neighbours of one column would be alike: the place moves on by an odd number.
        for at in range(0, count, step | 1):
            yield first + at // in_row, at % in_row


def _levels(levels: Sequence[float]) -> list[float]:
    """Return the mean square of the error of each level, that of a code by its index."""
    known = sorted({v for v in levels if math.isfinite(v)})
    found: dict[float, float] = {}
    for at, v in enumerate(known):
        below = known[at - 1] if at else 2 * v - known[at + 1]
        above = known[at + 1] if at + 1 < len(known) else 2 * v - known[at - 1]
        a, b = (below + v) / 2, (above + v) / 2
        found[v] = ((b - v) ** 3 + (v - a) ** 3) / (3 * (b - a))
    return [found.get(v, 0.0) for v in levels]


@lru_cache(maxsize=2)
def _fp8(dtype: str) -> list[float]:
    """Return the mean square of the error of every code of an FP8."""
    mantissa, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    levels = []
    for code in range(256):
        exponent, fraction = (code & 0x7F) >> mantissa, code & (2**mantissa - 1)
        unit = 2.0 ** (max(exponent, 1) - bias - mantissa)
        value = unit * (fraction + (2**mantissa if exponent else 0))
        special = code & 0x7F == 0x7F if mantissa == 3 else exponent == 31
        levels.append(math.nan if special else -value if code & 0x80 else value)
    return _levels(levels)


_E2M1 = _levels([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
_IQ4 = _levels([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _squares(sample: _Sample, *, by_rows: bool) -> float:
    """Return the mean square of the scales."""
    first, last = sample.rows if by_rows else (0, 1)
    return _mean([scale * scale for scale in sample.sides[0].floats(first, last - first)])


def _float8(sample: _Sample, *, by_rows: bool) -> float:
    errors = _fp8(sample.codes.dtype)
    width = min(_CODES, sample.columns)
    codes = b"".join(
        sample.codes.read(row * sample.columns + place * width, width)
        for row, place in sample.blocks(width)
    )
    return _mean([errors[code] for code in codes]) * _squares(sample, by_rows=by_rows)


def _scale_in(sample: _Sample, place: tuple[int, int], elements: int, *, tiles: bool) -> int:
    """Return the byte that the scale of a block is."""
    (r, c), in_row = place, sample.columns // elements
    at = r * in_row + c
    if tiles:
        at = (r // 128 * -(-in_row // 4) + c // 4) * 512
        at += r % 32 * 16 + r % 128 // 32 * 4 + c % 4
    return sample.sides[0].read(at, 1)[0]


def _mxfp8(sample: _Sample) -> float:
    errors = _fp8("F8_E4M3")
    found = []
    for row, place in sample.blocks(32):
        codes = sample.codes.read(row * sample.columns + place * 32, 32)
        scale = 2.0 ** (_scale_in(sample, (row, place), 32, tiles=True) - 127)
        found += [errors[code] * scale * scale for code in codes]
    return _mean(found)


def _nibbles(codes: bytes) -> Iterator[int]:
    for byte in codes:
        yield byte & 15
        yield byte >> 4


def _nvfp4(sample: _Sample, *, tiles: bool) -> float:
    (whole,) = sample.sides[1].floats(0, 1)
    found = []
    for row, place in sample.blocks(16):
        codes = sample.codes.read((row * sample.columns + place * 16) // 2, 8)
        scale = _e4m3(_scale_in(sample, (row, place), 16, tiles=tiles)) * whole
        found += [_E2M1[code] * scale * scale for code in _nibbles(codes)]
    return _mean(found)


def _e4m3(code: int) -> float:
    exponent, fraction = (code & 0x7F) >> 3, code & 7
    return (fraction + (8 if exponent else 0)) * 2.0 ** (max(exponent, 1) - 10)


def _bnb4(sample: _Sample) -> float:
    errors = _levels(sample.sides[1].floats(0, 16))
    size, nested = sample.said["block"], sample.said.get("nested")
    found = []
    for row, place in sample.blocks(2):
        pair = row * sample.columns // 2 + place
        at = 2 * pair // size
        if nested is None:
            (scale,) = sample.sides[0].floats(at, 1)
        else:
            (outer,) = sample.sides[2].floats(at // nested["blocks"], 1)
            (inner,) = sample.sides[3].floats(sample.sides[0].read(at, 1)[0], 1)
            scale = inner * outer + nested["offset"]
        # Of the block that these two are in, as much as there is behind them.
        codes = sample.codes.read(pair, max(1, (at + 1) * size // 2 - pair))
        found.append(_mean([errors[code] for code in _nibbles(codes)]) * scale * scale)
    return _mean(found)


_MEANS: Mapping[str, Callable[[_Sample], float]] = {
    "scaled": lambda sample: _float8(sample, by_rows=False),
    "scaled_rows": lambda sample: _float8(sample, by_rows=True),
    "int8": lambda sample: _squares(sample, by_rows=False) / 12,
    "int8_rows": lambda sample: _squares(sample, by_rows=True) / 12,
    # To rotate changes no length.
    "int8_convrot": lambda sample: _squares(sample, by_rows=True) / 12,
    "llm_int8": lambda sample: _squares(sample, by_rows=True) / 12 / 127**2,
    "mxfp8": _mxfp8,
    "nvfp4": lambda sample: _nvfp4(sample, tiles=True),
    "nvfp4_bfl": lambda sample: _nvfp4(sample, tiles=False),
    "bnb4": _bnb4,
}


def _half(block: bytes, at: int) -> float:
    (number,) = struct.unpack_from("<e", block, at)
    return float(number)


def _six(packed: bytes, which: int) -> int:
    """Return one of eight scales of 6 bits, as Q4_K and Q5_K pack them in 12 bytes."""
    if which < 4:
        return packed[which] & 63
    return (packed[which + 4] & 15) | (packed[which - 4] >> 6 << 4)


def _q3_scales(packed: bytes) -> list[int]:
    """Return the 16 scales of 6 bits, as Q3_K packs them in 12 bytes."""
    low = [packed[i] & 15 for i in range(8)] + [packed[i] >> 4 for i in range(8)]
    high = [packed[8 + i % 4] >> 2 * (i // 4) & 3 for i in range(16)]
    return [(a | b << 4) - 32 for a, b in zip(low, high, strict=True)]


def _book(codes: bytes) -> float:
    return _mean([_IQ4[code] for code in _nibbles(codes)])


def _iq4_xs(block: bytes) -> float:
    high = block[2] | block[3] << 8
    found = []
    for i in range(8):
        scale = (block[4 + i // 2] >> 4 * (i % 2) & 15) | (high >> 2 * i & 3) << 4
        found.append((scale - 32) ** 2 * _book(block[8 + 16 * i :][:16]))
    return _half(block, 0) ** 2 * _mean(found)


def _steps(scale: float, steps: Sequence[int]) -> float:
    return scale**2 * _mean([step * step for step in steps]) / 12


# By ggml's formats: numbers and bytes of a block, and the mean square of its errors.
_GGML: Mapping[str, tuple[int, int, Callable[[bytes], float]]] = {
    **{
        word: (32, nbytes, lambda block: _half(block, 0) ** 2 / 12)
        for word, nbytes in (("q8_0", 34), ("q4_0", 18), ("q4_1", 20), ("q5_0", 22), ("q5_1", 24))
    },
    "q2_k": (256, 84, lambda b: _steps(_half(b, 80), [scale & 15 for scale in b[:16]])),
    "q3_k": (256, 110, lambda b: _steps(_half(b, 108), _q3_scales(b[96:108]))),
    "q4_k": (256, 144, lambda b: _steps(_half(b, 0), [_six(b[4:16], i) for i in range(8)])),
    "q5_k": (256, 176, lambda b: _steps(_half(b, 0), [_six(b[4:16], i) for i in range(8)])),
    "q6_k": (256, 210, lambda b: _steps(_half(b, 208), struct.unpack("<16b", b[192:208]))),
    "iq4_nl": (32, 18, lambda b: _half(b, 0) ** 2 * _book(b[2:])),
    "iq4_xs": (256, 136, _iq4_xs),
    "mxfp4": (32, 17, lambda b: 4.0 ** (b[0] - 127) * _mean([_E2M1[c] for c in _nibbles(b[1:])])),
}


def _ggml(word: str) -> Callable[[_Sample], float]:
    elements, nbytes, error = _GGML[word]

    def mean(sample: _Sample) -> float:
        row_bytes = sample.columns // elements * nbytes
        blocks = sample.blocks(elements)
        return _mean(
            [error(sample.codes.read(r * row_bytes + p * nbytes, nbytes)) for r, p in blocks]
        )

    return mean
