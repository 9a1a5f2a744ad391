"""What models and adapters are called in public: never by a path of this machine."""

from __future__ import annotations

import os
import re
from pathlib import PurePath

__all__ = ["hub_id", "label"]

# Names of files and folders inside a model, which say nothing of which model it is.
_INSIDE = re.compile(
    r"(?:diffusion_pytorch_model|model|model_index|transformer|unet|flux|adapter_model"
    r"|pytorch_lora_weights)"
    r"(?:[.-](?:fp16|bf16|fp32))?(?:-[0-9]{5}-of-[0-9]{5})?",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"(?:\.safetensors(?:\.index(?:\.[^.]+)?\.json)?|\.sft|\.gguf|\.json)\Z", re.IGNORECASE
)
_CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>.+)")
_OWNERS = ("black-forest-labs",)
_STEPS_UP = 2


def hub_id(path: str) -> str | None:
    """Return `owner/name` where a path tells the hub repository it came from.

    It does in an `hf://` address, in the cache of huggingface_hub, and below a folder named after
    the FLUX models' owner.
    """
    if path.startswith("hf://"):
        parts = path.removeprefix("hf://").split("/")
        return "/".join(parts[:2]).partition("@")[0] if len(parts) > 1 else None
    parts = list(PurePath(os.path.abspath(path)).parts)  # noqa: PTH100 - keeps symlinks' names
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if cached := _CACHED.fullmatch(part):
            return f"{cached['owner']}/{cached['name']}"
        if part in _OWNERS and following and not _INSIDE.fullmatch(following):
            return f"{part}/{_SUFFIX.sub('', following)}"
    return None


def label(path: str) -> str:
    """Return how a model is called in public: its hub id, or the base name of what holds it."""
    known = hub_id(path)
    if known is not None:
        return known
    names = list(PurePath(os.path.abspath(path)).parts[1:])  # noqa: PTH100
    for name in list(reversed(names))[: _STEPS_UP + 1]:
        bare = _SUFFIX.sub("", name)
        if not _INSIDE.fullmatch(bare):
            return bare
    return _SUFFIX.sub("", names[-1]) if names else "model"
