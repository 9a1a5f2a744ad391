"""The formats of adapters as tables: how keys name a module, and what each tensor is to it.

A key is a prefix, a module's name in one of the layouts, and a suffix that says the tensor's role:
`lora_unet_` + `double_blocks_0_img_attn_qkv` + `.lora_down.weight`. Prefixes and suffixes vary
freely, so each has a table of its own.

Sources: peft 0.21, diffusers 0.42 `lora_conversion_utils.py`, kohya-ss/sd-scripts
`networks/lora_flux.py`, ComfyUI `comfy/lora.py` and `weight_adapter/`, lycoris-lora 4.1,
black-forest-labs/flux `modules/lora.py`, XLabs-AI/x-flux.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from submerge.layout.family import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ELSEWHERE", "ENCODERS", "NAMINGS", "REFUSED", "XLABS", "Key", "Naming", "split"]


class Naming(NamedTuple):
    """One way to name a module.

    Attributes:
        name: what it is called: whose files look like this.
        prefix: what stands before the module's name.
        separator: between the words of the module's name, `.` or `_`.
        layouts: whose module names may follow, the likeliest first.
    """

    name: str
    prefix: str
    separator: str
    layouts: tuple[str, ...]


# The first whose prefix fits and is followed by a module of the layout; longer prefixes first.
NAMINGS = (
    Naming("peft", "base_model.model.transformer.", ".", ("diffusers",)),
    # fal's trainer keeps peft's prefix and BFL's names.
    Naming("peft", "base_model.model.", ".", ("diffusers", "bfl")),
    Naming("diffusers", "transformer.", ".", ("diffusers", "bfl")),
    Naming("comfyui", "model.diffusion_model.", ".", ("bfl", "diffusers", "xlabs")),
    Naming("comfyui", "diffusion_model.", ".", ("bfl", "diffusers", "xlabs")),
    Naming("onetrainer", "lora_transformer_", "_", ("diffusers",)),
    Naming("kohya", "lora_unet_", "_", ("bfl", "diffusers")),
    Naming("lycoris", "lycoris_", "_", ("diffusers", "bfl")),
    # Nothing before the names: `save_lora_adapter` of diffusers, BFL's control LoRAs, XLabs.
    Naming("bare", "", ".", ("diffusers", "bfl", "xlabs")),
)

# x-flux adapts attention in processors of its own: 1 is the image's, 2 the text's; in single blocks
# `qkv_lora` has the rows of q, k and v and nothing of the mlp.
XLABS = Names(
    norm="scale",
    before=(),
    stacks={
        "double": (
            "double_blocks",
            (
                ("processor.qkv_lora1", ("img.attn.q", "img.attn.k", "img.attn.v")),
                ("processor.qkv_lora2", ("txt.attn.q", "txt.attn.k", "txt.attn.v")),
                ("processor.proj_lora1", ("img.attn.out",)),
                ("processor.proj_lora2", ("txt.attn.out",)),
            ),
        ),
        "single": (
            "single_blocks",
            (
                ("processor.qkv_lora", ("attn.q", "attn.k", "attn.v")),
                ("processor.proj_lora", ("out",)),
            ),
        ),
    },
    after=(),
)

_CLIP, _T5 = "text encoder (CLIP)", "text encoder 2 (T5)"

# Parts for other models of a pipeline, by prefix; the first that fits, so longer ones come first.
# Of FLUX.1 sd-scripts calls T5 the third encoder, OneTrainer the second.
ELSEWHERE: Mapping[str, str] = {
    "lora_te1_": _CLIP,
    "lora_te_": _CLIP,
    "lycoris_te1_": _CLIP,
    "lora_te2_": _T5,
    "lora_te3_": _T5,
    "lora_t5_": _T5,
    "base_model.model.text_encoder_2.": _T5,
    "base_model.model.text_encoder.": _CLIP,
    "base_model.model.text_model.": _CLIP,
    "text_encoder_2.": _T5,
    "text_encoder.": _CLIP,
    "text_encoders.clip_l.transformer.": _CLIP,
    "text_encoders.t5xxl.transformer.": _T5,
    "text_encoders.": "text encoder",
    "bundle_emb.": "text embedding",
}

# The components of a pipeline that are such models.
ENCODERS: Mapping[str, str] = {_CLIP: "text_encoder", _T5: "text_encoder_2"}

# peft puts the adapter's name into its own parameters, `.lora_A.default.weight`.
_NAMED = r"(?:\.(?!weight\b|bias\b)[^.]+)?"

# Suffix -> kind of adapter and role of the tensor. The first that matches counts; what is common to
# several kinds has the kind "".
_SUFFIXES = (
    # x-flux's `processor.qkv_lora1.down.weight`: what looks like a suffix belongs to the name.
    (r"(?<=_lora)\.down\.weight", "lora", "down"),
    (r"(?<=_lora)\.up\.weight", "lora", "up"),
    (r"(?<=_lora[12])\.down\.weight", "lora", "down"),
    (r"(?<=_lora[12])\.up\.weight", "lora", "up"),
    (rf"\.lora_A{_NAMED}\.weight", "lora", "down"),
    (rf"\.lora_B{_NAMED}\.weight", "lora", "up"),
    (rf"\.lora_B{_NAMED}\.bias", "lora", "up_bias"),
    (r"\.(?:lora_down|lora\.down|lora_linear_layer\.down)\.weight", "lora", "down"),
    (r"\.(?:lora_up|lora\.up|lora_linear_layer\.up)\.weight", "lora", "up"),
    (r"\.(?:lora_mid|lora\.mid)\.weight", "lora", "tucker"),
    (rf"\.hada_w1_a{_NAMED}", "loha", "left_up"),
    (rf"\.hada_w1_b{_NAMED}", "loha", "left_down"),
    (rf"\.hada_w2_a{_NAMED}", "loha", "right_up"),
    (rf"\.hada_w2_b{_NAMED}", "loha", "right_down"),
    (rf"\.hada_t[12]{_NAMED}", "loha", "tucker"),
    (rf"\.lokr_w1{_NAMED}", "lokr", "left"),
    (rf"\.lokr_w1_a{_NAMED}", "lokr", "left_up"),
    (rf"\.lokr_w1_b{_NAMED}", "lokr", "left_down"),
    (rf"\.lokr_w2{_NAMED}", "lokr", "right"),
    (rf"\.lokr_w2_a{_NAMED}", "lokr", "right_up"),
    (rf"\.lokr_w2_b{_NAMED}", "lokr", "right_down"),
    (rf"\.lokr_t2{_NAMED}", "lokr", "tucker"),
    (r"\.alpha", "", "alpha"),
    (rf"\.lora_magnitude_vector{_NAMED}(?:\.weight)?", "", "magnitude_peft"),
    (r"\.dora_scale", "", "magnitude"),
    (r"\.(?:diff|w_norm)", "", "diff"),
    (r"\.(?:diff_b|b_norm)", "", "diff_bias"),
    # ComfyUI names a norm by its whole tensor, `query_norm.scale`.
    (r"(?:\.scale)?\.set_weight", "", "set"),
    (r"\.a1\.weight", "glora", "weight_up"),
    (r"\.a2\.weight", "glora", "weight_down"),
    (r"\.b1\.weight", "glora", "up"),
    (r"\.b2\.weight", "glora", "down"),
    (r"\.bm\.weight", "glora", "tucker"),
    (r"\.(?:oft_blocks|oft_diag|oft_R\b.*|oft_r\b.*|boft_.*|rescale)", "oft", "oft"),
    (r"\.ia3_l.*", "ia3", "ia3"),
    (r"\.glora_[A-E]\b.*", "glora", "glora_peft"),
    (r"\.reshape_weight", "", "reshape"),
    # peft's `modules_to_save`, the norms of BFL's control LoRAs: whole tensors in place of others.
    (r"\.(?:weight|scale)", "", "weight"),
    (r"\.bias", "", "bias"),
)
# Every suffix begins with a dot; only there are all of them tried.
_KEY = re.compile(
    r"(?P<stem>.+?)(?=\.)(?:"
    + "|".join(f"(?P<s{i}>{s})" for i, (s, _, _) in enumerate(_SUFFIXES))
    + ")"
)

# Roles that are known and not applied, and why.
REFUSED: Mapping[str, str] = {
    "tucker": "a Tucker core of a convolution, expected factors of a linear layer",
    "oft": "OFT and BOFT turn the weight by a matrix of which the file does not say how it is made "
    "(exactly, or by a series that is cut off), expected what is added to a weight",
    "glora_peft": "peft's GLoRA changes weights and biases by five factors of its own, expected "
    "what is added to a weight",
    "ia3": "IA3 rescales activations, expected what is added to a weight",
    "reshape": "widens the model's layer, expected an adapter of the model's own shape",
}


class Key(NamedTuple):
    """A key taken apart.

    Attributes:
        stem: prefix and module.
        kind: `lora`, `loha`, `lokr`, `glora`, or "" for what goes with any.
        role: what the tensor is to its module.
    """

    stem: str
    kind: str
    role: str


def split(key: str) -> Key | None:
    """Take a key apart; None where nothing an adapter holds ends like this."""
    match = _KEY.fullmatch(key) if len(key) <= _LONGEST else None
    if match is None or match.lastgroup is None:
        return None
    _, kind, role = _SUFFIXES[int(match.lastgroup[1:])]
    return Key(match["stem"], kind, role)


# No module's name is that long, and matching takes the square of it.
_LONGEST = 512
