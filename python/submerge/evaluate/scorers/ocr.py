"""Is the text there? Reads images with rapidocr, whose PP-OCR weights come in its wheel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from submerge.evaluate.scorers.base import need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from submerge.evaluate.prompts import Prompt
    from submerge.evaluate.scorers.base import Better, Values

__all__ = ["TextAccuracy", "found_share"]


@dataclass(slots=True)
class TextAccuracy:
    """Share of the expected characters that can be read, in order and without others between."""

    name: str = "text accuracy"
    unit: str = "share of characters"
    better: Better = "higher"
    _engine: Any = field(default=None, repr=False)

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return the share for each image whose prompt expects text, else NaN."""
        return np.array(
            [
                float("nan") if prompt.writes is None else found_share(prompt.writes, read)
                for prompt, read in zip(prompts, self._readings(images, prompts), strict=True)
            ]
        )

    def _readings(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[str]:
        return [
            "" if prompt.writes is None else self.read(image)
            for image, prompt in zip(images, prompts, strict=True)
        ]

    def read(self, image: Image) -> str:
        """Return what is written in the image, lines from top to bottom joined by spaces."""
        if self._engine is None:
            need("onnxruntime", "submerge[evaluate]")
            rapidocr = need("rapidocr", "submerge[evaluate]")
            self._engine = rapidocr.RapidOCR(params={"Global.log_level": "error"})
        # It expects the order of OpenCV: blue, green, red.
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        return " ".join(self._engine(pixels).txts or ())


def found_share(expected: str, read: str) -> float:
    """Return 1 less the edits per expected character, at least 0.

    Edits are those that turn some stretch of `read` into `expected` (Sellers 1980), so that other
    text in the image costs nothing. Case and white space do not count.
    """
    wanted, seen = ("".join(text.split()).casefold() for text in (expected, read))
    row = [0] * (len(seen) + 1)  # a match may begin anywhere
    for i, letter in enumerate(wanted, start=1):
        above, row = row, [i]
        for j, other in enumerate(seen, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other)))
    return max(0.0, 1.0 - min(row) / len(wanted))
