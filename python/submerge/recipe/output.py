"""What a recipe says of its output: names, files, and the format of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from submerge.blocks import Selector, select
from submerge.errors import RecipeError
from submerge.formats import ALIASES, FORMATS
from submerge.given import (
    SIZE,
    Faults,
    Filled,
    Record,
    choice,
    declare,
    keyed,
    mapping,
    shown,
    whole,
)
from submerge.values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.given import Definitions

__all__ = ["AdapterOutput", "Formats", "Output", "Rounding", "only", "plain_size"]

_FORMAT = choice(*FORMATS)
_SEED = whole(below=1 << 64)


def plain_size(size: int) -> int | str:
    """Return a size as text where that is exact: `10GB` for 10,000,000,000."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size % scale == 0:
            return f"{size // scale}{unit}"
    return size


def only(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a mapping with one field."""
    return {
        "type": "object",
        "properties": {name: schema},
        "required": [name],
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class Formats:
    """The number format of every tensor of the output: one, or several by selector.

    Attributes:
        default: the name of what no selector reaches.
        entries: selectors and names; the first that matches a unit decides.
    """

    default: str = "same"
    entries: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, raw: object, where: str) -> Formats:
        """Read a name, or a mapping of selectors to names."""
        if isinstance(raw, Formats):
            return raw
        if not isinstance(raw, Mapping):
            return cls(_named(raw, where))
        if not mapping(raw, where):
            raise RecipeError(f"{where}: expected at least one selector, got an empty mapping")
        faults = Faults()
        found: dict[str, str] = {}
        for key, name in raw.items():
            here = keyed(where, key)
            if key != "default":
                faults.read(Selector.parse, key, here)
            found[key] = faults.read(_named, name, here) or ""
        faults.refuse()
        default = found.pop("default", "same")
        return cls(default, tuple(found.items()))

    def plain(self) -> Any:
        """Return the name alone where there is one, else selectors in order, then the default."""
        return {**dict(self.entries), "default": self.default} if self.entries else self.default

    @property
    def names(self) -> tuple[str, ...]:
        """Every format named, each once; the default last."""
        return tuple(dict.fromkeys([*(name for _, name in self.entries), self.default]))

    def table(self, units: Sequence[str], where: str) -> dict[str, str]:
        """Return the format of the units that selectors reach.

        Raises:
            RecipeError: a selector that matches nothing.
        """
        found: dict[str, str] = {}
        for text, name in self.entries:
            for unit in select(Selector.parse(text, keyed(where, text)), units):
                found.setdefault(unit, name)
        return found

    @staticmethod
    def json_schema(definitions: Definitions) -> dict[str, Any]:
        """Return the JSON Schema of the forms `parse` accepts."""
        name = _FORMAT.schema(definitions)
        by_selector = {"type": "object", "additionalProperties": name, "minProperties": 1}
        return {"anyOf": [name, by_selector]}


def _named(raw: object, where: str) -> str:
    """Return a format by its name, or by another one of it."""
    known = ALIASES.get(raw.lower(), raw) if isinstance(raw, str) else raw
    return str(_FORMAT.read(known, where))


@dataclass(frozen=True, slots=True)
class Rounding:
    """How numbers become codes: the nearest, or at random by a seed (None: the nearest)."""

    seed: int | None = None

    @classmethod
    def parse(cls, raw: object, where: str) -> Rounding:
        """Read `nearest`, or `{stochastic: seed}`."""
        if isinstance(raw, Rounding):
            return raw
        match raw:
            case "nearest":
                return cls()
            case "stochastic":
                raise RecipeError(f"{where}: `stochastic` needs a seed", hint="`{stochastic: 0}`")
            case {"stochastic": seed, **rest} if not rest:
                return cls(_SEED.read(seed, f"{where}.stochastic"))
        raise RecipeError(f"{where}: expected `nearest` or {{stochastic: seed}}, got {shown(raw)}")

    def plain(self) -> Any:
        """Return the form `parse` reads."""
        return "nearest" if self.seed is None else {"stochastic": self.seed}

    @staticmethod
    def json_schema(definitions: Definitions) -> dict[str, Any]:
        """Return the JSON Schema of the forms `parse` accepts."""
        return {"anyOf": [{"enum": ["nearest"]}, only("stochastic", _SEED.schema(definitions))]}


@dataclass(frozen=True, kw_only=True)
class AdapterOutput(Record):
    """An adapter as the result: what the merge adds to one of its models."""

    onto: str = declare("A model's name: the one the adapter is to be added to.")
    rank: Value | None = declare(
        "The rank of each module, or the most an `energy` may take: a number, a list, {from, to}, "
        "or a mapping of selectors; 0 leaves units out.",
        None,
    )
    energy: Value | None = declare(
        "The share of its sum of squares that a module must hold, with the smallest rank that "
        "does: more than 0 and at most 1, or any form of a value.",
        None,
    )
    form: Literal["peft", "kohya", "comfy"] = declare(
        "Whose names its tensors have; `peft` is what diffusers and peft read.", "peft"
    )

    def check_together(self, where: str) -> None:
        """Refuse neither a rank nor an energy."""
        if self.rank is None and self.energy is None:
            raise RecipeError(
                f"{where}: expected `rank`, `energy` or both, got neither",
                hint="write `rank: 32`, or `energy: 0.95`",
            )


@dataclass(frozen=True, kw_only=True)
class Output(Record):
    """What is written, and how."""

    layout: Literal["same", "diffusers", "bfl", "comfy"] = declare(
        "Names and files of the tensors; `same` is the first model's layout.",
        "same",
    )
    dtype: Formats = declare(
        "The number format, or a mapping of selectors to number formats; `same` is the models' "
        "types, tensor by tensor, and the widest where they differ. What is not of every tensor is "
        "of the matrices of the blocks, and the rest is `same`.",
        Formats(),
    )
    for_: Literal["comfyui", "diffusers", "sdcpp", "gguf"] | None = declare(
        "The program that is to read it: chooses layout and dtype where they are left out.", None
    )
    rounding: Rounding = declare(
        "How numbers become codes of fp8 with scales or of int8: `nearest`, or {stochastic: seed}.",
        Rounding(),
    )
    overflow: Literal["saturate", "nan"] = declare(
        "What fp8 does with numbers too large for it.", "saturate"
    )
    shard_size: Annotated[int, SIZE] | None = declare(
        "Bytes per file at most, `10GB`; left out: 10 GB for diffusers, one file for other "
        "layouts.",
        None,
    )
    pipeline_from: Filled | None = declare(
        "A model's name or a folder: write a whole pipeline, with its other parts from there.",
        None,
    )
    scheduler_from: Filled | None = declare(
        "A model's name or a folder: take the pipeline's scheduler from there instead.",
        None,
    )
    link: Literal["auto", "link", "reflink", "copy"] = declare(
        "How the pipeline's other parts get there.",
        "auto",
    )
    adapter: AdapterOutput | None = declare(
        "Write what the merge adds to one of its models as an adapter, in place of a model.", None
    )
    card: bool = declare(
        "Write a model card with the parents and the licence that follows from them.", True
    )
    title: str | None = declare("Title in the card and the metadata.", None)
