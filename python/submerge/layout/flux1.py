"""FLUX.1 as data: the size of every unit, and the two layouts as tables of stacked units.

A layout is a table from a module's name to the units it stacks along dimension 0, in the order in
which the modules occur in the model (so in the order in which diffusers fills shards). Every unit
occurs once in each table; that, and nothing else, is the conversion between them.

The final modulation shows why a unit is finer than a tensor: Black Forest Labs stack
[shift; scale], diffusers [scale; shift]. Every other modulation has the same order in both.

Sources: black-forest-labs/flux `src/flux/model.py` and `modules/layers.py`; diffusers
`transformer_flux.py` and `scripts/convert_flux_to_diffusers.py`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.layout.model import Architecture, OutTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LAYOUTS", "Names", "config_of", "rope_axes", "tensors_of", "unit_shapes"]

# Rows and columns of each unit, as names of `_sizes`; a unit without columns is a norm's scale,
# every other one is a linear layer with weight and bias.
_Shape = tuple[str, str | None]
_Table = tuple[tuple[str, tuple[str, ...]], ...]

_EMBED: dict[str, _Shape] = {
    "embed.img": ("H", "channels"),
    "embed.txt": ("H", "context"),
    "embed.time.in": ("H", "time"),
    "embed.time.out": ("H", "H"),
    "embed.vector.in": ("H", "pooled"),
    "embed.vector.out": ("H", "H"),
    "guidance.in": ("H", "time"),
    "guidance.out": ("H", "H"),
}
_ATTENTION: dict[str, _Shape] = {
    "attn.q": ("H", "H"),
    "attn.k": ("H", "H"),
    "attn.v": ("H", "H"),
    "norm.q": ("head", None),
    "norm.k": ("head", None),
    "mlp.in": ("mlp", "H"),
}
_STREAM: dict[str, _Shape] = {
    "mod": ("6H", "H"),
    **_ATTENTION,
    "attn.out": ("H", "H"),
    "mlp.out": ("H", "mlp"),
}
_DOUBLE: dict[str, _Shape] = {
    f"{stream}.{unit}": shape for stream in ("img", "txt") for unit, shape in _STREAM.items()
}
_SINGLE: dict[str, _Shape] = {"mod": ("3H", "H"), **_ATTENTION, "out": ("H", "H+mlp")}
_FINAL: dict[str, _Shape] = {
    "final.mod.shift": ("H", "H"),
    "final.mod.scale": ("H", "H"),
    "final.linear": ("out", "H"),
}

# Channels of the sinusoidal time embedding, a constant of the architecture.
_TIME_CHANNELS = 256
# Both code bases fix the ratio; diffusers' config cannot even express another.
MLP_RATIO = 4


class Names(NamedTuple):
    """One layout: its tables, the names of its two stacks, and how it calls a norm's parameter."""

    double: str
    single: str
    norm: str
    before: _Table
    in_double: _Table
    in_single: _Table
    after: _Table


_BFL = Names(
    double="double_blocks",
    single="single_blocks",
    norm="scale",
    before=(
        ("img_in", ("embed.img",)),
        ("time_in.in_layer", ("embed.time.in",)),
        ("time_in.out_layer", ("embed.time.out",)),
        ("vector_in.in_layer", ("embed.vector.in",)),
        ("vector_in.out_layer", ("embed.vector.out",)),
        ("guidance_in.in_layer", ("guidance.in",)),
        ("guidance_in.out_layer", ("guidance.out",)),
        ("txt_in", ("embed.txt",)),
    ),
    in_double=(
        ("img_mod.lin", ("img.mod",)),
        ("img_attn.qkv", ("img.attn.q", "img.attn.k", "img.attn.v")),
        ("img_attn.norm.query_norm", ("img.norm.q",)),
        ("img_attn.norm.key_norm", ("img.norm.k",)),
        ("img_attn.proj", ("img.attn.out",)),
        ("img_mlp.0", ("img.mlp.in",)),
        ("img_mlp.2", ("img.mlp.out",)),
        ("txt_mod.lin", ("txt.mod",)),
        ("txt_attn.qkv", ("txt.attn.q", "txt.attn.k", "txt.attn.v")),
        ("txt_attn.norm.query_norm", ("txt.norm.q",)),
        ("txt_attn.norm.key_norm", ("txt.norm.k",)),
        ("txt_attn.proj", ("txt.attn.out",)),
        ("txt_mlp.0", ("txt.mlp.in",)),
        ("txt_mlp.2", ("txt.mlp.out",)),
    ),
    in_single=(
        ("linear1", ("attn.q", "attn.k", "attn.v", "mlp.in")),
        ("linear2", ("out",)),
        ("norm.query_norm", ("norm.q",)),
        ("norm.key_norm", ("norm.k",)),
        ("modulation.lin", ("mod",)),
    ),
    after=(
        ("final_layer.linear", ("final.linear",)),
        ("final_layer.adaLN_modulation.1", ("final.mod.shift", "final.mod.scale")),
    ),
)

