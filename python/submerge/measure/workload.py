"""What a model is measured at: how many images, how large, in how many steps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, nearest, quoted
from submerge.inference import InferenceOptions
from submerge.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.documents.painting import WorkloadRow

__all__ = ["Workload"]

_SIZE = re.compile(r"([0-9]{1,6})(?:x([0-9]{1,6}))?")
_WHOLE = ("steps", "width", "height", "batch", "max_sequence_length", "images", "seed")
_DECIMAL = ("guidance", "true_cfg", "shift")
_PROMPT = "a lighthouse on a cliff at dusk, oil on canvas"


@dataclass(frozen=True, slots=True)
class Workload:
    """Images to paint and to time.

    Attributes:
        images: how many are timed; one batch before them is the warm-up.
        prompt: what they show. Each image gets numbers behind it, so that no text is remembered.
        options: further fields of `InferenceOptions`; what is left out is the model's own default.
    """

    images: int = 3
    prompt: str = _PROMPT
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.images) is not int or self.images < 1:
            raise RecipeError(
                f"workload.images: expected a whole number of at least 1, got {shown(self.images)}"
            )
        InferenceOptions.of(self.options)

    @classmethod
    def of(cls, given: Workload | Mapping[str, Any] | str) -> Workload:
        """Return a workload from a dict, or from a text such as `steps=4,size=512x512,images=5`.

        A dict takes `images`, `prompt`, `size` and every field of `InferenceOptions`.

        Raises:
            RecipeError: an unknown field or a value of the wrong kind, with its field.
        """
        if isinstance(given, Workload):
            return given
        fields = _parsed(given) if isinstance(given, str) else dict(given)
        if "size" in fields:
            width, height = _size(fields.pop("size"))
            fields |= {"width": width, "height": height}
        own = {name: fields.pop(name) for name in ("images", "prompt") if name in fields}
        return cls(**own, options=fields)

    @property
    def name(self) -> str:
        """What it is called in tables: `4 steps, 512x512`."""
        options = dict(self.options)
        words = []
        if (steps := options.pop("steps", None)) is not None:
            words.append(f"{steps} step" if steps == 1 else f"{steps} steps")
        width, height = options.pop("width", None), options.pop("height", None)
        if width is not None or height is not None:
            words.append(f"{width or 'default'}x{height or 'default'}")
        words += [f"{key} {value}" for key, value in options.items()]
        return ", ".join(words) or "the model's defaults"

    def to_dict(self) -> WorkloadRow:
        """Return the workload as plain data."""
        return {
            "name": self.name,
            "images": self.images,
            "prompt": self.prompt,
            "options": dict(self.options),
        }


def _parsed(given: str) -> dict[str, Any]:
    """Read `name=value,name=value`."""
    known = ("size", *_WHOLE, *_DECIMAL)
    fields: dict[str, Any] = {}
    for pair in given.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in known or not equals:
            close = nearest(name, known)
            raise RecipeError(
                f"workload: expected name=value with one of {', '.join(known)}, got {quoted(pair)}",
                hint=f"did you mean {quoted(close[0])}?" if close else None,
            )
        try:
            fields[name] = value if name == "size" else (float if name in _DECIMAL else int)(value)
        except ValueError:
            raise RecipeError(f"workload.{name}: expected a number, got {quoted(value)}") from None
    return fields


def _size(given: object) -> tuple[int, int]:
    match = _SIZE.fullmatch(str(given))
    if match is None:
        raise RecipeError(f"workload.size: expected `1024` or `1024x768`, got {quoted(str(given))}")
    return int(match[1]), int(match[2] or match[1])
