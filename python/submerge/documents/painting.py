"""The documents about single images, and what other documents say of painting as well."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

__all__ = [
    "EmbeddingsDocument",
    "ImageDocument",
    "Memory",
    "ModelRow",
    "PaintedModel",
    "ReproducedImage",
    "ReproductionDocument",
    "Role",
]

Role = Literal["merge", "parent"]


class Memory(TypedDict):
    """Memory in bytes; null where the system does not tell.

    Attributes:
        rss: resident memory.
        anonymous: of it what the program allocated.
        file: of it pages of mapped files.
        vram: device memory in tensors.
        vram_reserved: device memory held.
    """

    rss: int | None
    anonymous: int | None
    file: int | None
    vram: int | None
    vram_reserved: int | None


class PaintedModel(TypedDict):
    """The model that painted an image.

    Attributes:
        name: what it is called.
        fingerprint: a digest of its names, shapes and recipe.
        recipe: of a merge, the digest of its recipe.
        dtype: what it computed in.
        quantization: how its layers were stored; null: as they are.
        adapters: what was added to its weights as they were read: `name`, `scale`, `compat`.
    """

    name: str
    fingerprint: str
    recipe: Any
    dtype: str
    quantization: NotRequired[str | None]
    adapters: NotRequired[list[dict[str, Any]]]


class ImageDocument(TypedDict):
    """What decides an image: the chunk `submerge` of its PNG.

    Attributes:
        version: of submerge.
        model: what painted it.
        prompt: its text.
        seed: of its start noise.
        options: what it was painted with, defaults filled in.
    """

    format: Literal["submerge-image/1"]
    version: str
    model: PaintedModel
    prompt: str
    seed: int
    options: dict[str, Any]


class EmbeddingsDocument(TypedDict):
    """What decides the embeddings of a prompt: the metadata `key` of a kept file.

    Attributes:
        encoders: a digest of encoders and tokenizers.
        dtype: what was computed in.
        device: the kind of device that encoded.
        torch, transformers: their versions.
        prompt: the text.
        tokens: how many tokens it was read as.
    """

    format: Literal["submerge-embeddings/1"]
    encoders: str
    dtype: str
    device: str
    torch: str | None
    transformers: str | None
    prompt: str
    tokens: int


class ModelRow(TypedDict):
    """A model that was evaluated: its name, path and role."""

    name: str
    path: str
    role: Role


class ReproducedImage(TypedDict):
    """How an image painted again differs.

    Attributes:
        path, model, prompt, seed: which image.
        pixels: how many there are.
        different: how many differ; null for another size.
        max, mean: the largest difference of a channel and the mean of all, of 255.
    """

    path: str
    model: str
    prompt: str
    seed: int
    pixels: int
    different: int | None
    max: int | None
    mean: float | None


# What a fact was, and what it is now; the second name is no name for a field of a class.
Change = TypedDict("Change", {"was": Any, "is": Any})


class ReproductionDocument(TypedDict):
    """What `submerge reproduce --json` prints.

    Attributes:
        identical: whether every pixel is as it was.
        images: one for each image painted again.
        changed: what is not as it was.
    """

    format: Literal["submerge-reproduction/1"]
    identical: bool
    images: list[ReproducedImage]
    changed: dict[str, Change]
