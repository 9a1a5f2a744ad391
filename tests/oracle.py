"""What a merge should give, in numpy: reading, the layouts, the weighted sum, one rounding.

This shares no code with submerge and knows it only by its documentation: operands in the order of
their models' names; weights in f64, each rounded to f32 once; f32 multiply, then add, no fused
operation; one rounding to the output's dtype; every NaN that was computed has one form; what comes
from one model alone is copied as bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

import factory
from factory import Array, Flux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

Arrays = dict[str, Array]

# How each format writes a NaN that was computed, and its largest finite value.
_NAN = {"F32": 0x7FC00000, "F16": 0x7E00, "BF16": 0x7FC0, "F8_E4M3": 0x7F, "F8_E5M2": 0x7F}
_LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_SWAPPED = "final_layer.adaLN_modulation.1."


def read(path: Path) -> Arrays:
    """Read a safetensors file by the letter of the format; the package must agree."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found: Arrays = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda kv: kv[1].get("data_offsets", [0, 0])):
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        assert start == end, f"{path}: a hole before {name}"
        end = stop
        dtype = factory._NUMPY[entry["dtype"]]
        body = data[8 + length + start : 8 + length + stop]
        found[name] = np.frombuffer(body, dtype).reshape(entry["shape"])
    assert 8 + length + end == len(data), f"{path}: bytes after the last tensor"
    assert length % 8 == 0, f"{path}: data that is not aligned"
    theirs = factory.read(path)
    assert theirs.keys() == found.keys()
    assert all(same(theirs[name], array) for name, array in found.items())
    return found


def read_folder(folder: Path) -> Arrays:
    """Read every shard of a folder; an index, where there is one, must say the same."""
    shards = {path.name: read(path) for path in sorted(folder.glob("*.safetensors"))}
    found = {name: array for shard in shards.values() for name, array in shard.items()}
    assert len(found) == sum(map(len, shards.values())), f"{folder}: a tensor in two shards"
    indices = list(folder.glob("*.safetensors.index.json"))
    assert len(indices) == (len(shards) > 1)
    for index in indices:
        content = json.loads(index.read_text(encoding="utf-8"))
        assert content["weight_map"] == {n: s for s, held in shards.items() for n in held}
        assert content["metadata"]["total_size"] == sum(a.nbytes for a in found.values())
    return found


def metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file, by the package."""
    with safetensors.safe_open(path, "np") as file:
        found: dict[str, str] = file.metadata()
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data(path: Path) -> bytes:
    """Everything behind the header of a safetensors file."""
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


def same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal byte for byte, shape and dtype included."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def differing(got: Arrays, expected: Arrays) -> list[str]:
    """Names of the tensors that are not equal byte for byte, and of those only one side has."""
    return [
        name
        for name in sorted(got.keys() | expected.keys())
        if name not in got or name not in expected or not same(got[name], expected[name])
    ]


def to_diffusers(arrays: Arrays, flux: Flux, layout: str = "bfl", prefix: str = "") -> Arrays:
    """Cut the tensors of a layout into those of the diffusers layout, the finest one."""
    if layout == "diffusers":
        return {name.removeprefix(prefix): array for name, array in arrays.items()}
    shapes = factory.diffusers_shapes(flux)
    found: Arrays = {}
    for name, parts in factory.bfl_stacks(flux).items():
        array = _unswapped(name, arrays[prefix + name])
        ends = np.cumsum([shapes[part][0] for part in parts])[:-1]
        found |= dict(zip(parts, np.split(array, ends), strict=True))
    return found


def from_diffusers(arrays: Arrays, flux: Flux, layout: str = "bfl", prefix: str = "") -> Arrays:
    """Stack the tensors of the diffusers layout into those of another."""
    if layout == "bfl":
        stacks = factory.bfl_stacks(flux)
        arrays = {n: np.concatenate([arrays[part] for part in stacks[n]]) for n in stacks}
        arrays = {name: _unswapped(name, array) for name, array in arrays.items()}
    return {prefix + name: array for name, array in arrays.items()}


def _unswapped(name: str, array: Array) -> Array:
    """Exchange the halves of the final modulation: scale, shift here, shift, scale there."""
    if not name.startswith(_SWAPPED):
        return array
    first, second = np.split(array, 2)
    return np.concatenate([second, first])


def rounded(values: Array, dtype: str, overflow: str = "saturate") -> Array:
    """Round f32 numbers to a dtype once, to nearest even; NaN in its one form."""
    assert values.dtype == np.float32
    kind = factory.DTYPES[dtype][0]
    nan = np.isnan(values)
    if overflow == "saturate" and dtype in _LARGEST:
        values = np.clip(values, -_LARGEST[dtype], _LARGEST[dtype])
    with np.errstate(over="ignore", invalid="ignore"):
        out = values.astype(kind)
    bits = out.view(_UNSIGNED[kind.itemsize])
    bits[nan] = _NAN[dtype]
    if dtype == "F8_E4M3" and overflow == "nan":
        bits[np.isnan(out.astype(np.float32))] = _NAN[dtype]
    return out


def decoded(array: Array) -> Array:
    """Turn numbers of any float dtype into f32, exactly."""
    return array.astype(np.float32)


def weighted(
    operands: Iterable[Array], weights: Iterable[float], dtype: str, overflow: str = "saturate"
) -> Array:
    """`((w_0 x_0) + w_1 x_1) + ...` in f32, rounded once."""
    total: Array | None = None
    with np.errstate(all="ignore"):
        for operand, weight in zip(operands, weights, strict=True):
            term = decoded(operand) * np.float32(weight)
            total = term if total is None else total + term
    assert total is not None
    return rounded(np.asarray(total, np.float32), dtype, overflow)


def mixed(
    parents: Mapping[str, Array], weights: Mapping[str, float], dtype: str, overflow: str
) -> Array:
    """One tensor of several models: by name, without those of weight 0; one whole is a copy."""
    names = sorted(name for name, weight in weights.items() if weight != 0)
    if [weights[name] for name in names] == [1.0]:
        (name,) = names
        if parents[name].dtype == factory.DTYPES[dtype][0]:
            return parents[name]
    return weighted(
        [parents[name] for name in names], [weights[name] for name in names], dtype, overflow
    )


def merged(
    parents: Mapping[str, Arrays],
    weights: Callable[[str], Mapping[str, float]],
    dtype: str,
    overflow: str = "saturate",
) -> Arrays:
    """Merge models in the diffusers layout; `weights` says what goes into each tensor.

    A tensor that not all models have comes whole from the ones that do: the guidance policy `keep`.
    One that only models of weight 0 have is left out.
    """
    found: Arrays = {}
    for name in dict.fromkeys(name for arrays in parents.values() for name in arrays):
        having = {model: arrays[name] for model, arrays in parents.items() if name in arrays}
        chosen = {model: w for model, w in weights(name).items() if model in having}
        if not any(chosen.values()):
            continue
        if len(having) < len(parents):
            total = math.fsum(chosen.values())
            chosen = {model: w / total for model, w in chosen.items()}
        found[name] = mixed(having, chosen, dtype, overflow)
    return found


def alpha(share: float, first: str = "schnell", second: str = "krea") -> dict[str, float]:
    """The weights of two models when `share` is the second's."""
    return {first: 1.0 - share, second: share}


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights over their sum, in f64."""
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def baked(arrays: Arrays, guidance: float) -> Array:
    """Evaluate the guidance embedder at one value, in f64, rounded once to f32.

    Source: `CombinedTimestepGuidanceTextProjEmbeddings` of diffusers.
    """
    name = "time_text_embed.guidance_embedder.linear_"
    half = arrays[name + "1.weight"].shape[1] // 2
    angles = [1000.0 * guidance * math.exp(-math.log(10000.0) * i / half) for i in range(half)]
    x = np.array([*map(math.cos, angles), *map(math.sin, angles)])
    for layer in "12":
        if layer == "2":
            x = x / (1.0 + np.exp(-x))
        # cumsum adds in column order, as documented; a dot product adds in its own.
        products = decoded(arrays[f"{name}{layer}.weight"]).astype(np.float64) * x
        x = np.cumsum(products, axis=1)[:, -1] + decoded(arrays[f"{name}{layer}.bias"])
    return x.astype(np.float32)


def hard_numbers(dtype: str, count: int, seed: int = 0) -> Array:
    """Numbers that trip a careless implementation: any bit pattern, the special ones often."""
    kind = factory.DTYPES[dtype][0]
    random = np.random.default_rng(seed)
    bits = random.integers(0, 1 << (8 * kind.itemsize), count, dtype=np.uint64)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 6e-8, 3e38, 448.0, 464.0, 57344.0, 1.0],
        np.float32,
    )
    with np.errstate(over="ignore"):
        chosen = special.astype(kind).view(_UNSIGNED[kind.itemsize])
    picks = random.integers(0, len(special), count)
    mixture = np.where(random.random(count) < 0.3, chosen[picks], bits)
    return mixture.astype(_UNSIGNED[kind.itemsize]).view(kind)
