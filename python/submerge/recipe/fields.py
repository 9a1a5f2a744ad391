"""The parts of a recipe: what may be written, and what it means left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from submerge.blocks import Selector
from submerge.errors import RecipeError, quoted
from submerge.methods import Linear, Method, Take, method_schema, parse_method
from submerge.recipe.kinds import FILLED, FLAG, TEXT, Kind, Part, choice, given
from submerge.values import PerModel, Value, number, shown, size

__all__ = [
    "GUIDANCE",
    "MODEL",
    "OUTPUT",
    "RULE",
    "Action",
    "Guidance",
    "ModelSource",
    "Output",
    "Rule",
]

_EXAMPLES = "expected `keep`, `scale`, `drop`, {scale: share} or {bake: guidance value}"


@dataclass(frozen=True, kw_only=True)
class ModelSource(Part):
    """Where a model lies: a `.safetensors` file, a folder of shards, a diffusers pipeline."""

    path: str = given(FILLED, "The file or folder.")
    layout: Literal["auto", "diffusers", "bfl", "generic"] = given(
        choice("auto", "diffusers", "bfl", "generic"),
        "How its tensors are named; `generic` merges any two checkpoints with equal names.",
        "auto",
    )
    license: str | None = given(
        TEXT,
        "The licence, where the checkpoint does not say; the result's licence follows from it.",
        None,
    )


def _source(raw: object, where: str) -> ModelSource:
    if isinstance(raw, str):
        return ModelSource.read({"path": raw}, where)
    if not isinstance(raw, Mapping | ModelSource):
        raise RecipeError(
            f"{where}: expected a path or {{path, layout, license}}, got {shown(raw)}"
        )
    return ModelSource.read(raw, where)


MODEL = Kind(_source, lambda: {"anyOf": [FILLED.schema(), {"$ref": "#/$defs/ModelSource"}]})


@dataclass(frozen=True, kw_only=True)
class Action(Part):
    """What happens to the selected units: one of `alpha`, `weight`, `method`, `take`."""

    ONE: ClassVar[list[Any]] = [
        {"required": [name]} for name in ("alpha", "weight", "method", "take")
    ]

    alpha: Value | None = given(
        Kind(Value.parse, Value.schema),
        "The second model's share: a number, a list, {from, to}, or a mapping of selectors.",
        None,
    )
    weight: PerModel | None = given(
        Kind(PerModel.parse, PerModel.schema),
        "A weight for each model by name, divided by their sum.",
        None,
    )
    method: Method | None = given(
        Kind(parse_method, method_schema), "A merge method with its parameters.", None
    )
    take: str | None = given(TEXT, "A model's name: its tensors, byte for byte.", None)

    def given(self) -> list[str]:
        """Return which of the four fields are given."""
        return [
            name
            for name in ("alpha", "weight", "method", "take")
            if getattr(self, name) is not None
        ]

    def resolve(self, base: Linear) -> Method:
        """Return the method meant; `alpha` and `weight` alone replace those of `base`."""
        if self.take is not None:
            return Take(self.take)
        if self.method is not None:
            return self.method
        if self.alpha is not None:
            return Linear(alpha=self.alpha, normalize=base.normalize)
        return (
            Linear(weight=self.weight, normalize=base.normalize)
            if self.weight is not None
            else base
        )


@dataclass(frozen=True, kw_only=True)
class Rule(Action):
    """An action for the units a selector reaches; the first rule that matches decides."""

    schema_also: ClassVar[dict[str, Any]] = {"oneOf": Action.ONE}

    where: str = given(TEXT, "A selector: `double[0:8].img.attn`, `single[*].mlp`, `guidance`.")

    def check(self, where: str) -> None:
        """Refuse no action, several, and a malformed selector."""
        given = self.given()
        if len(given) != 1:
            got = ", ".join(map(quoted, given)) or "none"
            raise RecipeError(
                f"{where}: expected exactly one of `alpha`, `weight`, `method`, `take`, got {got}"
            )
        Selector.parse(self.where, f"{where}.where")


RULE = Kind(Rule.read, lambda: {"$ref": "#/$defs/Rule"})


@dataclass(frozen=True, slots=True)
class Guidance:
    """What becomes of the guidance embedder when a parent has none (FLUX.1-schnell).

    Attributes:
        policy: `keep` the guided parents' embedder (merged among them); `scale` its output layer by
            their share; `bake` it into a bias for one guidance value; `drop` it.
        value: for `scale` a share to use instead of the method's, for `bake` the guidance value.
    """

    policy: Literal["keep", "scale", "bake", "drop"] = "keep"
    value: float | None = None

    @classmethod
    def parse(cls, raw: object, where: str) -> Guidance:
        """Read a policy's name, `{scale: share}` or `{bake: value}`."""
        if isinstance(raw, Guidance):
            return raw
        match raw:
            case "keep" | "scale" | "drop":
                return cls(raw)
            case "bake":
                raise RecipeError(
                    f"{where}: `bake` needs a guidance value", hint="for example `{bake: 3.5}`"
                )
            case {"scale": share, **rest} if not rest:
                return cls("scale", number(share, f"{where}.scale"))
            case {"bake": value, **rest} if not rest:
                guidance = number(value, f"{where}.bake")
                if guidance < 0:
                    raise RecipeError(
                        f"{where}.bake: expected a guidance value of at least 0, got {guidance:g}"
                    )
                return cls("bake", guidance)
        raise RecipeError(f"{where}: {_EXAMPLES}, got {shown(raw)}")

    def plain(self) -> Any:
        """Return the policy in the form `parse` reads."""
        return self.policy if self.value is None else {self.policy: self.value}


