"""What a model is measured at: how many images, how large, in how many steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from submerge.errors import RecipeError, quoted
from submerge.given import Count, Options, Record, shown
from submerge.inference.options import InferenceOptions, InferenceOptionsDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.documents.measurement import WorkloadRow

__all__ = ["Workload", "WorkloadDict", "room"]

_SIZE = re.compile(r"([0-9]{1,6})(?:x([0-9]{1,6}))?")
_PROMPT = "a lighthouse on a cliff at dusk, oil on canvas"


class WorkloadDict(InferenceOptionsDict, total=False):
    """A workload as a dict: its own fields beside those of the painting."""

    images: int
    prompt: str
    size: str | int


@dataclass(frozen=True, kw_only=True)
class Workload(Options):
    """Images to paint and to time.

    Attributes:
        images: how many are timed; one batch before them is the warm-up.
        prompt: what they show. Each image gets numbers behind it, so that no text is remembered.
        options: further fields of `InferenceOptions`; what is left out is the model's own default.
    """

    where: ClassVar[str] = "workload"
    passes_on: ClassVar[tuple[str, type[Record]] | None] = ("options", InferenceOptions)

    images: Count = 3
    prompt: str = _PROMPT
    options: Mapping[str, Any] = field(default_factory=dict)

    def check_together(self, where: str) -> None:
        """Refuse options of the painting that are wrong."""
        InferenceOptions.parse(self.options, where)

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | str | None) -> Self:
        """Return a workload from a dict, or from a text such as `steps=4,size=512x512,images=5`.

        A dict takes `images`, `prompt`, `size` and every field of `InferenceOptions`.

        Raises:
            RecipeError: everything unknown and wrong, with the field.
        """
        if isinstance(given, str):
            given = _pairs(given)
        if isinstance(given, Mapping) and "size" in given:
            width, height = _sides(given["size"])
            rest = {name: value for name, value in given.items() if name != "size"}
            given = {**rest, "width": width, "height": height}
        return super().of(given)

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


def room(workloads: Sequence[Workload]) -> dict[str, int]:
    """Return the largest sizes of the workloads, for the plan of the memory to hold."""
    names = {
        "width": "width",
        "height": "height",
        "batch": "batch",
        "max_sequence_length": "tokens",
    }
    found = {
        keyword: [w.options[name] for w in workloads if w.options.get(name) is not None]
        for name, keyword in names.items()
    }
    return {keyword: max(values) for keyword, values in found.items() if values}


def _pairs(text: str) -> dict[str, Any]:
    """Read `name=value,name=value`, each value as a number where it is one."""
    found: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or name in found:
            raise RecipeError(
                f"workload: expected name=value with each name once, got {quoted(pair)}",
                hint="for example `steps=4,size=512x512,images=5`",
            )
        found[name] = value if name in ("size", "prompt") else _number(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _sides(given: object) -> tuple[int, int]:
    match = _SIZE.fullmatch(str(given))
    if match is None:
        raise RecipeError(f"workload.size: expected `1024` or `1024x768`, got {shown(given)}")
    return int(match[1]), int(match[2] or match[1])
