"""Whether a picture is noise: nothing in it is larger than its grain, and the grain is Gaussian.

Pictures of things look alike at every scale: shrunk to 8 or 16 squares across, neighbours still
have much in common. Noise has a longest distance over which pixels know of each other (one pixel
for white noise, that of a latent for what an untrained model decodes), and shrunk beyond it,
neighbours have nothing in common. So have photographs of sand or grass; but their edges are
sharper than those of any sum of many small things, whose differences follow a normal distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from submerge.evaluate.scorers.base import Values

__all__ = ["edge_kurtosis", "is_noise", "neighbour_correlation"]

# Noise of several kinds has at most this at 8 or at 16 squares across; of 30 photographs, drawings
# and pages of scikit-image only brick, stars and chequers have so little.
_STRANGERS = (0.23, 0.08)
# Squares that are each other's opposites, as on a chessboard, are no strangers.
_RELATED = 0.5
# 3 is a normal distribution; noise that was interpolated has up to 4.2, photographs of gravel and
# grass have 6, of things 7 and more.
_GAUSSIAN = 5.0
_COARSE, _FINE = 8, 16
_FLAT_SPECTRUM = -0.5  # white noise has 0, photographs about -2


def is_noise(pixels: Values, slope: float) -> bool:
    """Tell whether a picture is noise.

    Args:
        pixels: `[height, width, channels]`, from 0 to 1, at least 16 each way; smaller ones say
            too little and are none.
        slope: of the spectrum, see `spectral_slope`: flat spectra are noise whatever the grain, a
            sprinkling of salt and pepper for example.
    """
    if min(pixels.shape[:2]) < _FINE:
        return False
    coarse, fine = (abs(neighbour_correlation(_shrunk(pixels, n))) for n in (_COARSE, _FINE))
    if coarse > _RELATED or (coarse > _STRANGERS[0] and fine > _STRANGERS[1]):
        return False
    return slope > _FLAT_SPECTRUM or edge_kurtosis(pixels) < _GAUSSIAN


def neighbour_correlation(pixels: Values) -> float:
    """Return the correlation of pixels with those beside and below them; NaN for a flat picture."""
    centred = pixels - pixels.mean(axis=(0, 1))
    power = float((centred * centred).mean())
    if power <= 1e-12:
        return float("nan")
    beside = float((centred[:, 1:] * centred[:, :-1]).mean())
    below = float((centred[1:] * centred[:-1]).mean())
    return (beside + below) / (2.0 * power)


def edge_kurtosis(pixels: Values) -> float:
    """Return the kurtosis of differences between neighbours, 3 for noise; of those that differ."""
    found = []
    for axis in (0, 1):
        steps = np.diff(pixels, axis=axis).ravel()
        steps = steps[steps != 0.0]
        square = float((steps**2).mean()) if steps.size else 0.0
        found.append(float((steps**4).mean()) / square**2 if square > 0.0 else float("inf"))
    return float(np.mean(found))


def _shrunk(pixels: Values, grid: int) -> Values:
    """Return means over squares, `grid` of them along the shorter side."""
    side = min(pixels.shape[:2]) // grid
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    cut = pixels[: rows * side, : columns * side]
    means: Values = cut.reshape(rows, side, columns, side, -1).mean(axis=(1, 3))
    return means
