"""What an evaluation does besides the options of the painting itself."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from submerge.errors import RecipeError, quoted
from submerge.inference.options import InferenceOptions
from submerge.values import number, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EvaluateOptions"]

_SETTINGS = ("common", "native")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """How models are compared.

    Attributes:
        seeds: the seeds of every prompt; with one, diversity cannot be judged.
        settings: `common` paints with the merge's defaults throughout, `native` with each model's
            own; options given count for all models either way.
        sweep_steps: counts of steps to compare; the largest is what the others should agree with.
        sweep_guidance: further guidance scales to try at each of `sweep_steps`.
        probes: prompts that signals and the sweep use; None is an eighth of them, at most 8.
        blur_unsafe: save images that the safety classifier flags blurred beyond recognition.
        painting: what is passed on to `run_inference`.
    """

    seeds: tuple[int, ...] = (0, 1)
    settings: str = "common"
    sweep_steps: tuple[int, ...] = (4, 8, 28)
    sweep_guidance: tuple[float, ...] = ()
    probes: int | None = None
    blur_unsafe: bool = False
    painting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _whole(self.seeds, "seeds", least=0)
        _whole(self.sweep_steps, "sweep_steps", least=1)
        if self.probes is not None:
            _whole((self.probes,), "probes", least=1)
        for at, scale in enumerate(self.sweep_guidance):
            number(scale, f"options.sweep_guidance[{at}]")
        if self.settings not in _SETTINGS:
            raise RecipeError(
                f"options.settings: expected `common` or `native`, got {shown(self.settings)}"
            )
        # Raises for what it does not know, before anything is loaded.
        InferenceOptions.of(self.painting)

    @classmethod
    def of(cls, options: EvaluateOptions | Mapping[str, Any] | None) -> Self | EvaluateOptions:
        """Return options from a plain dict; what is not an attribute here goes to the painting.

        Raises:
            RecipeError: an unknown name or a value of the wrong kind, with its field.
        """
        if isinstance(options, EvaluateOptions):
            return options
        given = dict(options or {})
        own = {f.name for f in fields(cls)} - {"painting"}
        mine = {name: given.pop(name) for name in own & set(given)}
        for name in ("seed", "images_per_prompt"):
            if name in given:
                raise RecipeError(
                    f"options: expected `seeds`, got {quoted(name)}",
                    hint="every prompt is painted once with each of `seeds`",
                )
        for name in ("seeds", "sweep_steps", "sweep_guidance"):
            if isinstance(mine.get(name), list):
                mine[name] = tuple(mine[name])
        return cls(**mine, painting=given)

    def probes_of(self, prompts: int) -> int:
        """Return how many of so many prompts the signals use."""
        wanted = max(1, min(8, prompts // 8)) if self.probes is None else self.probes
        return min(wanted, prompts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, the painting's options beside the rest."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "painting"}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in own.items()}
        return plain | dict(self.painting)


def _whole(values: object, name: str, *, least: int) -> None:
    good = isinstance(values, tuple) and values and len(set(values)) == len(values)
    if not good or any(type(value) is not int or value < least for value in values):  # type: ignore[attr-defined]
        raise RecipeError(
            f"options.{name}: expected different whole numbers from {least}, got {shown(values)}"
        )
