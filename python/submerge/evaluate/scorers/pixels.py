"""Scores that need no weights: what the pixels alone say.

None of them says an image is good. Together they find images that are broken, and changes a merge
made to contrast, sharpness and texture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from submerge.evaluate.prompts import COLOURS
from submerge.evaluate.scorers.base import luma, rgb
from submerge.evaluate.scorers.noise import is_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from submerge.evaluate.prompts import Prompt
    from submerge.evaluate.scorers.base import Better, Values

__all__ = [
    "PIXEL_SCORERS",
    "ColourPresence",
    "PixelScorer",
    "clipped",
    "contrast",
    "defect",
    "entropy",
    "filtered",
    "gaussian",
    "named_colours",
    "sharpness",
    "spectral_slope",
    "texture_shape",
]

_FLAT = 0.01  # standard deviation of luma, 0 to 1
_BLACK = 8.0 / 255.0
_COLOUR_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class PixelScorer:
    """A number computed from each image alone."""

    name: str
    unit: str
    better: Better
    of: Callable[[Image], float]

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:  # noqa: ARG002
        """Return the number of each image, float64 `[n]`."""
        return np.array([self.of(image) for image in images], dtype=np.float64)


def defect(image: Image) -> str | None:
    """Return what is wrong with the image: `black`, `flat`, `noise`, or None.

    Latents that are not finite decode to black pixels.
    """
    grey = luma(image)
    if float((grey < _BLACK).mean()) > 0.99:
        return "black"
    if float(grey.std()) < _FLAT:
        return "flat"
    return "noise" if is_noise(rgb(image), spectral_slope(image)) else None


def entropy(image: Image) -> float:
    """Return the entropy of the grey levels in bits, 0 (one level) to 8 (all 256 alike often)."""
    counts = np.bincount(np.rint(luma(image) * 255.0).astype(np.int64).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def contrast(image: Image) -> float:
    """Return the standard deviation of luma, 0 to 0.5."""
    return float(luma(image).std())


def clipped(image: Image) -> float:
    """Return the share of channel values at either end of their range: saturation shows here."""
    values = np.asarray(image.convert("RGB"))
    return float(((values == 0) | (values == 255)).mean())


def sharpness(image: Image) -> float:
    """Return the variance of the luma's Laplacian (Pech-Pacheco et al. 2000); noise counts too."""
    grey = luma(image)
    if min(grey.shape) < 3:
        return float("nan")
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4.0 * inner).var())


def spectral_slope(image: Image) -> float:
    """Return the slope of log power over log frequency, of luma averaged over directions.

    White noise has 0; photographs have about -2 (Field 1987). NaN for a flat image or one smaller
    than 8 pixels.
    """
    grey = luma(image)
    side = min(grey.shape)
    if side < 8 or float(grey.std()) < 1e-9:
        return float("nan")
    grey = grey[:side, :side] - grey[:side, :side].mean()
    # A window, because an image does not continue on its other side.
    window = np.hanning(side + 2)[1:-1]
    power = np.abs(np.fft.rfft2(grey * window[:, None] * window)) ** 2
    down, along = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    ring = np.rint(np.hypot(down, along) * side).astype(np.int64)
    inside = (ring >= 2) & (ring <= side // 2)
    sums = np.bincount(ring[inside], power[inside])
    counts = np.bincount(ring[inside])
    seen = (counts > 0) & (sums > 0)
    if seen.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(np.flatnonzero(seen)), np.log(sums[seen] / counts[seen]), 1)[0])


