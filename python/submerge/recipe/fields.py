"""The parts of a recipe, as pydantic models: what may be written, and what it means left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from submerge.blocks import Selector
from submerge.errors import RecipeError, quoted
from submerge.methods import Linear, Method, Take, method_schema, parse_method
from submerge.values import PerModel, Value, number, shown, size

__all__ = [
    "Action",
    "Guidance",
    "GuidanceField",
    "ModelField",
    "ModelSource",
    "Output",
    "Rule",
    "Strict",
]

_EXAMPLES = "expected `keep`, `scale`, `drop`, {scale: share} or {bake: guidance value}"


class Strict(BaseModel):
    """Nothing unknown, nothing converted, nothing changed afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        arbitrary_types_allowed=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_empty_fields(cls, raw: object) -> object:
        # `alpha:` with nothing after it is a slip; read as "not given" it would mean the default.
        empty = (
            [key for key, value in raw.items() if value is None] if isinstance(raw, Mapping) else []
        )
        if empty:
            raise RecipeError(
                f".{empty[0]}: is empty, expected a value", hint=f"leave `{empty[0]}` out"
            )
        return raw


def _source(raw: object) -> object:
    if isinstance(raw, str):
        return {"path": raw}
    if not isinstance(raw, Mapping | ModelSource):
        raise RecipeError(f": expected a path or {{path, layout, license}}, got {shown(raw)}")
    return raw


class ModelSource(Strict):
    """Where a model lies: a `.safetensors` file, a folder of shards, a diffusers pipeline."""

    path: str = Field(min_length=1, description="The file or folder.")
    layout: Literal["auto", "diffusers", "bfl", "generic"] = Field(
        default="auto",
        description="How its tensors are named; `generic` merges any two checkpoints with equal "
        "names.",
    )
    license: str | None = Field(
        default=None,
        description="The licence, where the checkpoint does not say; the result's licence follows "
        "from it.",
    )


ModelField = Annotated[
    ModelSource,
    BeforeValidator(
        _source, json_schema_input_type=Annotated[str, Field(min_length=1)] | ModelSource
    ),
]


def _value(raw: object) -> Value:
    return Value.parse(raw, "")


def _per_model(raw: object) -> PerModel:
    return PerModel.parse(raw, "")


def _method(raw: object) -> Method:
    return parse_method(raw, "")


class Action(Strict):
    """What happens to the selected units: one of `alpha`, `weight`, `method`, `take`."""

    alpha: Annotated[Value, PlainValidator(_value), WithJsonSchema(Value.schema())] | None = Field(
        default=None,
        description="The second model's share: a number, a list, {from, to}, or a mapping of "
        "selectors.",
    )
    weight: (
        Annotated[PerModel, PlainValidator(_per_model), WithJsonSchema(PerModel.schema())] | None
    ) = Field(default=None, description="A weight for each model by name, divided by their sum.")
    method: Annotated[Method, PlainValidator(_method), WithJsonSchema(method_schema())] | None = (
        Field(default=None, description="A merge method with its parameters.")
    )
    take: str | None = Field(
        default=None, description="A model's name: its tensors, byte for byte."
    )

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


class Rule(Action):
    """An action for the units a selector reaches; the first rule that matches decides."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [name]} for name in ("alpha", "weight", "method", "take")],
        }
    )

    where: str = Field(
        description="A selector: `double[0:8].img.attn`, `single[*].mlp`, `guidance`."
    )

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        given = self.given()
        if len(given) != 1:
            got = ", ".join(map(quoted, given)) or "none"
            raise RecipeError(
                f": expected exactly one of `alpha`, `weight`, `method`, `take`, got {got}"
            )
        Selector.parse(self.where, ".where")
        return self


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


def _guidance(raw: object) -> Guidance:
    return Guidance.parse(raw, "")


GuidanceField = Annotated[Guidance, PlainValidator(_guidance), WithJsonSchema(_GUIDANCE_SCHEMA)]


def _size(raw: object) -> int:
    return size(raw, "")


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


class Output(Strict):
    """What is written, and how."""

    layout: Literal["same", "diffusers", "bfl", "comfy"] = Field(
        default="same",
        description="Names and files of the tensors; `same` is the first model's layout.",
    )
    dtype: Literal["same", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2"] = Field(
        default="same",
        description="Type of every float tensor; `same` is the first model's, tensor by tensor.",
    )
    overflow: Literal["saturate", "nan"] = Field(
        default="saturate", description="What fp8 does with numbers too large for it."
    )
    shard_size: Annotated[int, PlainValidator(_size), WithJsonSchema(_SIZE_SCHEMA)] | None = Field(
        default=None,
        description="Bytes per file at most, `10GB`; left out: 10 GB for diffusers, one file for "
        "other layouts.",
    )
    pipeline_from: str | None = Field(
        default=None,
        min_length=1,
        description="A model's name or a folder: write a whole pipeline, with its other parts from "
        "there.",
    )
    scheduler_from: str | None = Field(
        default=None,
        min_length=1,
        description="A model's name or a folder: take the pipeline's scheduler from there instead.",
    )
    link: Literal["auto", "link", "reflink", "copy"] = Field(
        default="auto", description="How the pipeline's other parts get there."
    )
    card: bool = Field(
        default=True,
        description="Write a model card with the parents and the licence that follows from them.",
    )
    title: str | None = Field(default=None, description="Title in the card and the metadata.")
