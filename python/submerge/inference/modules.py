"""The modules of a pipeline, built from their configs without weights, and where their weights lie.

The libraries would map the files of text encoders and VAE into memory, where one that is cut short
ends the process. Their own loading renames and ties a few tensors, so that is done here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.dtypes import FLOATS
from submerge.errors import CheckpointError, listing
from submerge.inference.failures import explained_folder
from submerge.inference.weights import MadeWeights, Weights
from submerge.layout import Place, config_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from submerge.checkpoint import TensorInfo
    from submerge.inference.parts import Parts

__all__ = ["build"]

# What else a parameter is called in files: T5's table of words is one tensor under two names, and
# VAEs were once saved with others for their attention.
_ALSO = (
    (r"encoder\.embed_tokens\.weight", "shared.weight"),
    (r"shared\.weight", "encoder.embed_tokens.weight"),
    (r"(.+)\.to_q\.(weight|bias)", r"\1.query.\2"),
    (r"(.+)\.to_k\.(weight|bias)", r"\1.key.\2"),
    (r"(.+)\.to_v\.(weight|bias)", r"\1.value.\2"),
    (r"(.+)\.to_out\.0\.(weight|bias)", r"\1.proj_attn.\2"),
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
        CheckpointError: weights are missing, no floats, of another shape than the config says, or
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
        return module, MadeWeights(
            parts.model, dtypes, parts.opened(str(dtype).removeprefix("torch."))
        )
    checkpoint = parts.beside.weights[name]
    places = _places(f"{parts.companions / name}", shapes, checkpoint.tensors)
    return module, Weights(checkpoint, places, dtypes)


def _of_config(parts: Parts, name: str) -> Any:
    import diffusers
    import transformers

    if name == "transformer":
        return diffusers.FluxTransformer2DModel.from_config(config_of(parts.model.arch))
    config = parts.config(name)
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
        CheckpointError: one is missing, of another shape or no floats.
    """
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    found: dict[str, tuple[Place, ...]] = {}
    missing: list[str] = []
    for name, shape in shapes.items():
        tensor = next((stored[known] for known in _names(name) if known in stored), None)
        if tensor is None:
            missing.append(name)
            continue
        if tensor.shape != shape or tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{where}: `{tensor.name}` is {tensor.dtype} {list(tensor.shape)}, expected floats "
                f"{list(shape)} by its config",
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
