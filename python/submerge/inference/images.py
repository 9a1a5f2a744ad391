"""One painted image, and the PNG that says how it was painted.

The text chunks of the PNG are `parameters`, in the form that A1111, Forge and ComfyUI's readers
know, and `submerge`, one JSON object with everything that decides the image. Neither holds a date
or a time: the same image is the same file.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from submerge import documents
from submerge.documents import ImageDocument
from submerge.errors import CheckpointError, RecipeError, SubmergeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

__all__ = ["GeneratedImage", "InferenceResult", "opened", "read_metadata"]

# What Pillow raises of files that are damaged, beside OSErrors without a number.
_DAMAGED = (
    EOFError, LookupError, OverflowError, SyntaxError, TypeError, ValueError,
    struct.error, zlib.error,
)  # fmt: skip


@dataclass(eq=False)
class GeneratedImage:
    """One image and how it was painted.

    Attributes:
        image: the picture, RGB.
        prompt: its text.
        prompt_index: which of the prompts it was, from 0.
        seed: the seed of its start noise.
        options: the options it was painted with, defaults filled in.
        metadata: what the PNG's `submerge` chunk holds.
        seconds: how long it took, its share of the batch; 0 for one that was there already.
        phases: seconds of `text`, `denoise` and `decode`.
        memory: phase -> `rss`, `anonymous`, `file`, `vram`, `vram_reserved` -> the most bytes that
            were seen (sampled 20 times a second); the text phase is that of the run. Not in the
            PNG: the same image is the same file.
        notes: what is worth telling, a prompt that was cut for instance.
        path: the file it was written to, or None.
    """

    image: Image
    prompt: str
    prompt_index: int
    seed: int
    options: Mapping[str, Any]
    metadata: ImageDocument
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: Path | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a PNG with its metadata; the file appears whole or not at all."""
        from PIL.PngImagePlugin import PngInfo

        target = Path(path)
        info = PngInfo()
        info.add_text("parameters", _parameters(self.metadata))
        info.add_text("submerge", json.dumps(self.metadata, ensure_ascii=False, sort_keys=True))
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with part.open("wb") as file:
                self.image.save(file, "PNG", pnginfo=info)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        self.path = target
        return target

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the picture as plain data."""
        return {
            "path": None if self.path is None else str(self.path),
            "prompt": self.prompt,
            "prompt_index": self.prompt_index,
            "seed": self.seed,
            "options": dict(self.options),
            "seconds": self.seconds,
            "phases": dict(self.phases),
            "memory": {phase: dict(most) for phase, most in self.memory.items()},
            "notes": list(self.notes),
        }


@dataclass(eq=False)
class InferenceResult(Sequence[GeneratedImage]):
    """The images in the order of the prompts, and of the seeds of each.

    Attributes:
        images: the images.
        model: what the model is called.
        phases: seconds of the whole run by phase.
        memory: phase -> kind of memory -> the most bytes the process held, see `GeneratedImage`.
        notes: what is worth telling: defaults chosen and why, prompts that were cut.
        resumed: how many images were there already.
    """

    images: list[GeneratedImage]
    model: str
    phases: dict[str, float]
    memory: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resumed: int = 0

    @overload
    def __getitem__(self, index: int) -> GeneratedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[GeneratedImage]: ...
    def __getitem__(self, index: int | slice) -> GeneratedImage | list[GeneratedImage]:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures as plain data."""
        return {
            "model": self.model,
            "images": [image.to_dict() for image in self.images],
            "phases": self.phases,
            "memory": {phase: dict(most) for phase, most in self.memory.items()},
            "notes": list(self.notes),
            "resumed": self.resumed,
        }


def read_metadata(path: str | os.PathLike[str]) -> ImageDocument:
    """Return what the `submerge` chunk of a PNG holds.

    Raises:
        CheckpointError: not a PNG, or one that submerge did not write.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    with opened(path) as image:
        text = image.info.get("submerge")
    if not isinstance(text, str):
        raise CheckpointError(f"{name}: expected an image painted by submerge, got another")
    try:
        return documents.parsed(ImageDocument, text, f"{name}: metadata")
    except RecipeError as error:
        raise CheckpointError(error.message, hint=error.hint) from None


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image]:
    """Open a picture; its pixels are read when they are asked for, within the context.

    Raises:
        CheckpointError: no picture, or a damaged one.
        OSError: the file cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:
        if error.errno is not None:
            raise
        raise CheckpointError(f"{os.fspath(path)}: expected a sound picture: {error}") from None
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        if isinstance(error, SubmergeError):
            raise
        raise CheckpointError(f"{os.fspath(path)}: expected a sound picture: {error}") from None


def _parameters(metadata: ImageDocument) -> str:
    """Return the settings as A1111 writes them: prompt, negative prompt, one line of fields."""
    options = metadata["options"]
    fields = {
        "Steps": options["steps"],
        "Sampler": "Euler",
        "Schedule type": "Simple",
        "CFG scale": options["true_cfg"],
        "Distilled CFG Scale": options["guidance"],
        "Seed": metadata["seed"],
        "Size": f"{options['width']}x{options['height']}",
        "Model": metadata["model"]["name"],
        "Model hash": metadata["model"]["fingerprint"][:10],
        "Version": f"submerge {metadata['version']}",
    }
    negative = options.get("negative_prompt")
    lines = [metadata["prompt"]]
    lines += [] if negative is None else [f"Negative prompt: {negative}"]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in fields.items())])
