"""What is not a mergeable FLUX.1 transformer is named for what it is, with advice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import factory
from factory import KREA, REAL, Flux
from opened import headers
from submerge.errors import LayoutError
from submerge.layout import identify

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

Shapes = dict[str, tuple[int, ...]]
BFL = factory.shapes_of(KREA, "bfl")
DIFFUSERS = factory.shapes_of(KREA)


def named(*names: str) -> Checkpoint:
    """A checkpoint with these tensors; `{}` stands for three block numbers."""
    return headers({n.format(i): (2, 2) for n in names for i in (range(3) if "{}" in n else [0])})


def but(shapes: Shapes, **changes: tuple[int, ...] | None) -> Checkpoint:
    """A checkpoint in which some tensors (dots written as __) are missing or of another shape."""
    changed: dict[str, Any] = {**shapes, **{n.replace("__", "."): s for n, s in changes.items()}}
    return headers({name: shape for name, shape in changed.items() if shape is not None})


def plus(shapes: Shapes, *names: str) -> Checkpoint:
    return headers({**shapes, **dict.fromkeys(names, (2, 2))})


def without(shapes: Shapes, *parts: str) -> Checkpoint:
    return headers({n: s for n, s in shapes.items() if not any(part in n for part in parts)})


def renamed(shapes: Shapes, old: str, new: str) -> Checkpoint:
    return headers({name.replace(old, new): shape for name, shape in shapes.items()})


CHROMA = {
    n: s for n, s in BFL.items() if "mod" not in n and "_in.in" not in n and "_in.out" not in n
}
T5 = "encoder.block.{}.layer.0.SelfAttention.q.weight"
CLIP = "text_model.encoder.layers.{}.self_attn.q_proj.weight"

ADAPTERS = [
    (
        named("transformer.transformer_blocks.{}.attn.to_q.lora_A.weight"),
        "is a LoRA (3 low-rank pairs)",
    ),
    (named("transformer.x_embedder.lora_A.default.weight"), "is a LoRA (1 low-rank pair)"),
    (
        named(
            "lora_unet_double_blocks_{}_img_attn_qkv.lora_down.weight",
            "lora_unet_double_blocks_{}_img_attn_qkv.lora_up.weight",
            "lora_unet_double_blocks_{}_img_attn_qkv.alpha",
            "lora_te1_text_model_encoder_layers_{}_mlp_fc1.lora_down.weight",
        ),
        "is a LoRA (6 low-rank pairs)",
    ),
    (named("double_blocks.{}.processor.qkv_lora1.down.weight"), "is a LoRA (3 low-rank pairs)"),
    (named("single_blocks.{}.processor.proj_lora.down.weight"), "is a LoRA (3 low-rank pairs)"),
    (named("diffusion_model.double_blocks.{}.img_attn.qkv.lora_down.weight"), "is a LoRA (3"),
    (named("lora_transformer_transformer_blocks_{}_attn_to_q.lora_down.weight"), "is a LoRA (3"),
    (named("lycoris_transformer_blocks_{}_attn_to_q.lora_down.weight"), "is a LoRA (3"),
    (named("base_model.model.double_blocks.{}.img_attn.qkv.lora_A.weight"), "is a LoRA (3"),
    (named("transformer_blocks.{}.attn.to_q.lora.down.weight"), "is a LoRA (3"),
    (named("transformer_blocks.{}.attn.to_q_lora.down.weight"), "is a LoRA (3"),
    (named("transformer_blocks.{}.attn.to_q.lora_linear_layer.down.weight"), "is a LoRA (3"),
    (
        named("img_in.lora_A.weight", "double_blocks.{}.img_attn.norm.query_norm.scale"),
        "is a FLUX.1 control LoRA",
    ),
    (named("lora_unet_single_blocks_{}_linear1.hada_w1_a"), "is a LoHa (3 modules)"),
    (named("lora_unet_single_blocks_{}_linear1.lokr_w1"), "is a LoKr (3 modules)"),
    (named("lora_unet_single_blocks_{}_linear1.oft_blocks"), "is an OFT adapter (3 modules)"),
    (named("x_{}.a1.weight", "x_{}.b1.weight"), "is a GLoRA"),
    (named("x_{}.dora_scale", "x_{}.lora_down.weight"), "is a DoRA (3 magnitudes)"),
    (named("diffusion_model.double_blocks.{}.img_attn.qkv.diff"), "is a set of weight differences"),
]

BESIDE = [
    (named("ip_adapter_proj_model.norm.weight"), "is an IP-Adapter"),
    (
        named("double_blocks.{}.processor.ip_adapter_double_stream_k_proj.weight"),
        "is an IP-Adapter",
    ),
    (plus(DIFFUSERS, "controlnet_blocks.0.weight"), "is a ControlNet"),
    (named("redux_up.weight", "redux_down.weight"), "is FLUX.1 Redux"),
    (named("clip_l", "clip_g"), "is a text embedding"),
]

FAMILIES = [
    (plus(CHROMA, "distilled_guidance_layer.in_proj.weight"), "is Chroma,"),
    (
        plus(CHROMA, "distilled_guidance_layer.in_proj.bias", "nerf_blocks.0.x"),
        "is Chroma Radiance",
    ),
    (
        named(
            "double_blocks.{}.img_attn.qkv.weight",
            "single_stream_modulation.lin.weight",
            "img_in.weight",
        ),
        "is FLUX.2,",
    ),
    (
        named(
            "transformer_blocks.{}.attn.to_q.weight", "double_stream_modulation_img.linear.weight"
        ),
        "is FLUX.2,",
    ),
    (plus(BFL, "txt_in.individual_token_refiner.blocks.0.x"), "is HunyuanVideo,"),
    (named("transformer_blocks.{}.img_mod.1.weight", "txt_norm.weight"), "is Qwen-Image,"),
    (
        named("model.diffusion_model.joint_blocks.{}.x_block.attn.qkv.weight"),
        "is Stable Diffusion 3,",
    ),
    (
        named("transformer_blocks.{}.attn.add_q_proj.bias", "pos_embed.proj.bias"),
        "is Stable Diffusion 3,",
    ),
    (
        named(
            "model.diffusion_model.input_blocks.0.0.weight",
            "model.diffusion_model.label_emb.0.0.weight",
            "conditioner.embedders.0.transformer." + CLIP,
        ),
        "is Stable Diffusion XL,",
    ),
    (named("down_blocks.0.resnets.0.x", "add_embedding.linear_1.x"), "is Stable Diffusion XL,"),
    (
        named(
            "model.diffusion_model.input_blocks.0.0.weight",
            "first_stage_model.decoder.conv_in.weight",
        ),
        "is Stable Diffusion 1 or 2,",
    ),
    (named("blocks.{}.self_attn.q.weight", "patch_embedding.weight"), "is Wan,"),
    (named("model.layers.{}.self_attn.q_proj.weight"), "is a language model,"),
]

COMPONENTS = [
    (named(T5), "is a T5 text encoder"),
    (named("text_encoders.t5xxl.transformer." + T5), "is a T5 text encoder"),
    (named(CLIP), "is a CLIP text encoder"),
    (named("vision_model.encoder.layers.{}.mlp.fc1.bias"), "is an image encoder"),
    (named("encoder.conv_in.weight", "decoder.conv_in.weight"), "is a VAE"),
    (named("vae.decoder.conv_in.weight"), "is a VAE"),
]


def check(opened: Checkpoint, message: str, hint: str) -> None:
    with pytest.raises(LayoutError) as caught:
        identify(opened)
    assert caught.value.message.startswith("model.safetensors: ")
    assert message in caught.value.message
    assert "expected" in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("opened", "message", "hint"),
    [
        *(
            (
                opened,
                message,
                "fuse it into" if "OFT" in message else "--lora",
            )
            for opened, message in ADAPTERS
        ),
        *((opened, message, "beside a model") for opened, message in BESIDE),
        *((opened, message, "`layout: generic` merges by name") for opened, message in FAMILIES),
        *((opened, message, "name the transformer") for opened, message in COMPONENTS),
    ],
)
def test_other_files_are_named(opened: Checkpoint, message: str, hint: str) -> None:
    check(opened, message, hint)


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_flux_lite_is_no_flux_although_names_and_shapes_agree(layout: str) -> None:
    lite = factory.shapes_of(replace(REAL, double=8), layout)
    assert lite.items() <= factory.shapes_of(REAL, layout).items()
    check(headers(lite), "is Flux.1-lite or Flex.1-alpha (8 double + 38 single", "block i")


def test_the_published_size_of_flux_lite() -> None:
    shapes = factory.shapes_of(replace(REAL, double=8))
    assert len(shapes) == 808
    assert identify(headers(shapes), layout="generic").variant.startswith("tensors by name")


OTHER = "another kind of model"
TWO = "the bfl layout of FLUX.1 with 2 double + 2 single blocks"


@pytest.mark.parametrize(
    ("opened", "message", "hint"),
    [
        (headers({"a": (1,), "b": (2,)}), "got 2 tensors: `a`, `b`", "generic"),
        (
            but(BFL, img_in__bias=None),
            f"1 tensor of 84 missing, expected {TWO}: `img_in.bias`",
            "incomplete",
        ),
        (but(BFL, guidance_in__in_layer__bias=None), "1 tensor of 84 missing", "incomplete"),
        (without(DIFFUSERS, "x_embedder", "norm_out"), "4 tensors of 112 missing", "incomplete"),
        (
            without(BFL, "double_blocks.0."),
            "double blocks are numbered up to 1, expected all of them, but 1 block: `0` missing",
            "incomplete",
        ),
        (
            renamed(BFL, "single_blocks.1.", "single_blocks.99999."),
            "numbered up to 99999, expected all of them, but 9,999 blocks: `1`",
            "incomplete",
        ),
        (without(BFL, "single_blocks."), "has no single blocks", "a part of a model"),
        (without(DIFFUSERS, "single_transformer_blocks."), "has no single blocks", "a part"),
        (
            plus(BFL, "surprise.weight"),
            f"1 tensor too many, expected {TWO} and nothing else: `surprise.weight`",
            OTHER,
        ),
        (plus(BFL, "double_blocks.007.img_mod.lin.bias"), "1 tensor too many", OTHER),
        (plus(BFL, *(f"x{i}" for i in range(15))), "15 tensors too many", OTHER),
        (but(BFL, img_in__bias=(3,)), "`img_in.bias` expected [64], got [3]", OTHER),
        (
            but(BFL, img_in__bias=(3,), txt_in__bias=(64, 1)),
            "2 tensors of 84 with a wrong shape",
            OTHER,
        ),
        (but(BFL, img_in__weight=(64,)), "wrong shape", OTHER),
        (
            but(DIFFUSERS, proj_out__weight=(64, 64, 1)),
            "expected [64, 64], got [64, 64, 1]",
            OTHER,
        ),
        (headers(factory.shapes_of(Flux(hidden=40))), "got width 40, heads of 16", "generic"),
        (
            headers({**factory.shapes_of(KREA, "bfl"), **factory.shapes_of(KREA, "bfl", "net.")}),
            "holds 2 transformers: `double_blocks`, `net.double_blocks`",
            "a file of its own",
        ),
        (
            headers({**BFL, **DIFFUSERS}),
            "holds 2 transformers: `double_blocks`, `transformer_blocks`",
            "a file of its own",
        ),
        (
            headers(factory.shapes_of(KREA, "bfl", "unet.")),
            "begin with `unet.`, expected one of the known prefixes (`model.diffusion_model.`",
            "rename",
        ),
        (
            headers(DIFFUSERS, config={"_class_name": "FluxControlNetModel"}),
            "is a `FluxControlNetModel` by its config.json",
            "family",
        ),
    ],
)
def test_damaged_and_foreign_transformers(opened: Checkpoint, message: str, hint: str) -> None:
    check(opened, message, hint)


def test_a_damaged_all_in_one_file_is_no_text_encoder() -> None:
    others = {name: array.shape for name, array in factory.extras().items()}
    check(but({**BFL, **others}, img_in__bias=None), "1 tensor of 84 missing", "incomplete")
