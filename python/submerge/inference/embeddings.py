"""Prompt embeddings kept in a folder: a prompt seen before needs no text encoder.

A file for each prompt, `<digest>.safetensors`, named by all that decides the numbers: what encodes
(files of encoders and tokenizers), the text, tokens and dtype, the kind of device and the versions
of torch and transformers. Within: `t5` [1, tokens, width] and `clip` [1, width], and that key in
words, prompt included. A file that is damaged or holds something else is computed again.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.dtypes import DTYPES
from submerge.checkpoint.reading import Reading
from submerge.errors import CheckpointError
from submerge.files import path_of, write_whole
from submerge.inference.weights import Weights
from submerge.layout import Place
from submerge.profile.environment import installed

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from submerge.checkpoint import Checkpoint, TensorInfo

__all__ = ["Embeddings", "texts_identity"]

_NAMES = ("t5", "clip")
_SAMPLE = 4096  # bytes at either end of a tensor that speak for it
_SMALL = 1 << 26  # files up to this size are read whole


class Embeddings:
    """The folder, for what one pipeline encodes.

    Attributes:
        damaged: files that were there and could not be used.
    """

    def __init__(
        self, folder: str | os.PathLike[str], pipeline: Path, *, dtype: str, device: str
    ) -> None:
        """Make the folder where it is missing.

        Args:
            folder: where the files lie; several models may share it.
            pipeline: the folder of encoders and tokenizers.
            dtype: torch's name of the dtype computed in.
            device: the kind of device that encodes.

        Raises:
            OSError: the folder cannot be made, or the encoders' files not be read.
        """
        self._folder = path_of(folder, "embeddings")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known = {
            "format": "submerge-embeddings/1",
            "encoders": texts_identity(pipeline),
            "dtype": dtype,
            "device": device,
            "torch": installed("torch"),
            "transformers": installed("transformers"),
        }
        self.damaged: list[Path] = []

    def find(self, prompt: str, tokens: int) -> tuple[Any, Any] | None:
        """Return both embeddings on the CPU, or None where they are not there or not usable."""
        path, key = self._place(prompt, tokens)
        if not path.exists():
            return None
        with suppress(OSError, CheckpointError):
            file = open_checkpoint(path)
            known = file.files[0].metadata.get("key") == key
            if known and _fits(file.tensors, tokens, self._known["dtype"]):
                return _pair(file)
        self.damaged.append(path)
        return None

    def keep(self, prompt: str, tokens: int, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Write both embeddings; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        from safetensors.torch import save

        path, key = self._place(prompt, tokens)
        tensors = {name: value.contiguous() for name, value in zip(_NAMES, pair, strict=True)}
        write_whole(path, save(tensors, {"key": key}))

    def _place(self, prompt: str, tokens: int) -> tuple[Path, str]:
        """Return the file of a prompt and its key."""
        known = {**self._known, "prompt": prompt, "tokens": tokens}
        key = json.dumps(known, ensure_ascii=False, sort_keys=True)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{digest}.safetensors", key


def _fits(found: Mapping[str, TensorInfo], tokens: int, dtype: str | None) -> bool:
    """Return whether tensors are what encoding gives."""
    if set(found) != set(_NAMES):
        return False
    t5, clip = found["t5"].shape, found["clip"].shape
    shaped = len(t5) == 3 and t5[:2] == (1, tokens) and len(clip) == 2 and clip[0] == 1
    return shaped and all(DTYPES[tensor.dtype].torch == dtype for tensor in found.values())


def _pair(file: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Read both embeddings as they are."""
    import torch

    places = {name: (Place(name, 0, file.tensors[name].rows),) for name in _NAMES}
    dtypes = {name: getattr(torch, str(DTYPES[file.tensors[name].dtype].torch)) for name in _NAMES}
    with closing(Weights(file, places, dtypes)) as weights:
        return weights["t5"], weights["clip"]


def texts_identity(pipeline: Path) -> str:
    """Return a digest that is the same for pipelines that encode texts alike.

    Covers configs and tokenizers, the headers of both encoders, and both ends of each of their
    tensors: a fine-tuned encoder has the same header, but not the same numbers.
    """
    digest = hashlib.sha256()
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        folder = pipeline / name
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.suffix != ".safetensors" and path.stat().st_size <= _SMALL:
                digest.update(f"{path.relative_to(pipeline)}\0".encode())
                digest.update(path.read_bytes())
        if name.startswith("text_encoder"):
            _digest_tensors(folder, digest)
    return digest.hexdigest()


def _digest_tensors(folder: Path, digest: Any) -> None:
    """Digest name, dtype, shape and the ends of every tensor, however they are sharded."""
    checkpoint = open_checkpoint(folder)
    with Reading(checkpoint) as reading:
        for name, tensor in sorted(checkpoint.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\0".encode())
            digest.update(reading.sample(tensor, 0, _SAMPLE))
            digest.update(reading.sample(tensor, max(0, tensor.nbytes - _SAMPLE), _SAMPLE))