_DIFFUSERS = Names(
    double="transformer_blocks",
    single="single_transformer_blocks",
    norm="weight",
    before=(
        ("time_text_embed.timestep_embedder.linear_1", ("embed.time.in",)),
        ("time_text_embed.timestep_embedder.linear_2", ("embed.time.out",)),
        ("time_text_embed.guidance_embedder.linear_1", ("guidance.in",)),
        ("time_text_embed.guidance_embedder.linear_2", ("guidance.out",)),
        ("time_text_embed.text_embedder.linear_1", ("embed.vector.in",)),
        ("time_text_embed.text_embedder.linear_2", ("embed.vector.out",)),
        ("context_embedder", ("embed.txt",)),
        ("x_embedder", ("embed.img",)),
    ),
    in_double=(
        ("norm1.linear", ("img.mod",)),
        ("norm1_context.linear", ("txt.mod",)),
        ("attn.norm_q", ("img.norm.q",)),
        ("attn.norm_k", ("img.norm.k",)),
        ("attn.to_q", ("img.attn.q",)),
        ("attn.to_k", ("img.attn.k",)),
        ("attn.to_v", ("img.attn.v",)),
        ("attn.to_out.0", ("img.attn.out",)),
        ("attn.norm_added_q", ("txt.norm.q",)),
        ("attn.norm_added_k", ("txt.norm.k",)),
        ("attn.add_q_proj", ("txt.attn.q",)),
        ("attn.add_k_proj", ("txt.attn.k",)),
        ("attn.add_v_proj", ("txt.attn.v",)),
        ("attn.to_add_out", ("txt.attn.out",)),
        ("ff.net.0.proj", ("img.mlp.in",)),
        ("ff.net.2", ("img.mlp.out",)),
        ("ff_context.net.0.proj", ("txt.mlp.in",)),
        ("ff_context.net.2", ("txt.mlp.out",)),
    ),
    in_single=(
        ("norm.linear", ("mod",)),
        ("proj_mlp", ("mlp.in",)),
        ("proj_out", ("out",)),
        ("attn.norm_q", ("norm.q",)),
        ("attn.norm_k", ("norm.k",)),
        ("attn.to_q", ("attn.q",)),
        ("attn.to_k", ("attn.k",)),
        ("attn.to_v", ("attn.v",)),
    ),
    after=(
        ("norm_out.linear", ("final.mod.scale", "final.mod.shift")),
        ("proj_out", ("final.linear",)),
    ),
)

LAYOUTS: dict[str, Names] = {"bfl": _BFL, "diffusers": _DIFFUSERS}


