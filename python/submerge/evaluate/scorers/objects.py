"""Are the right things there, as often, in the colour and the place the prompt asks for?

After GenEval (Ghosh et al. 2023): a detector finds objects, then counts, colours and positions are
checked. The detector is any detection model of transformers at a path, or a function. Unlike there,
a score is the share of the prompt's checks that pass, and a colour is read from pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from submerge.evaluate.scorers.base import need, rgb
from submerge.evaluate.scorers.pixels import named_colours
from submerge.inference.weights import unmap

if TYPE_CHECKING:
    from PIL.Image import Image

    from submerge.evaluate.prompts import Item, Prompt
    from submerge.evaluate.scorers.base import Better, Values

__all__ = ["Found", "ObjectChecks", "TransformersDetector", "place"]

_CONFIDENT = 0.3  # GenEval's threshold
_MARGIN = 0.1  # GenEval's: boxes must be apart by this share of their sizes
_COLOUR = 0.25  # share of an object's middle that must have its colour


class Found(NamedTuple):
    """One detected object; `box` is left, top, right, bottom in pixels."""

    name: str
    confidence: float
    box: tuple[float, float, float, float]


Detector = Callable[["Image", Sequence[str]], Sequence[Found]]


@dataclass(slots=True)
class TransformersDetector:
    """A detection model of transformers, zero-shot (OWL-ViT, OWLv2, Grounding DINO) or not (DETR).

    Attributes:
        path: a local folder, or a hub id.
    """

    path: str
    _loaded: Any = field(default=None, repr=False)

    def __call__(self, image: Image, names: Sequence[str]) -> list[Found]:
        """Return what is found in the image; a model that is not zero-shot ignores `names`."""
        if self._loaded is None:
            transformers = need("transformers", "submerge[evaluate]")
            config = transformers.AutoConfig.from_pretrained(self.path)
            listed = transformers.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING
            kind = "zero-shot-object-detection" if type(config) in listed else "object-detection"
            detect = transformers.pipeline(kind, model=self.path, device="cpu")
            unmap((*detect.model.parameters(), *detect.model.buffers()))
            self._loaded = kind, detect
        kind, detect = self._loaded
        more = {"candidate_labels": list(names)} if kind.startswith("zero") else {}
        return [
            Found(row["label"], float(row["score"]), tuple(row["box"].values()))
            for row in detect(image.convert("RGB"), threshold=_CONFIDENT, **more)
        ]


@dataclass(frozen=True, slots=True)
class ObjectChecks:
    """Share of a prompt's checks that pass: presence, count, colour, position."""

    detector: Detector
    name: str = "objects"
    unit: str = "share of checks"
    better: Better = "higher"

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return the share for each image whose prompt names objects, else NaN."""
        return np.array([self._one(*pair) for pair in zip(images, prompts, strict=True)])

    def _one(self, image: Image, prompt: Prompt) -> float:
        if not prompt.objects:
            return float("nan")
        found = self.detector(image, [item.name for item in prompt.objects])
        sure = sorted(
            (one for one in found if one.confidence >= _CONFIDENT), key=lambda one: -one.confidence
        )
        passed = [check for item in prompt.objects for check in _checks(item, image, sure)]
        if prompt.relation is not None:
            passed.append(_related(prompt.relation, sure))
        return float(np.mean(passed))


def place(first: Found, second: Found) -> set[str]:
    """Return where the first lies from the second: none, one or two of `RELATIONS`.

    GenEval's rule: the offset of the centres, less a tenth of both sizes, must point there.
    """
    (ax, ay, aw, ah), (bx, by, bw, bh) = (_centre(one.box) for one in (first, second))
    offset = np.array([ax - bx, ay - by])
    margin = _MARGIN * np.array([aw + bw, ah + bh])
    revised = np.sign(offset) * np.maximum(np.abs(offset) - margin, 0.0)
    if not revised.any():
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    where = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {word for word, there in where.items() if there}


def _centre(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _checks(item: Item, image: Image, found: Sequence[Found]) -> list[bool]:
    """Presence, or the exact count; and the colour of as many as are wanted."""
    mine = [one for one in found if one.name == item.name]
    passed = [len(mine) == item.count if item.count else bool(mine)]
    if item.colour is not None:
        wanted = mine[: item.count or 1]
        passed.append(bool(wanted) and all(_has_colour(image, one, item.colour) for one in wanted))
    return passed


def _has_colour(image: Image, one: Found, colour: str) -> bool:
    """Whether a quarter of the middle of the object's box has the colour."""
    x, y, width, height = _centre(one.box)
    left, top = max(0, int(x - width / 4)), max(0, int(y - height / 4))
    box = left, top, max(left + 1, int(x + width / 4)), max(top + 1, int(y + height / 4))
    middle = image.convert("RGB").crop(box).resize((16, 16), resample=4)
    return named_colours(rgb(middle))[colour] >= _COLOUR


def _related(relation: tuple[str, str, str], found: Sequence[Found]) -> bool:
    first, where, second = relation
    ones, others = ([one for one in found if one.name == name] for name in (first, second))
    return bool(ones and others) and where in place(ones[0], others[0])