def texture_shape(image: Image) -> float:
    """Return the shape of the generalised Gaussian that fits the normalised local contrast.

    The first feature of BRISQUE (Mittal, Moorthy and Bovik 2012): pixels less their local mean,
    over their local deviation plus 1 (in 256 levels, Gaussian window of 7 pixels, sigma 7/6),
    fitted by matching moments (Sharifi and Leon-Garcia 1995). Gaussian noise has 2; blur and flat
    patches make it smaller. NaN for an image smaller than 7 pixels or without texture.
    """
    grey = luma(image) * 255.0
    if min(grey.shape) < 7:
        return float("nan")
    weights = gaussian(7, 7.0 / 6.0)
    mean = filtered(grey, weights)
    deviation = np.sqrt(np.maximum(filtered(grey * grey, weights) - mean * mean, 0.0))
    values = (grey[3:-3, 3:-3] - mean) / (deviation + 1.0)
    square = float((values * values).mean())
    if square < 1e-9:
        return float("nan")
    shapes, ratios = _moment_ratios()
    found = float(np.abs(values).mean()) ** 2 / square
    return float(shapes[np.abs(ratios - found).argmin()])


@cache
def _moment_ratios() -> tuple[Values, Values]:
    """Shapes, and E|x|^2 / E[x^2] of the generalised Gaussian of each."""
    shapes = np.arange(0.2, 10.0, 0.001)
    ratios = [
        math.exp(2 * math.lgamma(2 / a) - math.lgamma(1 / a) - math.lgamma(3 / a)) for a in shapes
    ]
    return shapes, np.array(ratios)


def gaussian(size: int, sigma: float) -> Values:
    """Return `size` weights of a Gaussian, summing to 1."""
    at = np.arange(size) - (size - 1) / 2.0
    weights = np.exp(-0.5 * (at / sigma) ** 2)
    normal: Values = weights / weights.sum()
    return normal


def filtered(values: Values, weights: Values) -> Values:
    """Return the separable filter of `[height, width]` where the window fits wholly."""
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, weights.size, axis)
        values = windows @ weights
    return values


def named_colours(pixels: Values) -> dict[str, float]:
    """Return the share of pixels nearest to each named colour; `pixels` is `[..., 3]`, 0 to 1.

    Nearest in CIELAB (D65), where distances are roughly those people see.
    """
    places = _lab(np.array(list(COLOURS.values()), dtype=np.float64) / 255.0)
    found = _lab(pixels.reshape(-1, 3))
    nearest = ((found[:, None] - places) ** 2).sum(axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(COLOURS)) / len(found)
    return dict(zip(COLOURS, shares.tolist(), strict=True))


def _lab(colours: Values) -> Values:
    """CIELAB of sRGB `[n, 3]` from 0 to 1 (IEC 61966-2-1, CIE 15)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ matrix.T / matrix.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (xyz * 24389 / 27 + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@dataclass(frozen=True, slots=True)
class ColourPresence:
    """Share of a prompt's expected colours that fill at least 2 % of the image.

    Weak on purpose: it knows colours, not objects. `objects` looks at the object's own pixels.
    """

    name: str = "colour presence"
    unit: str = "share"
    better: Better = "higher"

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return the share for each image whose prompt names colours, else NaN."""
        return np.array([self._one(*pair) for pair in zip(images, prompts, strict=True)])

    def _one(self, image: Image, prompt: Prompt) -> float:
        if not prompt.colours:
            return float("nan")
        small = image.convert("RGB").resize((64, 64), resample=4)  # 4: box, no new colours at edges
        shares = named_colours(rgb(small))
        return float(np.mean([shares[colour] >= _COLOUR_SHARE for colour in prompt.colours]))


def _broken(image: Image) -> float:
    return 0.0 if defect(image) is None else 1.0


PIXEL_SCORERS = (
    PixelScorer("broken", "share", "lower", _broken),
    PixelScorer("clipped", "share", "lower", clipped),
    PixelScorer("contrast", "deviation of luma", "none", contrast),
    PixelScorer("entropy", "bits", "none", entropy),
    PixelScorer("sharpness", "variance of the Laplacian", "none", sharpness),
    PixelScorer("spectral slope", "log power over log frequency", "none", spectral_slope),
    PixelScorer("texture shape", "shape of the fitted density", "none", texture_shape),
)
