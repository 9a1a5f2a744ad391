"""FLUX.1 as data: the size of every unit, and the two layouts as tables of stacked units.

The final modulation shows why a unit is finer than a tensor: Black Forest Labs stack
[shift; scale], diffusers [scale; shift]. Every other modulation has the same order in both.

Sources: black-forest-labs/flux `src/flux/model.py` and `modules/layers.py`; diffusers
`transformer_flux.py` and `scripts/convert_flux_to_diffusers.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.layout.family import Family, GuidanceNetwork, Names, Stack
from submerge.layout.model import Architecture

if TYPE_CHECKING:
    from submerge.layout.family import Shape

__all__ = ["FLUX1"]

# Channels of the sinusoidal time embedding, a constant of the architecture.
_TIME = "256"

_BEFORE: dict[str, Shape] = {
    "embed.img": ("hidden", "in_channels"),
    "embed.txt": ("hidden", "context_dim"),
    "embed.time.in": ("hidden", _TIME),
    "embed.time.out": ("hidden", "hidden"),
    "embed.vector.in": ("hidden", "pooled_dim"),
    "embed.vector.out": ("hidden", "hidden"),
    "guidance.in": ("hidden", _TIME),
    "guidance.out": ("hidden", "hidden"),
}
_ATTENTION: dict[str, Shape] = {
    "attn.q": ("hidden", "hidden"),
    "attn.k": ("hidden", "hidden"),
    "attn.v": ("hidden", "hidden"),
    "norm.q": ("head_dim", None),
    "norm.k": ("head_dim", None),
    "mlp.in": ("mlp", "hidden"),
}
_STREAM: dict[str, Shape] = {
    "mod": ("6*hidden", "hidden"),
    **_ATTENTION,
    "attn.out": ("hidden", "hidden"),
    "mlp.out": ("hidden", "mlp"),
}
_DOUBLE: dict[str, Shape] = {
    f"{stream}.{unit}": shape for stream in ("img", "txt") for unit, shape in _STREAM.items()
}
_SINGLE: dict[str, Shape] = {
    "mod": ("3*hidden", "hidden"),
    **_ATTENTION,
    "out": ("hidden", "hidden+mlp"),
}
_AFTER: dict[str, Shape] = {
    "final.mod.shift": ("hidden", "hidden"),
    "final.mod.scale": ("hidden", "hidden"),
    "final.linear": ("out_channels", "hidden"),
}

_BFL = Names(
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
    stacks={
        "double": (
            "double_blocks",
            (
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
        ),
        "single": (
            "single_blocks",
            (
                ("linear1", ("attn.q", "attn.k", "attn.v", "mlp.in")),
                ("linear2", ("out",)),
                ("norm.query_norm", ("norm.q",)),
                ("norm.key_norm", ("norm.k",)),
                ("modulation.lin", ("mod",)),
            ),
        ),
    },
    after=(
        ("final_layer.linear", ("final.linear",)),
        ("final_layer.adaLN_modulation.1", ("final.mod.shift", "final.mod.scale")),
    ),
)

_DIFFUSERS = Names(
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
    stacks={
        "double": (
            "transformer_blocks",
            (
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
        ),
        "single": (
            "single_transformer_blocks",
            (
                ("norm.linear", ("mod",)),
                ("proj_mlp", ("mlp.in",)),
                ("proj_out", ("out",)),
                ("attn.norm_q", ("norm.q",)),
                ("attn.norm_k", ("norm.k",)),
                ("attn.to_q", ("attn.q",)),
                ("attn.to_k", ("attn.k",)),
                ("attn.to_v", ("attn.v",)),
            ),
        ),
    },
    after=(
        ("norm_out.linear", ("final.mod.scale", "final.mod.shift")),
        ("proj_out", ("final.linear",)),
    ),
)

# Both code bases multiply the guidance value by 1000 before the sinusoid, as they do the time, and
# add time, guidance and pooled-text embeddings before anything else sees them: the network at one
# value is a bias (black-forest-labs/flux `src/flux/model.py`, diffusers
# `CombinedTimestepGuidanceTextProjEmbeddings`).
_GUIDANCE = GuidanceNetwork(
    name="guidance",
    layers=("guidance.in", "guidance.out"),
    activation="silu",
    scale=1000.0,
    max_period=10_000.0,
    added_to="embed.time.out.bias",
)


def _config(arch: Architecture) -> dict[str, Any]:
    """Return the contents of the config.json that diffusers loads this architecture from."""
    double, single = arch.depths
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
        "num_layers": double,
        "num_single_layers": single,
        "out_channels": None if arch.out_channels == arch.in_channels else arch.out_channels,
        "patch_size": 1,
        "pooled_projection_dim": arch.pooled_dim,
    }


def _rope_axes(head_dim: int) -> tuple[int, ...]:
    """Return how a head is split among the position axes when no config says so.

    (16, 56, 56) is FLUX.1's. No published model has another head width; for those we take a
    quarter, a quarter and a half, as the small models in diffusers' own tests do.
    """
    return (16, 56, 56) if head_dim == 128 else (head_dim // 4, head_dim // 4, head_dim // 2)


FLUX1 = Family(
    name="flux1",
    title="FLUX.1",
    before=_BEFORE,
    stacks=(Stack("double", _DOUBLE, streams=("img", "txt")), Stack("single", _SINGLE)),
    after=_AFTER,
    parts=("attn.q", "attn.k", "attn.v", "attn.out", "mlp", "mod", "norm", "out"),
    read={
        "hidden": ("embed.img.weight", 0),
        "head_dim": ("double.0.img.norm.q.weight", 0),
        "mlp": ("double.0.img.mlp.in.weight", 0),
        "in_channels": ("embed.img.weight", 1),
        "out_channels": ("final.linear.weight", 0),
        "context_dim": ("embed.txt.weight", 1),
        "pooled_dim": ("embed.vector.in.weight", 1),
    },
    layouts={"bfl": _BFL, "diffusers": _DIFFUSERS},
    guidance=_GUIDANCE,
    # Both code bases fix the ratio; diffusers' config cannot even express another.
    mlp_ratio=4,
    published=Architecture("flux1", (19, 38), 3072, 128, 12288, 64, 64, 4096, 768, guidance=True),
    guided_words={
        True: "FLUX.1 [dev] kind (guidance)",
        False: "FLUX.1-schnell kind (no guidance)",
    },
    kinds={128: "FLUX.1-Canny-dev or FLUX.1-Depth-dev", 384: "FLUX.1-Fill-dev", 196: "Flex.2"},
    relatives={(8, 38): "Flux.1-lite or Flex.1-alpha"},
    rope_axes=_rope_axes,
    config=_config,
    # What FluxTransformer2DModel assumes.
    config_defaults={
        "patch_size": 1,
        "in_channels": 64,
        "out_channels": None,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": False,
    },
    gguf="flux",
)
