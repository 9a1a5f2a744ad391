"""A whole FLUX pipeline so small that it makes an image in seconds, with all its real parts."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from oracles.models import loaded

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import FluxTransformer2DModel

__all__ = ["image", "save_pipeline"]

SHIFTS: dict[bool, dict[str, Any]] = {
    False: {"shift": 1.0, "use_dynamic_shifting": False},
    True: {"shift": 3.0, "use_dynamic_shifting": True},
}
_WORDS = 512


def save_pipeline(folder: Path, transformer: Path, *, dynamic: bool) -> Path:
    """Write a pipeline around the transformer in another folder; the scheduler shifts or not."""
    torch.manual_seed(11)
    fields = json.loads((transformer / "config.json").read_text(encoding="utf-8"))
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=8,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )
    clip = CLIPTextConfig(
        vocab_size=_WORDS,
        hidden_size=fields["pooled_projection_dim"],
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    t5 = T5Config(
        vocab_size=_WORDS,
        d_model=fields["joint_attention_dim"],
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTS[dynamic]),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=_clip_tokenizer(folder / "words"),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_t5_tokenizer(),
        transformer=loaded(transformer),
    )
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """A vocabulary of letters, alone and at the end of a word, and no merges."""
    folder.mkdir(parents=True)
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = {word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def _t5_tokenizer() -> T5TokenizerFast:
    """A unigram vocabulary of letters, which ends every text as T5 does."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase]
    words = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    words.pre_tokenizer = Metaspace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=words, extra_ids=0)


def image(folder: Path, transformer: FluxTransformer2DModel | None = None) -> torch.Tensor:
    """Return the 64 x 64 image a pipeline makes in two steps, on the CPU in float32.

    `transformer` stands in for the one in the folder.
    """
    more = {} if transformer is None else {"transformer": transformer}
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32, **more)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        "a fox in snow",
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.5,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    pixels: torch.Tensor = made.images[0]
    return pixels
