"""Adapters of every format, written by the documented patterns, and what each adds in numpy.

An oracle: it shares no code with submerge. A `Change` says what an adapter adds to diffusers'
tensors, in F64; the functions write the same change as the programs named would.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

import factory
from factory import Array, Flux

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# A module of each kind: whole, a part of a stack, before and behind the blocks.
MODULES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.add_v_proj",
    "transformer_blocks.1.attn.to_out.0",
    "transformer_blocks.0.ff.net.0.proj",
    "transformer_blocks.0.norm1.linear",
    "single_transformer_blocks.1.attn.to_k",
    "single_transformer_blocks.0.proj_mlp",
    "single_transformer_blocks.1.proj_out",
    "x_embedder",
    "context_embedder",
    "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.text_embedder.linear_2",
    "norm_out.linear",
    "proj_out",
)
Pair = tuple[Array, Array]


def shape_of(flux: Flux, module: str, layout: str = "diffusers") -> tuple[int, int]:
    rows, columns = factory.shapes_of(flux, layout)[f"{module}.weight"]
    return rows, columns


def draw(seed: object, *shape: int, dtype: Any = np.float32) -> Array:
    key = [ord(letter) for letter in str(seed)]
    return np.random.default_rng(key).normal(0.0, 0.1, shape).astype(np.float32).astype(dtype)


def pairs(
    flux: Flux, modules: Iterable[str], rank: int = 4, layout: str = "diffusers", seed: object = 0
) -> dict[str, Pair]:
    """Factors `up` (rows, rank) and `down` (rank, columns) of some modules of a layout."""
    found = {}
    for module in modules:
        rows, columns = shape_of(flux, module, layout)
        found[module] = (
            draw(f"{seed}up{module}", rows, rank),
            draw(f"{seed}down{module}", rank, columns),
        )
    return found


def wide(array: Array) -> Array:
    return array.astype(np.float64)


def product(pair: Pair, scale: float = 1.0) -> Array:
    """`scale * up @ down` in F64."""
    return scale * (wide(pair[0]) @ wide(pair[1]))


def in_diffusers(flux: Flux, added: Mapping[str, Array]) -> dict[str, Array]:
    """What is added to tensors of BFL's names, for diffusers' tensors."""
    shapes, stacks = factory.shapes_of(flux), factory.bfl_stacks(flux)
    found: dict[str, Array] = {}
    for name, given in added.items():
        array = given
        if name.startswith("final_layer.adaLN"):
            shift, scale = np.split(given, 2)
            array = np.concatenate([scale, shift])
        start = 0
        for part in stacks[name]:
            found[part] = array[start : start + shapes[part][0]]
            start += shapes[part][0]
    return found


def save(path: Path, arrays: Mapping[str, Array], metadata: dict[str, str] | None = None) -> Path:
    return factory.write(path, dict(arrays), metadata)


def diffusers(found: Mapping[str, Pair], prefix: str = "transformer.") -> dict[str, Array]:
    """As diffusers and peft name LoRAs; no alpha, so the scale is 1."""
    arrays = {}
    for module, (up, down) in found.items():
        arrays[f"{prefix}{module}.lora_A.weight"] = down
        arrays[f"{prefix}{module}.lora_B.weight"] = up
    return arrays


def kohya(
    found: Mapping[str, Pair], alpha: float | None, prefix: str = "lora_unet_"
) -> dict[str, Array]:
    """As sd-scripts does: underscores, and an alpha for each module."""
    arrays = {}
    for module, (up, down) in found.items():
        stem = prefix + module.replace(".", "_")
        arrays[f"{stem}.lora_down.weight"], arrays[f"{stem}.lora_up.weight"] = down, up
        if alpha is not None:
            arrays[f"{stem}.alpha"] = np.array(alpha, dtype=np.float32)
    return arrays


def comfyui(found: Mapping[str, Pair], prefix: str = "diffusion_model.") -> dict[str, Array]:
    arrays = {}
    for module, (up, down) in found.items():
        arrays[f"{prefix}{module}.lora_down.weight"] = down
        arrays[f"{prefix}{module}.lora_up.weight"] = up
    return arrays


def old_diffusers(found: Mapping[str, Pair], style: str) -> dict[str, Array]:
    """`_lora.down`, `.lora.down` or `.lora_linear_layer.down`."""
    arrays = {}
    for module, (up, down) in found.items():
        arrays[f"transformer.{module}{style}.down.weight"] = down
        arrays[f"transformer.{module}{style}.up.weight"] = up
    return arrays


def xlabs(flux: Flux, prefix: str = "") -> tuple[dict[str, Array], dict[str, Array]]:
    """As x-flux does, and what it adds to diffusers' tensors."""
    h, arrays, added = flux.hidden, {}, {}
    for block, name, rows, parts in (
        ("double_blocks.0", "qkv_lora1", 3 * h, ("attn.to_q", "attn.to_k", "attn.to_v")),
        (
            "double_blocks.1",
            "qkv_lora2",
            3 * h,
            ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        ),
        ("double_blocks.0", "proj_lora1", h, ("attn.to_out.0",)),
        ("double_blocks.1", "proj_lora2", h, ("attn.to_add_out",)),
        ("single_blocks.0", "qkv_lora", 3 * h, ("attn.to_q", "attn.to_k", "attn.to_v")),
        ("single_blocks.1", "proj_lora", h, ("proj_out",)),
    ):
        columns = 5 * h if name == "proj_lora" else h
        up, down = draw(f"{block}{name}u", rows, 4), draw(f"{block}{name}d", 4, columns)
        arrays[f"{prefix}{block}.processor.{name}.up.weight"] = up
        arrays[f"{prefix}{block}.processor.{name}.down.weight"] = down
        theirs = re.sub("double", "transformer", block).replace("single", "single_transformer")
        for part, piece in zip(parts, np.split(product((up, down)), len(parts)), strict=True):
            added[f"{theirs}.{part}.weight"] = piece
    return arrays, added


def control(flux: Flux, rank: int = 4) -> tuple[dict[str, Array], dict[str, Array]]:
    """BFL's control LoRA: every linear layer with a bias on `lora_B`, norms replaced.

    Returns the file, and what each of diffusers' tensors becomes less what it was: for norms the
    new value itself, under `=NAME`.
    """
    arrays: dict[str, Array] = {}
    added: dict[str, Array] = {}
    for name, shape in factory.shapes_of(flux, "bfl").items():
        module = name.removesuffix(".weight")
        if name.endswith(".scale"):
            arrays[name] = draw(name, *shape)
            added[f"={name}"] = wide(arrays[name])
        elif name.endswith(".weight"):
            up, down = draw(name + "u", shape[0], rank), draw(name + "d", rank, shape[1])
            arrays[f"{module}.lora_A.weight"], arrays[f"{module}.lora_B.weight"] = down, up
            arrays[f"{module}.lora_B.bias"] = draw(name + "b", shape[0])
            added[name] = product((up, down))
            added[f"{module}.bias"] = wide(arrays[f"{module}.lora_B.bias"])
    plain = in_diffusers(flux, {n: a for n, a in added.items() if not n.startswith("=")})
    stacks = factory.bfl_stacks(flux)
    norms = {f"={stacks[n[1:]][0]}": a for n, a in added.items() if n.startswith("=")}
    return arrays, plain | norms


def peft_metadata(**fields: Any) -> dict[str, str]:
    """Diffusers' header of a LoRA with its configuration."""
    named = {f"transformer.{name}": value for name, value in fields.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(named)}
