"""What stands around a transformer: text encoders, tokenizers, VAE and scheduler of a pipeline.

Reads headers and configs only, and refuses what the libraries would fail at after they have loaded
everything, or open as something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint import Checkpoint, open_checkpoint
from submerge.checkpoint.components import variant_of
from submerge.checkpoint.files import MAX_CONFIG_BYTES, read_object
from submerge.checkpoint.quantised import numbers_of
from submerge.errors import CheckpointError, LayoutError, RecipeError, listing, quoted
from submerge.given import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from submerge.layout import Architecture

__all__ = ["Companions", "check_pipeline", "open_companions"]

_INDEX = "model_index.json"
# The file that describes each component, and the classes that FLUX.1 paints with. A scheduler is
# one that takes the steps' sigmas and the shift of their size, as the pipeline gives them.
_NEEDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "scheduler": (
        "scheduler_config.json",
        ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler", "UniPCMultistepScheduler"),
    ),
    "text_encoder": ("config.json", ("CLIPTextModel",)),
    "text_encoder_2": ("config.json", ("T5EncoderModel",)),
    "tokenizer": ("tokenizer_config.json", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": ("tokenizer_config.json", ("T5Tokenizer", "T5TokenizerFast")),
    "vae": ("config.json", ("AutoencoderKL",)),
}
# Those with weights, and the name the libraries look for them under.
_WEIGHTS = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "vae": "diffusion_pytorch_model",
}
# Those that may be quantised.
_ENCODERS = ("text_encoder", "text_encoder_2")
# Pipelines of FLUX.1 have the same components, whatever they paint from; FLUX.2 has others.
_FAMILY = re.compile(r"Flux(?!2)\w*Pipeline")
_CODES = ("I8", "U8", "F4", "F8_E8M0")
_AS_PUBLISHED = "take the component as it was published: name another pipeline as `components`"


class Companions(NamedTuple):
    """The components beside the transformer.

    Attributes:
        folder: the pipeline folder.
        configs: the config of each component.
        weights: the headers of text encoders and VAE.
    """

    folder: Path
    configs: Mapping[str, dict[str, Any]]
    weights: Mapping[str, Checkpoint]


def check_pipeline(folder: Path, where: str) -> Path:
    """Return a pipeline folder, given as such or by its index.

    Raises:
        RecipeError: it is none.
    """
    if folder.name == _INDEX:
        folder = folder.parent
    if not (folder / _INDEX).is_file():
        raise RecipeError(
            f"{where}: {quoted(str(folder))} is no diffusers pipeline, expected a folder with "
            f"`{_INDEX}`"
        )
    return folder


def open_companions(folder: Path, arch: Architecture) -> Companions:
    """Read what is known of the components of a pipeline without loading them.

    Raises:
        CheckpointError: one is damaged, missing, of another class, or does not fit the transformer.
        OSError: a file cannot be read.
    """
    index = read_object(folder / _INDEX, MAX_CONFIG_BYTES)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not _FAMILY.fullmatch(kind):
        raise CheckpointError(
            f"{folder / _INDEX}: the pipeline is {quoted(str(kind))}, expected `FluxPipeline`",
            hint="take the components of a FLUX.1 text-to-image pipeline",
        )
    missing = [name for name, (file, _) in _NEEDED.items() if not (folder / name / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {listing(missing, noun='component')} missing, expected the folders of a "
            "whole pipeline",
            hint="download the whole pipeline, or name another one as `components`",
        )
    for name in _NEEDED:
        _check_class(folder, name, index.get(name))
    configs = {
        name: read_object(folder / name / file, MAX_CONFIG_BYTES)
        for name, (file, _) in _NEEDED.items()
    }
    _check_configs(folder, configs, arch)
    found = {name: _weights(folder / name, stem) for name, stem in _WEIGHTS.items()}
    for name in _ENCODERS:
        found[name] = _as_numbers(found[name], configs[name])
    for name, checkpoint in found.items():
        _check_numbers(folder / name, configs[name], checkpoint)
    return Companions(folder, configs, found)


def _check_class(folder: Path, name: str, entry: Any) -> None:
    """Refuse a component of a class that FLUX.1 does not paint with."""
    expected = _NEEDED[name][1]
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
    if kind not in expected:
        raise CheckpointError(
            f"{folder / _INDEX}: the {name} is {quoted(str(kind))}, expected "
            f"{' or '.join(map(quoted, expected))}",
            hint="take the components of a FLUX.1 pipeline: name one as `components`",
        )


def _check_configs(folder: Path, configs: Mapping[str, dict[str, Any]], arch: Architecture) -> None:
    """Refuse fields of another kind, and sizes that do not fit the transformer's."""
    whole: dict[str, dict[str, int | None]] = {
        "text_encoder": {"hidden_size": arch.pooled_dim},
        "text_encoder_2": {"d_model": arch.context_dim, "d_ff": None, "num_heads": None},
        "vae": {"latent_channels": arch.in_channels // 4},
    }
    for name, fields in whole.items():
        for field, expected in fields.items():
            value = configs[name].get(field, expected)
            if value is None and field not in configs[name]:
                continue
            where = f"{folder / name / 'config.json'}: `{field}`"
            if type(value) is not int or value < 1:
                raise CheckpointError(f"{where}: expected a whole number, got {shown(value)}")
            if expected is not None and value != expected:
                raise CheckpointError(
                    f"{where}: does not fit the transformer, expected {expected}, got {value}",
                    hint="take the components of the model it was made from",
                )
    where = f"{folder / 'vae' / 'config.json'}"
    levels = configs["vae"].get("block_out_channels", [1])
    if (
        not isinstance(levels, list)
        or not levels
        or any(type(n) is not int or n < 1 for n in levels)
    ):
        raise CheckpointError(
            f"{where}: `block_out_channels`: expected whole numbers, got {shown(levels)}"
        )
    for field in ("scaling_factor", "shift_factor"):
        value = configs["vae"].get(field)
        if type(value) not in (int, float):
            raise CheckpointError(
                f"{where}: `{field}`: expected a number, got {shown(value)}",
                hint="this is no VAE of FLUX.1; take the components of a FLUX.1 pipeline",
            )


def _weights(folder: Path, stem: str) -> Checkpoint:
    """Open a component's weights: those of the plain name, or of the one variant there is."""
    found: dict[str | None, Path] = {}
    for path in sorted(folder.iterdir()):
        variant, plain = variant_of(path.name) or (None, path.name)
        # The file itself where it is one, else the index of its shards.
        if plain in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
            found.setdefault(variant, path)
    if not found:
        return open_checkpoint(folder)
    return open_checkpoint(found[None if None in found else min(found, key=str)])


def _as_numbers(checkpoint: Checkpoint, config: dict[str, Any]) -> Checkpoint:
    """Return a text encoder whose quantised tensors have the dtypes and shapes of their numbers.

    Raises:
        CheckpointError: quantised in a form that is not read, or codes without their scales.
    """
    described = checkpoint._replace(config=config)
    try:
        return numbers_of(described, described.tensors)
    except LayoutError as error:
        raise CheckpointError(error.message, hint=_AS_PUBLISHED) from error


def _check_numbers(folder: Path, config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse codes of a quantisation that nothing says how to read."""
    tensors = checkpoint.tensors.values()
    codes = [tensor.name for tensor in tensors if tensor.dtype in _CODES]
    described = "quantization_config" in config and not any(tensor.packed for tensor in tensors)
    if codes or described:
        method = config.get("quantization_config")
        kind = method.get("quant_method") if isinstance(method, dict) else None
        raise CheckpointError(
            f"{folder}: is quantised{'' if kind is None else f' ({kind})'}, expected numbers, got "
            f"{listing(codes)} of codes",
            hint=_AS_PUBLISHED,
        )
