"""What a file is when it is not a FLUX.1 transformer: names for what people pick by mistake.

Every kind is recognised by tensor names that nothing else has, never by shapes: parts of
Flux.1-lite and FLUX.2 klein have both the names and the shapes of FLUX.1. The first kind that fits
is the answer, so the particular ones stand before the general ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from submerge.checkpoint.names import is_shard
from submerge.errors import LayoutError, counted, quoted
from submerge.layout.detect import EXTRAS, PREFIXES

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

__all__ = ["explain"]

_ADAPTER = (
    "an adapter is put onto a model: `--lora FILE` beside the models, or `submerge lora bake MODEL "
    "FILE -o OUTPUT`; `submerge lora info FILE` says what it is"
)
_OTHER_ADAPTER = "fuse it into its model with the program that made it, then merge that"
_INJECTED = (
    "take the adapter out or merge it in before saving: `unload_lora_weights()` or `fuse_lora()` "
    "in diffusers, `merge_and_unload()` in peft"
)
_BESIDE = "it is used beside a model, not merged into it"
_FAMILY = "models merge within one family; `layout: generic` merges by name and shape alone"
_COMPONENT = "name the transformer; text encoders and VAEs are carried along, never merged"


class _Kind(NamedTuple):
    """A kind of file: every one of its marks is found at the start of some tensor's name.

    With `noun`, the message counts the tensors that the first mark matches, as so many `noun`s.
    """

    name: str
    marks: tuple[str, ...]
    hint: str
    noun: str | None = None


# Anywhere in a name, instead of at its start (after a prefix).
_IN = r"[^\n]*"

_ADAPTERS = (
    _Kind("an IP-Adapter", (_IN + r"(ip_adapter|image_proj)[._]",), _BESIDE),
    _Kind(
        "a transformer with an injected adapter",
        (_IN + r"\.base_layer\.(weight|bias)$",),
        _INJECTED,
        "tensor",
    ),
    _Kind("a DoRA", (_IN + r"\.(dora_scale|lora_magnitude_vector\b)",), _ADAPTER, "magnitude"),
    _Kind("a FLUX.1 control LoRA", (r"img_in\.lora_A\.", _IN + r"query_norm\.scale$"), _ADAPTER),
    _Kind(
        "a LoRA",
        (
            _IN + r"(\.lora_A(\.[^.\n]+)?\.weight|[._](lora|lora_linear_layer)[._]down\.weight"
            r"|_lora[12]?\.down\.weight)$",
        ),
        _ADAPTER,
        "low-rank pair",
    ),
    _Kind("a LoHa", (_IN + r"\.hada_w1_a$",), _ADAPTER, "module"),
    _Kind("a LoKr", (_IN + r"\.lokr_w1(_a)?$",), _ADAPTER, "module"),
    _Kind("an OFT adapter", (_IN + r"\.oft_(blocks|diag|R)\b",), _OTHER_ADAPTER, "module"),
    _Kind("a GLoRA", (_IN + r"\.a1\.weight$", _IN + r"\.b1\.weight$"), _ADAPTER),
    _Kind("a set of weight differences", (_IN + r"\.(diff|diff_b|set_weight)$",), _ADAPTER),
    _Kind(
        "a ControlNet",
        (
            r"(controlnet_(blocks|single_blocks|x_embedder|cond_embedding)|control_model|input_hint_block)\.",
        ),
        _BESIDE,
    ),
    _Kind("FLUX.1 Redux (an image projection, no transformer)", (r"redux_(up|down)\.",), _BESIDE),
    _Kind("a text embedding", (r"(emb_params|clip_[gl]|string_to_param.*)$",), _BESIDE),
)

_DOUBLE = r"(double_blocks|transformer_blocks)\.0\."

_FAMILIES = (
    _Kind("Chroma Radiance", (r"nerf_blocks\.",), _FAMILY),
    _Kind("Chroma", (r"distilled_guidance_layer\.",), _FAMILY),
    _Kind("FLUX.2", (r"(single_stream|double_stream)_modulation",), _FAMILY),
    _Kind(
        "HunyuanVideo",
        (_DOUBLE, r"(txt_in\.individual_token_refiner|context_embedder\.token_)"),
        _FAMILY,
    ),
    _Kind("Qwen-Image", (r"transformer_blocks\.0\.img_mod\.1\.", r"txt_norm\."), _FAMILY),
    _Kind("Stable Diffusion 3", (r"joint_blocks\.0\.",), _FAMILY),
    _Kind(
        "Stable Diffusion 3",
        (r"transformer_blocks\.0\.attn\.add_q_proj\.", r"pos_embed\.proj\."),
        _FAMILY,
    ),
    _Kind("Stable Diffusion XL", (r"input_blocks\.0\.0\.", r"label_emb\.0\.0\."), _FAMILY),
    _Kind("Stable Diffusion XL", (r"down_blocks\.0\.resnets\.", r"add_embedding\."), _FAMILY),
    _Kind("Stable Diffusion 1 or 2", (r"input_blocks\.0\.0\.",), _FAMILY),
    _Kind("Stable Diffusion 1 or 2", (r"down_blocks\.0\.resnets\.", r"time_embedding\."), _FAMILY),
    _Kind("Wan", (r"blocks\.0\.(self_attn\.q|attn1\.to_q)\.", r"patch_embedding\."), _FAMILY),
)

_COMPONENTS = (
    _Kind(
        "a T5 text encoder", (_IN + r"encoder\.block\.0\.layer\.0\.SelfAttention\.",), _COMPONENT
    ),
    _Kind("a CLIP text encoder", (_IN + r"text_model\.encoder\.layers\.0\.",), _COMPONENT),
    _Kind("a CLIP text encoder", (_IN + r"transformer\.resblocks\.0\.",), _COMPONENT),
    _Kind("an image encoder", (_IN + r"vision_model\.encoder\.layers\.0\.",), _COMPONENT),
    _Kind("a VAE", (_IN + r"\b(encoder|decoder)\.conv_in\.",), _COMPONENT),
    _Kind("a language model", (_IN + r"layers\.0\.self_attn\.q_proj\.",), _FAMILY),
)

_START = r"^(?:" + "|".join(re.escape(prefix) for prefix in PREFIXES if prefix) + r")?(?:"


def explain(checkpoint: Checkpoint) -> LayoutError | None:
    """Return the error that names what the file is instead of a FLUX.1 transformer, if known."""
    # The other models of an all-in-one file must not speak for the transformer.
    own = [name for name in checkpoint.tensors if not name.startswith(EXTRAS)]
    # One search over all names at once is a hundred times faster than one per name and mark.
    text = "\n".join(own or checkpoint.tensors)
    for kind in (*_ADAPTERS, *_FAMILIES, *_COMPONENTS):
        if all(_search(mark).search(text) for mark in kind.marks):
            return _error(checkpoint, kind, text)
    if checkpoint.form == "file" and is_shard(checkpoint.path.name):
        return LayoutError(
            f"{checkpoint.path}: is one shard of several by its name, expected a whole model",
            hint="name the folder, or the `*.safetensors.index.json` beside it",
        )
    class_name = (checkpoint.config or {}).get("_class_name", "FluxTransformer2DModel")
    if class_name != "FluxTransformer2DModel":
        return LayoutError(
            f"{checkpoint.path}: is a {quoted(str(class_name))} by its config.json, "
            "expected a `FluxTransformer2DModel`",
            hint=_FAMILY,
        )
    return None


def _search(mark: str) -> re.Pattern[str]:
    return re.compile(f"{_START}{mark})", re.MULTILINE)


def _error(checkpoint: Checkpoint, kind: _Kind, text: str) -> LayoutError:
    number = ""
    if kind.noun is not None:
        number = f" ({counted(len(_search(kind.marks[0]).findall(text)), kind.noun)})"
    return LayoutError(
        f"{checkpoint.path}: is {kind.name}{number}, expected a full FLUX.1 transformer",
        hint=kind.hint,
    )