_GUIDANCE_SCHEMA = {
    "anyOf": [
        {"enum": ["keep", "scale", "drop"]},
        {
            "type": "object",
            "properties": {"scale": {"type": "number"}},
            "required": ["scale"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"bake": {"type": "number", "minimum": 0}},
            "required": ["bake"],
            "additionalProperties": False,
        },
    ]
}

GUIDANCE = Kind(Guidance.parse, lambda: _GUIDANCE_SCHEMA)


def plain_size(size: int) -> int | str:
    """Return a size as text where that is exact: `10GB` for 10,000,000,000."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size % scale == 0:
            return f"{size // scale}{unit}"
    return size


_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {
            "type": "string",
            "pattern": r"^\s*[0-9]{1,18}(\.[0-9]{1,9})? ?([KMGTkmgt][iI]?)?[Bb]\s*$",
        },
    ]
}


@dataclass(frozen=True, kw_only=True)
class Output(Part):
    """What is written, and how."""

    layout: Literal["same", "diffusers", "bfl", "comfy"] = given(
        choice("same", "diffusers", "bfl", "comfy"),
        "Names and files of the tensors; `same` is the first model's layout.",
        "same",
    )
    dtype: Literal["same", "f32", "f16", "bf16", "fp8", "f8_e4m3", "f8_e5m2"] = given(
        choice("same", "f32", "f16", "bf16", "fp8", "f8_e4m3", "f8_e5m2"),
        "Type of every float tensor; `same` is the first model's, tensor by tensor; `fp8` is "
        "`f8_e4m3` for the matrices of the blocks and `same` for the rest.",
        "same",
    )
    overflow: Literal["saturate", "nan"] = given(
        choice("saturate", "nan"), "What fp8 does with numbers too large for it.", "saturate"
    )
    shard_size: int | None = given(
        Kind(size, lambda: _SIZE_SCHEMA),
        "Bytes per file at most, `10GB`; left out: 10 GB for diffusers, one file for other "
        "layouts.",
        None,
    )
    pipeline_from: str | None = given(
        FILLED,
        "A model's name or a folder: write a whole pipeline, with its other parts from there.",
        None,
    )
    scheduler_from: str | None = given(
        FILLED,
        "A model's name or a folder: take the pipeline's scheduler from there instead.",
        None,
    )
    link: Literal["auto", "link", "reflink", "copy"] = given(
        choice("auto", "link", "reflink", "copy"),
        "How the pipeline's other parts get there.",
        "auto",
    )
    card: bool = given(
        FLAG, "Write a model card with the parents and the licence that follows from them.", True
    )
    title: str | None = given(TEXT, "Title in the card and the metadata.", None)


OUTPUT = Kind(Output.read, lambda: {"$ref": "#/$defs/Output"})
