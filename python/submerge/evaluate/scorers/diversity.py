"""Diversity: how far the images of one prompt lie apart, seed from seed.

Every scorer here gives an image its mean distance to the images of the same prompt, or gives all
images of a prompt their common Vendi score; NaN where a prompt has one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from submerge.evaluate.scorers.base import batches, need, rgb
from submerge.inference.weights import unmap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from submerge.evaluate.prompts import Prompt
    from submerge.evaluate.scorers.base import Better, Values

    Matrix = Callable[[Sequence[Image]], Values]

__all__ = [
    "Features",
    "SeedDistance",
    "SeedVendi",
    "feature_scorers",
    "pixel_distances",
    "pixel_scorers",
    "vendi_score",
]

_SIDE = 32
_BANDWIDTH = 0.1  # of the pixel kernel: RMS distance of two images that count as half alike


def vendi_score(kernel: Values) -> float:
    """Return the effective number of distinct items, 1 to n (Friedman and Dieng 2023).

    Args:
        kernel: similarities, `[n, n]`, symmetric and positive semi-definite with 1 on the diagonal.

    exp of the entropy of the eigenvalues of `kernel / n`.
    """
    values = np.linalg.eigvalsh(np.asarray(kernel, dtype=np.float64) / len(kernel))
    shares = values[values > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def pixel_distances(images: Sequence[Image]) -> Values:
    """Return the RMS difference of each pair of images at 32 x 32 pixels, `[n, n]` from 0 to 1."""
    small = [rgb(image.convert("RGB").resize((_SIDE, _SIDE), resample=4)) for image in images]
    flat = np.stack(small).reshape(len(images), -1)
    return np.stack([np.sqrt(((flat - row) ** 2).mean(axis=1)) for row in flat])


def _pixel_kernel(images: Sequence[Image]) -> Values:
    """A Gaussian kernel on pixels, positive definite, which needs no weights."""
    kernel: Values = np.exp(-0.5 * (pixel_distances(images) / _BANDWIDTH) ** 2)
    return kernel


@dataclass(frozen=True, slots=True)
class SeedDistance:
    """Mean distance of an image to the other images of its prompt."""

    name: str
    unit: str
    distances: Matrix
    better: Better = "higher"

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return the mean distance for each image, NaN for one without siblings."""
        values = np.full(len(images), np.nan)
        for places in _by_prompt(prompts):
            matrix = self.distances([images[i] for i in places])
            values[places] = matrix.sum(axis=1) / (len(places) - 1)
        return values


@dataclass(frozen=True, slots=True)
class SeedVendi:
    """Effective number of distinct images among those of one prompt."""

    name: str
    kernel: Matrix
    unit: str = "distinct images"
    better: Better = "higher"

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return each image's prompt's Vendi score, NaN for an image without siblings."""
        values = np.full(len(images), np.nan)
        for places in _by_prompt(prompts):
            values[places] = vendi_score(self.kernel([images[i] for i in places]))
        return values


def _by_prompt(prompts: Sequence[Prompt]) -> list[list[int]]:
    places: dict[str, list[int]] = {}
    for at, prompt in enumerate(prompts):
        places.setdefault(prompt.id, []).append(at)
    return [found for found in places.values() if len(found) > 1]


def pixel_scorers() -> tuple[SeedDistance, SeedVendi]:
    """Return the diversity scorers that need no weights."""
    return (
        SeedDistance("pixel diversity", "RMS at 32 x 32", pixel_distances),
        SeedVendi("pixel vendi", _pixel_kernel),
    )


@dataclass(slots=True)
class Features:
    """Unit vectors of images from any vision model of transformers (DINO, DINOv2, ViT, CLIP).

    Attributes:
        path: a local folder, or a hub id.
    """

    path: str
    _loaded: Any = field(default=None, repr=False)

    def __call__(self, images: Sequence[Image]) -> Values:
        """Return float64 `[n, width]` of length 1: the pooled output, else the first token's."""
        torch = need("torch", "submerge[evaluate]")
        if self._loaded is None:
            transformers = need("transformers", "submerge[evaluate]")
            model = transformers.AutoModel.from_pretrained(self.path).eval()
            unmap((*model.parameters(), *model.buffers()))
            processor = transformers.AutoImageProcessor.from_pretrained(self.path)
            self._loaded = getattr(model, "vision_model", model), processor
        model, processor = self._loaded
        rows = []
        with torch.inference_mode():
            for some in batches([image.convert("RGB") for image in images], 8):
                found = model(**processor(images=list(some), return_tensors="pt"))
                pooled = getattr(found, "pooler_output", None)
                rows.append((found.last_hidden_state[:, 0] if pooled is None else pooled).double())
        vectors = torch.cat(rows)
        unit: Values = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
        return unit

    def similarities(self, images: Sequence[Image]) -> Values:
        """Return the cosine of each pair, `[n, n]`."""
        vectors = self(images)
        return vectors @ vectors.T

    def distances(self, images: Sequence[Image]) -> Values:
        """Return 1 less the cosine of each pair, exactly 0 on the diagonal."""
        matrix = 1.0 - self.similarities(images)
        np.fill_diagonal(matrix, 0.0)
        return matrix


def feature_scorers(path: str) -> tuple[SeedDistance, SeedVendi]:
    """Return the diversity scorers on features of the model at `path`."""
    features = Features(path)
    return (
        SeedDistance("feature diversity", "1 - cosine", features.distances),
        SeedVendi("feature vendi", features.similarities),
    )