def unit_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every unit by canonical name, in execution order."""
    return dict(_unit_shapes(arch))


def tensors_of(arch: Architecture, layout: str, prefix: str = "") -> list[OutTensor]:
    """Return the tensors of a layout in module order (the order of the model's state dict)."""
    names = LAYOUTS[layout]
    shapes = _unit_shapes(arch)
    return [
        _stack(prefix + module, parameter, tuple(f"{unit}.{name}" for unit in units), shapes)
        for module, units in _modules(names, arch)
        for name, parameter in _parameters(names, f"{units[0]}.bias" in shapes)
    ]


def config_of(arch: Architecture) -> dict[str, Any]:
    """Return the contents of the config.json that diffusers loads this architecture from."""
    return {
        "_class_name": "FluxTransformer2DModel",
        # The version that wrote FLUX.1-Krea-dev's config; every field below exists since then.
        "_diffusers_version": "0.35.0.dev0",
        "attention_head_dim": arch.head_dim,
        "axes_dims_rope": list(arch.axes_dims_rope),
        "guidance_embeds": arch.guidance,
        "in_channels": arch.in_channels,
        "joint_attention_dim": arch.context_dim,
        "num_attention_heads": arch.hidden // arch.head_dim,
        "num_layers": arch.double,
        "num_single_layers": arch.single,
        "out_channels": None if arch.out_channels == arch.in_channels else arch.out_channels,
        "patch_size": 1,
        "pooled_projection_dim": arch.pooled_dim,
    }


def rope_axes(head_dim: int) -> tuple[int, ...]:
    """Return how a head is split among the position axes when no config says so.

    (16, 56, 56) is FLUX.1's. No published model has another head width; for those we take a
    quarter, a quarter and a half, as the small models in diffusers' own tests do.
    """
    return (16, 56, 56) if head_dim == 128 else (head_dim // 4, head_dim // 4, head_dim // 2)


@functools.lru_cache(maxsize=16)
def _unit_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    sizes = _sizes(arch)
    shapes: dict[str, tuple[int, ...]] = {}
    for unit, (rows, columns) in _units(arch):
        if columns is None:
            shapes[f"{unit}.weight"] = (sizes[rows],)
        else:
            shapes[f"{unit}.weight"] = (sizes[rows], sizes[columns])
            shapes[f"{unit}.bias"] = (sizes[rows],)
    return shapes


def _sizes(arch: Architecture) -> dict[str, int]:
    """Return the numbers the unit tables speak of."""
    return {
        "H": arch.hidden,
        "3H": 3 * arch.hidden,
        "6H": 6 * arch.hidden,
        "H+mlp": arch.hidden + arch.mlp,
        "mlp": arch.mlp,
        "head": arch.head_dim,
        "channels": arch.in_channels,
        "out": arch.out_channels,
        "context": arch.context_dim,
        "pooled": arch.pooled_dim,
        "time": _TIME_CHANNELS,
    }


def _units(arch: Architecture) -> Iterator[tuple[str, _Shape]]:
    """Yield every unit, without parameter names, in execution order."""
    for unit, shape in _EMBED.items():
        if arch.guidance or not unit.startswith("guidance."):
            yield unit, shape
    for stack, depth, table in (
        ("double", arch.double, _DOUBLE),
        ("single", arch.single, _SINGLE),
    ):
        for index in range(depth):
            for unit, shape in table.items():
                yield f"{stack}.{index}.{unit}", shape
    yield from _FINAL.items()


def _modules(names: Names, arch: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules of a layout in order, with the units each one stacks."""
    for module, units in names.before:
        if arch.guidance or not units[0].startswith("guidance."):
            yield module, units
    for stack, canonical, depth, table in (
        (names.double, "double", arch.double, names.in_double),
        (names.single, "single", arch.single, names.in_single),
    ):
        for index in range(depth):
            for module, units in table:
                yield (
                    f"{stack}.{index}.{module}",
                    tuple(f"{canonical}.{index}.{unit}" for unit in units),
                )
    yield from names.after


def _parameters(names: Names, linear: bool) -> tuple[tuple[str, str], ...]:  # noqa: FBT001
    """Return (canonical, in this layout) for each parameter of a linear layer or a norm."""
    return (("weight", "weight"), ("bias", "bias")) if linear else (("weight", names.norm),)


def _stack(
    module: str, parameter: str, units: tuple[str, ...], shapes: dict[str, tuple[int, ...]]
) -> OutTensor:
    rows = sum(shapes[unit][0] for unit in units)
    return OutTensor(f"{module}.{parameter}", (rows, *shapes[units[0]][1:]), units)
