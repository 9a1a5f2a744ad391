"""Pictures whose truth is known."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["SIZE", "flat", "noise", "scene", "written"]

SIZE = 128


def noise(seed: int = 0, size: int = SIZE) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(values)


def flat(colour: tuple[int, int, int] = (90, 90, 90)) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), colour)


def scene() -> Image.Image:
    """A picture with the spectrum of photographs: power falls with the square of the frequency."""
    random = np.random.default_rng(3)
    across = np.fft.fftfreq(SIZE)
    away = np.hypot(across[:, None], across)
    away[0, 0] = 1.0
    waves = np.fft.fft2(random.standard_normal((SIZE, SIZE))) / away
    grey = np.real(np.fft.ifft2(waves))
    grey = (grey - grey.min()) / np.ptp(grey)
    return Image.fromarray(np.uint8(grey * 255)).convert("RGB")


def written(text: str) -> Image.Image:
    image = Image.new("RGB", (512, 192), "white")
    ImageDraw.Draw(image).text((30, 60), text, fill="black", font=ImageFont.load_default(48))
    return image
