"""What is taken for noise: several kinds of it, and nothing that has a shape."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from submerge.evaluate.scorers.noise import edge_kurtosis, neighbour_correlation
from submerge.evaluate.scorers.pixels import defect


def picture(pixels: np.ndarray) -> Image.Image:
    values = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))


def white(side: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 0.2, (side, side, channels))


def salt_and_pepper(side: int) -> np.ndarray:
    drawn = np.random.default_rng(0).random((side, side, 1))
    return np.where(drawn < 0.05, 0.0, np.where(drawn > 0.95, 1.0, 0.5))


def decoded(side: int, factor: int, how: Image.Resampling) -> np.ndarray:
    """Noise of latents as an untrained decoder gives it: a latent is many pixels wide."""
    small = picture(white(side // factor))
    return np.asarray(small.resize((side, side), how)) / 255


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("side", [64, 128, 512])
def test_white_noise_is_noise(side: int, seed: int) -> None:
    assert defect(picture(white(side, 3, seed))) == "noise"
    assert defect(picture(white(side, 1, seed))) == "noise"


@pytest.mark.parametrize("side", [64, 256, 512])
def test_uniform_and_sprinkled_noise_are_noise(side: int) -> None:
    assert defect(picture(np.random.default_rng(1).random((side, side, 3)))) == "noise"
    assert defect(picture(salt_and_pepper(side))) == "noise"


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize(
    "how", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]
)
def test_the_noise_of_latents_is_noise(factor: int, how: Image.Resampling) -> None:
    assert defect(picture(decoded(512, factor, how))) == "noise"


def test_noise_of_any_shape_of_picture_is_noise() -> None:
    assert defect(picture(white(512)[:160])) == "noise"
    assert defect(picture(white(512)[:, :200])) == "noise"


def test_shapes_are_no_noise() -> None:
    ramp = np.linspace(0, 1, 256)[:, None, None] * np.ones((1, 256, 1))
    chequers = (np.indices((256, 256)).sum(axis=0) // 32 % 2)[..., None].astype(float)
    page = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(page).text((20, 20), "a page of words\n" * 12, fill="black")
    disc = Image.new("RGB", (256, 256), "navy")
    ImageDraw.Draw(disc).ellipse((60, 60, 200, 200), fill="orange")
    for sound in (picture(ramp), picture(chequers), page, disc):
        assert defect(sound) is None


def test_grain_on_a_picture_is_no_noise_until_it_is_all_there_is() -> None:
    disc = Image.new("RGB", (256, 256), "navy")
    ImageDraw.Draw(disc).ellipse((60, 60, 200, 200), fill="orange")
    shape, grain = np.asarray(disc) / 255, white(256) - 0.5
    assert defect(picture(shape + 0.5 * grain)) is None
    assert defect(picture(0.002 * shape + 0.45 + grain)) == "noise"


def test_the_measures_are_those_of_the_textbook() -> None:
    assert neighbour_correlation(white(256)) == pytest.approx(0.0, abs=0.02)
    means = white(257)
    blurred = (means[1:, 1:] + means[:-1, 1:] + means[1:, :-1] + means[:-1, :-1]) / 4
    assert neighbour_correlation(blurred) == pytest.approx(0.5, abs=0.02)
    assert edge_kurtosis(white(256)) == pytest.approx(3.0, abs=0.1)
    uniform = np.random.default_rng(0).random((256, 256, 1))
    # The difference of two uniform numbers is triangular: its kurtosis is 2.4.
    assert edge_kurtosis(uniform) == pytest.approx(2.4, abs=0.05)
