"""Every exception submerge raises on purpose, and the words its messages are made of.

```
SubmergeError(Exception)
├── RecipeError(ValueError)   what the user asked for is malformed
├── LayoutError               a file is not a model or layout we know
├── CheckpointError           a file is damaged or not safetensors
├── PlanError                 plan and files do not fit together
├── AdapterError              a LoRA or another adapter cannot be applied
├── Cancelled                 the job was stopped; nothing was left behind
└── InternalError             a defect of submerge itself
```

Failures of the operating system (`FileNotFoundError`, a full disk, ...) pass through as `OSError`
with the path. A message reads `<where>: <what>, expected <x>, got <y>`; the hint says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = [
    "AdapterError",
    "Cancelled",
    "CheckpointError",
    "InternalError",
    "LayoutError",
    "PlanError",
    "RecipeError",
    "SubmergeError",
    "counted",
    "listing",
    "nearest",
    "printable",
    "quoted",
]

# A hostile header may hold names of megabytes; a message shows this many characters of each.
_NAME_LIMIT = 120
_SHOWN_FAULTS = 10


class SubmergeError(Exception):
    """What all of submerge's own exceptions derive from.

    Attributes:
        message: the located message, without the hint.
        hint: what the user can do about it, or None.
    """

    message: str
    hint: str | None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = None if hint is None else printable(hint)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class RecipeError(SubmergeError, ValueError):
    """What the user asked for is malformed: a field, a selector, a value.

    Attributes:
        faults: each thing that is wrong, where it is more than one; else empty.
    """

    faults: tuple[RecipeError, ...]

    def __init__(
        self, message: str, *, hint: str | None = None, faults: Sequence[RecipeError] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.faults = tuple(faults)

    @classmethod
    def of(cls, faults: Sequence[RecipeError]) -> RecipeError:
        """Return one error for all faults: a line each, and the first hint."""
        if len(faults) == 1:
            return faults[0]
        lines = [fault.message for fault in faults[:_SHOWN_FAULTS]]
        if len(faults) > _SHOWN_FAULTS:
            lines.append(f"and {len(faults) - _SHOWN_FAULTS} more")
        hint = next((fault.hint for fault in faults if fault.hint), None)
        return cls("\n".join(lines), hint=hint, faults=faults)


class LayoutError(SubmergeError):
    """A file is not a model, or not in a layout, that submerge can merge."""


class CheckpointError(SubmergeError):
    """A file is damaged, incomplete, or not a safetensors checkpoint."""


class PlanError(SubmergeError):
    """The plan and the files do not fit together, or a file changed meanwhile."""


class AdapterError(SubmergeError):
    """A LoRA or another adapter cannot be applied to the model it was named for."""


class Cancelled(SubmergeError):  # noqa: N818 - a request fulfilled, not a failure
    """The job was stopped by the user; nothing was left behind."""


class InternalError(SubmergeError):
    """A defect of submerge itself; please report it."""


def printable(text: str) -> str:
    """Return a text that only shows: line breaks stay, everything else unprintable is escaped.

    Text of files may hold sequences that move a terminal's cursor or retype its input, marks that
    reorder what stands around them, and halves of surrogate pairs, which no output can encode.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    # Spaces of other scripts are not "printable" to Python; those that end lines are no spaces.
    wide = character.isspace() and character > "\x9f" and character not in "\u2028\u2029"
    visible = character.isprintable() or wide or character == "\n"
    return character if visible else f"\\u{{{ord(character):x}}}"


def quoted(name: str) -> str:
    """Return a name from a file in backticks, safe to print: escaped, and cut at 120 characters.

    Everything unprintable is escaped, which includes the marks that reorder the text around them.
    """
    shown = printable(name[:_NAME_LIMIT]).replace("`", "\\u{60}").replace("\n", "\\u{a}")
    return f"`{shown}…`" if len(name) > _NAME_LIMIT else f"`{shown}`"


def counted(number: int, noun: str) -> str:
    """Return `1 tensor`, `12 tensors`: the number and its noun, with thousands separated."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listing(names: Collection[str], limit: int = 10, noun: str = "tensor") -> str:
    """Return the count and then the first names: "12 tensors: `a`, `b`, ... and 2 more"."""
    shown = ", ".join(quoted(name) for name, _ in zip(names, range(limit), strict=False))
    rest = len(names) - limit
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"{counted(len(names), noun)}: {shown}{more}" if names else f"no {noun}s"


def nearest(name: str, choices: Iterable[str]) -> list[str]:
    """Return up to three of the choices that look most like `name`, best first."""
    import difflib  # only errors need it

    return difflib.get_close_matches(name, list(choices), n=3, cutoff=0.6)
