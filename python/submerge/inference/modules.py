"""The modules of a pipeline, built from their configs without weights, and where their weights lie.

The libraries would map the files of text encoders and VAE into memory, where one that is cut short
ends the process. Their own loading renames and ties a few tensors, so that is done here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.codecs import NUMBERS
from submerge.errors import CheckpointError, listing
from submerge.inference.decoded import of_component
from submerge.inference.failures import explained_folder
from submerge.inference.weights import Made, Weights, diffusers_places
from submerge.layout import Place, config_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from submerge.checkpoint import Checkpoint, TensorInfo
    from submerge.inference.parts import Parts

__all__ = ["build", "transformer_weights"]

_LAYER = r"encoder\.block\.([0-9]+)\.layer\."
# T5 in GGUF files, by llama.cpp's names.
_OF_LLAMA = (
    (r"(?:shared|encoder\.embed_tokens)\.weight", "token_embd.weight"),
    (r"encoder\.final_layer_norm\.weight", "enc.output_norm.weight"),
    (rf"{_LAYER}0\.SelfAttention\.([qkvo])\.weight", r"enc.blk.\1.attn_\2.weight"),
    (
        rf"{_LAYER}0\.SelfAttention\.relative_attention_bias\.weight",
        r"enc.blk.\1.attn_rel_b.weight",
    ),
    (rf"{_LAYER}0\.layer_norm\.weight", r"enc.blk.\1.attn_norm.weight"),
    (rf"{_LAYER}1\.DenseReluDense\.wi_0\.weight", r"enc.blk.\1.ffn_gate.weight"),
    (rf"{_LAYER}1\.DenseReluDense\.wi(?:_1)?\.weight", r"enc.blk.\1.ffn_up.weight"),
    (rf"{_LAYER}1\.DenseReluDense\.wo\.weight", r"enc.blk.\1.ffn_down.weight"),
    (rf"{_LAYER}1\.layer_norm\.weight", r"enc.blk.\1.ffn_norm.weight"),
)
# What else a parameter is called in files: T5's table of words is one tensor under two names, and
# VAEs were once saved with others for their attention.
_ALSO = (
    (r"encoder\.embed_tokens\.weight", "shared.weight"),
    (r"shared\.weight", "encoder.embed_tokens.weight"),
    (r"(.+)\.to_q\.(weight|bias)", r"\1.query.\2"),
    (r"(.+)\.to_k\.(weight|bias)", r"\1.key.\2"),
    (r"(.+)\.to_v\.(weight|bias)", r"\1.value.\2"),
    (r"(.+)\.to_out\.0\.(weight|bias)", r"\1.proj_attn.\2"),
    *_OF_LLAMA,
)
# Before the names of CLIP's parameters in files and in some versions of transformers.
_PREFIX = "text_model."
# What transformers keeps in f32 when all else is f16: the sums of T5's layers leave its range.
_KEPT_IN_F32 = {"text_encoder_2": "wo"}


def build(parts: Parts, name: str, dtype: torch.dtype) -> tuple[Any, Weights]:
    """Build a module of a pipeline whose parameters take no memory, and open its weights.

    Args:
        parts: the pipeline's files.
        name: `transformer`, `text_encoder`, `text_encoder_2` or `vae`.
        dtype: what it computes in; parameters that a library keeps in f32 stay so.

    Raises:
        CheckpointError: weights are missing, no numbers, of another shape than the config says, or
            changed since their header was read.
        OSError: a file cannot be opened.
    """
    import torch
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = _of_config(parts, name).to(dtype).eval()
    for path, part in module.named_modules():
        if dtype == torch.float16 and _KEPT_IN_F32.get(name) in path.split("."):
            part.float()
    shapes = {path: tuple(tensor.shape) for path, tensor in module.named_parameters()}
    dtypes = {path: tensor.dtype for path, tensor in module.named_parameters()}
    if name == "transformer":
        return module, transformer_weights(parts, dtypes, dtype)
    checkpoint = parts.beside.weights[name]
    places = _places(f"{parts.companions / name}", shapes, checkpoint.tensors)
    return module, Weights(checkpoint, places, dtypes, _made(checkpoint, places, dtypes))


def transformer_weights(
    parts: Parts, dtypes: Mapping[str, torch.dtype], dtype: torch.dtype
) -> Weights:
    """Return the transformer's parameters; the core makes those that are not rows of its files.

    Raises:
        AdapterError: an adapter holds numbers that are not finite.
        CheckpointError: a file changed since its header was read.
        OSError: a file cannot be opened.
    """
    opened = parts.opened(_word(dtype))
    # What is a copy of floats is read without the core's buffers, where it lies in one file.
    by_core = () if opened is None else opened.tensors if parts.view else opened.computed
    made = {name: Made(opened, name) for name in by_core if opened is not None}
    checkpoint = parts.model.checkpoint
    if parts.view is not None:
        checkpoint = checkpoint._replace(files=())  # there is none
    return Weights(checkpoint, diffusers_places(parts.model), dtypes, made)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _made(
    checkpoint: Checkpoint,
    places: Mapping[str, tuple[Place, ...]],
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Made]:
    """Return the parameters of a component that are codes in its files."""
    tensors = {name: place.tensor for name, (place,) in places.items()}
    packed = [name for name, tensor in tensors.items() if checkpoint.tensors[tensor].packed]
    opened = {
        dtype: of_component(
            checkpoint, {tensors[n] for n in packed if dtypes[n] == dtype}, _word(dtype)
        )
        for dtype in {dtypes[name] for name in packed}
    }
    return {name: Made(opened[dtypes[name]], tensors[name]) for name in packed}


def _of_config(parts: Parts, name: str) -> Any:
    import diffusers
    import transformers

    if name == "transformer":
        return diffusers.FluxTransformer2DModel.from_config(config_of(parts.model.arch))
    # How the files are quantised, if they are, is settled.
    config = {k: v for k, v in parts.config(name).items() if k != "quantization_config"}
    with explained_folder(parts.companions / name):
        if name == "vae":
            return diffusers.AutoencoderKL.from_config(config)
        kind = transformers.CLIPTextModel if name == "text_encoder" else transformers.T5EncoderModel
        return kind(kind.config_class.from_dict(config))


def _places(
    where: str, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[Place, ...]]:
    """Return where each parameter of a component lies in its files.

    Raises:
        CheckpointError: one is missing, of another shape or no numbers.
    """
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    found: dict[str, tuple[Place, ...]] = {}
    missing: list[str] = []
    for name, shape in shapes.items():
        tensor = next((stored[known] for known in _names(name) if known in stored), None)
        if tensor is None:
            missing.append(name)
            continue
        if tensor.shape != shape or tensor.dtype not in NUMBERS:
            raise CheckpointError(
                f"{where}: `{tensor.name}` is {tensor.dtype} {list(tensor.shape)}, expected "
                f"numbers {list(shape)} by its config",
                hint="the component may be damaged or of another version; download it again",
            )
        found[name] = (Place(tensor.name, 0, tensor.rows),)
    if missing:
        raise CheckpointError(
            f"{where}: {listing(sorted(missing))} missing, expected those of its config",
            hint="the component was only partly saved or downloaded; fetch it again",
        )
    return found


def _names(parameter: str) -> Iterator[str]:
    """Yield what a parameter may be called in a file, the likeliest first."""
    yield (own := parameter.removeprefix(_PREFIX))
    for pattern, other in _ALSO:
        if re.fullmatch(pattern, own):
            yield re.sub(pattern, other, own)
