"""What an evaluation does besides the options of the painting itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from submerge.errors import RecipeError, quoted
from submerge.given import Count, Options, Record, Seed, declared, kind_of, listed, plain
from submerge.inference.options import InferenceOptions, InferenceOptionsDict

__all__ = ["EvaluateOptions", "EvaluateOptionsDict"]


class EvaluateOptionsDict(InferenceOptionsDict, total=False):
    """The options of `evaluate_guidance` as a dict: those here beside those of the painting."""

    settings: Literal["common", "native"]
    sweep_steps: Sequence[int]
    sweep_guidance: Sequence[float]
    probes: int | None
    blur_unsafe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(Options):
    """How models are compared.

    Attributes:
        seeds: the seeds of every prompt; with one, diversity cannot be judged.
        settings: `common` paints with the merge's defaults throughout, `native` with each model's
            own; options given count for all models either way.
        sweep_steps: counts of steps to compare; the largest is what the others should agree with.
        sweep_guidance: further guidance scales to try at each of `sweep_steps`.
        probes: prompts that signals and the sweep use; None is an eighth of them, at most 8.
        blur_unsafe: save images that the safety classifier flags blurred beyond recognition.
        painting: what is passed on to `run_inference`; in a dict it stands beside the rest.
    """

    passes_on: ClassVar[tuple[str, type[Record]] | None] = ("painting", InferenceOptions)

    seeds: Annotated[tuple[int, ...], listed(kind_of(Seed), least=1, distinct=True)] = (0, 1)
    settings: Literal["common", "native"] = "common"
    sweep_steps: Annotated[tuple[int, ...], listed(kind_of(Count), least=1, distinct=True)] = (
        4, 8, 28,
    )  # fmt: skip
    sweep_guidance: tuple[float, ...] = ()
    probes: Count | None = None
    blur_unsafe: bool = False
    painting: Mapping[str, Any] = field(default_factory=dict)

    def check_together(self, where: str) -> None:
        """Refuse options of the painting that are wrong, or that would paint a prompt twice."""
        for name in ("seed", "images_per_prompt"):
            if name in self.painting:
                raise RecipeError(
                    f"{where}: expected `seeds`, got {quoted(name)}",
                    hint="every prompt is painted once with each of `seeds`",
                )
        InferenceOptions.parse(self.painting, where)

    def probes_of(self, prompts: int) -> int:
        """Return how many of so many prompts the signals use."""
        wanted = max(1, min(8, prompts // 8)) if self.probes is None else self.probes
        return min(wanted, prompts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, the painting's options beside the rest."""
        own = {name: plain(getattr(self, name)) for name in declared(type(self))}
        painting = own.pop("painting")
        return {**own, **painting}
