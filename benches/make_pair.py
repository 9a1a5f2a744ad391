"""Write synthetic FLUX.1 checkpoints: real layer widths, few blocks, bf16.

    python -m benches.make_pair FOLDER [--double 2] [--single 6] [--models schnell,krea]

Every model is written in two layouts: `NAME/transformer/` as diffusers shards it, and
`NAME.bfl.safetensors`. `schnell` holds the reference values and has no guidance; `krea` and `dev`
have it and differ from `schnell` by a small normal delta each, so merges of them round.

Values belong to a tensor of the diffusers layout: each has a generator of its own, seeded by its
name, so they do not depend on layout, shards, order or depth. One tensor is held at a time; the
defaults make 3.2 GB for each model and layout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from factory import WEIGHTS, Flux, bfl_stacks, config, diffusers_shapes, shapes_of, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MODELS", "make_pair"]

# Different shard boundaries, so that nothing can pair shards up by position.
MODELS = {"schnell": 1_300_000_000, "krea": 1_200_000_000, "dev": 1_250_000_000}
WIDTHS = (3072, 128, 4096, 768)  # hidden, one head, T5 features, pooled CLIP features
_DELTA = 0.1  # standard deviation of a delta, relative to that of the reference values
_SWAPPED = ("norm_out.linear.weight", "norm_out.linear.bias")
_CHUNK = 1 << 24

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a diffusers tensor goes: a file and the byte offset inside it."""

    descriptor: int
    offset: int


@dataclass(frozen=True, slots=True)
class Output:
    """One model while it is written: the places of every diffusers tensor, in each layout."""

    name: str
    spots: dict[str, list[Spot]]


def make_pair(
    folder: Path, *, double: int = 2, single: int = 6, models: Sequence[str] = ("schnell", "krea")
) -> None:
    """Write the models into `folder`, both layouts of each."""
    fluxes = {name: Flux(double, single, *WIDTHS, guidance=name != "schnell") for name in models}
    with ExitStack() as stack:
        outputs = [_start(folder, name, flux, stack) for name, flux in fluxes.items()]
        shapes = {n: s for flux in fluxes.values() for n, s in diffusers_shapes(flux).items()}
        for name, shape in shapes.items():
            taking = [output for output in outputs if name in output.spots]
            for start, reference in _reference(name, shape):
                for output in taking:
                    _put(output, name, shape, start, _value(output.name, name, start, reference))


def _start(folder: Path, name: str, flux: Flux, stack: ExitStack) -> Output:
    """Write headers, index and config of a model, and return where its tensors go."""
    spots: dict[str, list[Spot]] = {tensor: [] for tensor in diffusers_shapes(flux)}
    transformer = folder / name / "transformer"
    write_json(transformer / "config.json", config(flux))
    shapes, shards = diffusers_shapes(flux), _shards(diffusers_shapes(flux), MODELS[name])
    weight_map: dict[str, str] = {}
    for i, tensors in enumerate(shards, start=1):
        shard = f"{WEIGHTS}-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(tensors, shard)
        placed = _header(transformer / shard, {t: shapes[t] for t in tensors}, stack)
        for tensor, spot in placed.items():
            spots[tensor].append(spot)
    write_json(
        transformer / f"{WEIGHTS}.safetensors.index.json",
        {
            "metadata": {"total_size": sum(2 * int(np.prod(s)) for s in shapes.values())},
            "weight_map": dict(sorted(weight_map.items())),
        },
    )
    placed = _header(folder / f"{name}.bfl.safetensors", shapes_of(flux, "bfl"), stack)
    for stacked, parts in bfl_stacks(flux).items():
        at = placed[stacked].offset
        for part in parts:
            spots[part].append(Spot(placed[stacked].descriptor, at))
            at += 2 * int(np.prod(shapes[part]))
    return Output(name, spots)


def _shards(shapes: dict[str, tuple[int, ...]], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        nbytes = 2 * int(np.prod(shape))
        if size + nbytes > limit and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def _header(path: Path, shapes: dict[str, tuple[int, ...]], stack: ExitStack) -> dict[str, Spot]:
    """Write a header and return where the data of each tensor belongs; the file stays open."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(path.open("wb"))
    file.write(struct.pack("<Q", len(text)) + text)
    file.flush()
    file.truncate(8 + len(text) + end)
    data = 8 + len(text)
    return {
        name: Spot(file.fileno(), data + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _random(*what: str | int) -> np.random.Generator:
    digest = hashlib.sha256(repr(what).encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest[:8], "little")))


def _spread(name: str) -> tuple[float, float]:
    """Return mean and standard deviation of a tensor's reference values."""
    if ".norm_" in name and "norm_out" not in name:
        return 1.0, 0.1
    if name.endswith(".bias"):
        return 0.0, 0.02
    return 0.0, 0.02 + 0.03 * hashlib.sha256(name.encode()).digest()[8] / 255


def _reference(name: str, shape: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
    """Yield the reference values of a tensor, flat, a chunk at a time with its first index."""
    mean, deviation = _spread(name)
    total = int(np.prod(shape))
    for start in range(0, total, _CHUNK):
        count = min(_CHUNK, total - start)
        numbers = _random("reference", name, start).standard_normal(count, dtype=np.float32)
        numbers *= np.float32(deviation)
        numbers += np.float32(mean)
        yield start, numbers.astype(ml_dtypes.bfloat16)


def _value(model: str, name: str, start: int, reference: Array) -> Array:
    if model == "schnell":
        return reference
    delta = _random(model, name, start).standard_normal(len(reference), dtype=np.float32)
    delta *= np.float32(_DELTA * _spread(name)[1])
    delta += reference.astype(np.float32)
    return delta.astype(ml_dtypes.bfloat16)


def _put(output: Output, name: str, shape: tuple[int, ...], start: int, values: Array) -> None:
    """Write a chunk into every layout; the BFL layout swaps the halves of the last modulation."""
    half = int(np.prod(shape)) // 2
    for i, spot in enumerate(output.spots[name]):
        if name in _SWAPPED and i == 1:
            for first, last, shift in ((0, half, half), (half, 2 * half, -half)):
                low, high = max(first, start), min(last, start + len(values))
                if low < high:
                    _write(spot, low + shift, values[low - start : high - start])
        else:
            _write(spot, start, values)


def _write(spot: Spot, index: int, values: Array) -> None:
    data, at = values.view(np.uint8).data, spot.offset + 2 * index
    while data:
        written = os.pwrite(spot.descriptor, data, at)
        data, at = data[written:], at + written


def main() -> None:
    """Read the arguments and write the models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--double", type=int, default=2, help="double blocks")
    parser.add_argument("--single", type=int, default=6, help="single blocks")
    parser.add_argument("--models", default="schnell,krea", help=f"of {', '.join(MODELS)}")
    given = parser.parse_args()
    models = given.models.split(",")
    make_pair(given.folder, double=given.double, single=given.single, models=models)


if __name__ == "__main__":
    main()
