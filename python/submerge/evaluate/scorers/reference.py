"""Likeness to reference images given as ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from submerge.errors import RecipeError, quoted
from submerge.evaluate.scorers.base import luma, need, rgb
from submerge.evaluate.scorers.pixels import filtered, gaussian

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from submerge.evaluate.prompts import Prompt
    from submerge.evaluate.scorers.base import Better, Values

__all__ = ["BACKBONES", "Likeness", "Lpips", "ssim"]

BACKBONES = ("alex", "squeeze", "vgg")


def ssim(first: Values, second: Values) -> float:
    """Return the mean structural similarity of two luma images, -1 to 1 (Wang et al. 2004).

    Args:
        first: `[height, width]` from 0 to 1, at least 11 pixels each way.
        second: the same shape.

    Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, where the window fits.
    """
    weights = gaussian(11, 1.5)
    a, b = filtered(first, weights), filtered(second, weights)
    aa = filtered(first * first, weights) - a * a
    bb = filtered(second * second, weights) - b * b
    ab = filtered(first * second, weights) - a * b
    c1, c2 = 0.01**2, 0.03**2
    over = (2 * a * b + c1) * (2 * ab + c2)
    under = (a * a + b * b + c1) * (aa + bb + c2)
    return float((over / under).mean())


@dataclass(frozen=True, slots=True)
class Likeness:
    """Compares each image with the reference of its prompt, resized to the image.

    Attributes:
        references: reference images by prompt id; other prompts score NaN.
        of: compares an image with a reference of the same size.
    """

    name: str
    unit: str
    better: Better
    references: Mapping[str, Image]
    of: Callable[[Image, Image], float]

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return the likeness of each image that has a reference, else NaN."""
        return np.array(
            [
                self._one(image, self.references.get(prompt.id))
                for image, prompt in zip(images, prompts, strict=True)
            ]
        )

    def _one(self, image: Image, reference: Image | None) -> float:
        if reference is None:
            return float("nan")
        same = reference.convert("RGB")
        return self.of(image, same if same.size == image.size else same.resize(image.size))

    @classmethod
    def by_ssim(cls, references: Mapping[str, Image]) -> Likeness:
        """Return the scorer that needs no weights."""
        return cls(
            "ssim",
            "structural similarity",
            "higher",
            references,
            lambda image, reference: ssim(luma(image), luma(reference)),
        )


@dataclass(slots=True)
class Lpips:
    """LPIPS (Zhang et al. 2018): its heads come in the package, the backbone from a file.

    Attributes:
        backbone: one of `BACKBONES`.
        path: the state dict of torchvision's AlexNet, SqueezeNet 1.1 or VGG-16, as it ships it.
    """

    backbone: str
    path: str
    _loaded: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            known = ", ".join(quoted(name) for name in BACKBONES)
            raise RecipeError(f"lpips: expected one of {known}, got {quoted(self.backbone)}")

    def __call__(self, first: Image, second: Image) -> float:
        """Return the distance of two images of one size; 0 for equal ones."""
        torch = need("torch", "submerge[evaluate]")
        model = self._model(torch)
        pair = [torch.from_numpy(rgb(image) * 2.0 - 1.0).float() for image in (first, second)]
        with torch.inference_mode():
            return float(model(*(pixels.permute(2, 0, 1)[None] for pixels in pair)))

    def distances(self, images: Sequence[Image]) -> Values:
        """Return the distance of each pair, `[n, n]`."""
        matrix = np.zeros((len(images), len(images)))
        for i in range(len(images)):
            for j in range(i):
                matrix[i, j] = matrix[j, i] = self(images[i], images[j])
        return matrix

    def _model(self, torch: Any) -> Any:
        if self._loaded is None:
            lpips = need("lpips", "lpips")
            model = lpips.LPIPS(net=self.backbone, pnet_rand=True, verbose=False).eval()
            weights = torch.load(self.path, map_location="cpu", weights_only=True)
            features = {
                name.removeprefix("features."): tensor
                for name, tensor in weights.items()
                if name.startswith("features.")
            }
            # The backbone stands there in slices, whose layers keep torchvision's numbers.
            slices = {name: features[name.split(".", 1)[1]] for name in model.net.state_dict()}
            model.net.load_state_dict(slices)
            self._loaded = model
        return self._loaded
