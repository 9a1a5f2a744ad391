"""The parts of a recipe: what may be written, and what it means left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from submerge.blocks import Selector
from submerge.errors import RecipeError, quoted
from submerge.given import Filled, Record, declare, declared, number, one_of, shown
from submerge.methods import METHOD, Linear, Method, Take
from submerge.recipe.advice import beside_another_action, for_unknown
from submerge.recipe.output import Output, only
from submerge.values import Number, PerModel, Value

if TYPE_CHECKING:
    from submerge.given import Declared, Definitions

__all__ = [
    "Action",
    "AdapterSource",
    "Guidance",
    "ModelSource",
    "Rule",
    "sources_of",
]

_EXAMPLES = "expected `keep`, `scale`, `drop`, {scale: share} or {bake: guidance value}"


@dataclass(frozen=True, kw_only=True)
class _Source(Record):
    """A file or folder, written as its path alone where nothing else is said of it."""

    OTHERS: ClassVar[str]

    path: Filled = declare("The file or folder.")

    @classmethod
    def parse(cls, raw: object, where: str) -> Self:
        """Read a path, or a mapping of the fields."""
        if not isinstance(raw, str | Mapping | cls):
            raise RecipeError(
                f"{where}: expected a path or {{path, {cls.OTHERS}}}, got {shown(raw)}"
            )
        return super().parse({"path": raw} if isinstance(raw, str) else raw, where)

    @classmethod
    def json_schema(cls, definitions: Definitions) -> dict[str, Any]:
        """Return the JSON Schema of a path or of the fields."""
        path = declared(cls)["path"].kind.schema(definitions)
        return {"anyOf": [path, super().json_schema(definitions)]}

    def plain(self) -> Any:
        """Return the path alone, where that says it all."""
        written = {"path": self.path, **self.written()}
        return self.path if len(written) == 1 else written


@dataclass(frozen=True, kw_only=True)
class ModelSource(_Source):
    """Where a model lies: a `.safetensors` file, a folder of shards, a diffusers pipeline."""

    OTHERS = "layout, nvfp4, license"

    layout: Literal["auto", "diffusers", "bfl", "generic"] = declare(
        "How its tensors are named; `generic` merges any two checkpoints with equal names.",
        "auto",
    )
    nvfp4: Literal["auto", "comfy", "bfl"] = declare(
        "Whose NVFP4 codes it has, where the file does not say: ComfyUI's, or those of diffusers "
        "and ModelOpt.",
        "auto",
    )
    license: str | None = declare(
        "The licence, where the checkpoint does not say; the result's licence follows from it.",
        None,
    )


@dataclass(frozen=True, kw_only=True)
class AdapterSource(_Source):
    """A LoRA or another adapter, added while the models are merged."""

    OTHERS = "onto, scale"

    path: Filled = declare("The `.safetensors` file, or the folder that peft or diffusers saved.")
    onto: str | None = declare(
        "A model's name: it is added to that model before the merge. Left out: to the result, or "
        "to the only model.",
        None,
    )
    scale: Value = declare(
        "Its strength: a number, a list, {from, to}, or a mapping of selectors.", Number(1.0)
    )
    compat: Literal["diffusers", "comfyui", "lycoris"] | None = declare(
        "Whose reading of the file to follow where programs differ.", None
    )
    allow: tuple[str, ...] = declare(
        "Keys of the file that may have no place in the model: names, the beginnings of names up "
        "to a dot, or patterns with `*`.",
        (),
    )
    license: str | None = declare(
        "Its licence, where the file does not say; the result's licence follows from it.", None
    )

    def alone(self, where: str) -> Self:
        """Return the adapter where there is one model, which needs no name.

        Raises:
            RecipeError: it names one.
        """
        if self.onto is not None:
            raise RecipeError(
                f"{where}.onto: got {quoted(self.onto)}, expected nothing, as there is one model",
                hint="leave `onto` out",
            )
        return self


def sources_of(
    adapters: Sequence[str | Mapping[str, Any]], models: Sequence[str]
) -> tuple[AdapterSource, ...]:
    """Read adapters of a comparison, which has no result: the second model's unless they say.

    Raises:
        RecipeError: malformed, or onto a model that there is not.
    """
    found = []
    for at, raw in enumerate(adapters):
        source = AdapterSource.parse(raw, f"adapters[{at}]")
        if source.onto not in (None, *models):
            raise RecipeError(
                f"adapters[{at}].onto: no model is called {quoted(str(source.onto))}, expected one "
                f"of {one_of(models)}"
            )
        found.append(replace(source, onto=source.onto or models[1]))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Action(Record):
    """What happens to the selected units: one of `alpha`, `weight`, `method`, `take`."""

    ONE: ClassVar[list[Any]] = [
        {"required": [name]} for name in ("alpha", "weight", "method", "take")
    ]

    alpha: Value | None = declare(
        "The second model's share: a number, a list, {from, to}, or a mapping of selectors.", None
    )
    weight: PerModel | None = declare(
        "A weight for each model by name, divided by their sum.", None
    )
    method: Annotated[Method, METHOD] | None = declare("A merge method with its parameters.", None)
    take: str | None = declare("A model's name: its tensors, byte for byte.", None)

    @classmethod
    def advice(
        cls, name: str, given: Mapping[str, Any], known: Mapping[str, Declared]
    ) -> str | None:
        """Return the line to write, where a field is called otherwise or stands elsewhere."""
        output = list(declared(Output)) if "output" in known else []
        return for_unknown(name, given, list(known), output)

    def beside(self) -> str | None:
        """Return the line to write, where several of the four fields are given."""
        return beside_another_action(self.method, self.alpha, self.weight)

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

    where: str = declare("A selector: `double[0:8].img.attn`, `single[*].mlp`, `guidance`.")

    def check_together(self, where: str) -> None:
        """Refuse no action, several, and a malformed selector."""
        given = self.given()
        if len(given) != 1:
            got = ", ".join(map(quoted, given)) or "none"
            raise RecipeError(
                f"{where}: expected exactly one of `alpha`, `weight`, `method`, `take`, got {got}",
                hint=self.beside() if given else None,
            )
        Selector.parse(self.where, f"{where}.where")


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

    @staticmethod
    def json_schema(definitions: Definitions) -> dict[str, Any]:  # noqa: ARG004
        """Return the JSON Schema of the forms `parse` accepts."""
        return {
            "anyOf": [
                {"enum": ["keep", "scale", "drop"]},
                only("scale", {"type": "number"}),
                only("bake", {"type": "number", "minimum": 0}),
            ]
        }
