"""What a scorer is, and what all of them need."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from submerge.errors import SubmergeError, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray
    from PIL.Image import Image

    from submerge.evaluate.prompts import Prompt

    Values = NDArray[np.float64]
    Better = Literal["higher", "lower", "none"]

__all__ = ["Scorer", "batches", "luma", "need", "rgb"]


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives an image a number.

    Attributes:
        name: names the score in tables and files.
        unit: what one of it is, such as `share` or `cosine x 100`.
        better: whether `higher` or `lower` is better, or `none`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - above
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def better(self) -> Better: ...  # noqa: D102

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return one number for each image, float64 `[n]`; NaN where the score does not apply.

        `prompts` holds the prompt of each image. Images of one prompt differ in their seeds; all
        images of one model come in one call.
        """
        ...


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        SubmergeError: the package is not installed; the hint says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise SubmergeError(
            f"evaluate: expected the package {quoted(missing)} to be installed, got none",
            hint=f"pip install '{extra}'",
        ) from error


def rgb(image: Image) -> Values:
    """Return the pixels, float64 `[height, width, 3]` from 0 to 1."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0


def luma(image: Image) -> Values:
    """Return BT.601 luma, float64 `[height, width]` from 0 to 1."""
    grey: Values = rgb(image) @ np.array([0.299, 0.587, 0.114])
    return grey


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the items in order, at most `size` at a time."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
