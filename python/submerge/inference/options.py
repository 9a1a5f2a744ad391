"""What is asked of a painting, and the defaults that fit the model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple, TypedDict

from submerge.errors import RecipeError
from submerge.given import (
    Count,
    Kind,
    Options,
    Seed,
    declared,
    hinted,
    inside,
    kind_of,
    listed,
    named,
    shown,
    whole,
)

__all__ = ["Defaults", "InferenceOptions", "InferenceOptionsDict", "defaults_for"]

_MAX_TOKENS = 512
_SEEDS = hinted(
    listed(kind_of(Seed), least=1),
    "`seed` takes one; with `images_per_prompt` those that follow it as well",
)


def _scales(raw: object, where: str) -> dict[str, float]:
    """Read scales by their files, whose names may be path objects."""
    if isinstance(raw, Mapping):
        raw = {os.fspath(p) if isinstance(p, os.PathLike) else p: s for p, s in raw.items()}
    return _SCALES.read(raw, where)  # type: ignore[no-any-return]


_SCALES = hinted(named(kind_of(float)), "give each file its scale: `{'style.safetensors': 0.8}`")


class InferenceOptionsDict(TypedDict, total=False):
    """The options of `run_inference` as a dict; `InferenceOptions` has their meaning."""

    steps: int | None
    guidance: float | None
    negative_prompt: str | None
    true_cfg: float | None
    width: int | None
    height: int | None
    seed: int
    seeds: Sequence[int] | None
    images_per_prompt: int
    batch: int
    max_sequence_length: int | None
    shift: float | None
    loras: Mapping[str, float]
    ip_adapter: Mapping[str, Any] | None
    controlnet: Mapping[str, Any] | None
    more: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions(Options):
    """How images are painted; None is the default that fits the model.

    Attributes:
        steps: denoising steps.
        guidance: the distilled guidance scale; a model without the embedder ignores it.
        negative_prompt: what not to paint; needs `true_cfg` above 1.
        true_cfg: classifier-free guidance, which runs the transformer twice a step; 1 is off.
        width: pixels, a multiple of the pipeline's patch (16 for FLUX.1); 1024 for FLUX.1.
        height: as `width`.
        seed: the seed of a prompt's first image; the next images take the seeds that follow.
        seeds: one seed for each image of a prompt, in place of `seed` and `images_per_prompt`.
        images_per_prompt: images of every prompt.
        batch: images denoised together. The start noise does not depend on it; the last bits of
            the arithmetic may.
        max_sequence_length: T5 tokens of a prompt, at most 512; longer prompts are cut.
        shift: a static timestep shift in place of the scheduler's own.
        loras: LoRA file -> its scale, loaded through diffusers.
        ip_adapter: keywords for `load_ip_adapter` with `image` (a path or a PIL image) and `scale`.
        controlnet: `model` (a folder), `image` and `scale` of a FLUX.1 ControlNet; more of its
            keywords, `control_mode` for instance, are passed on.
        more: further keywords for the call of the pipeline.
    """

    steps: Count | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    true_cfg: float | None = None
    width: Count | None = None
    height: Count | None = None
    seed: Seed = 0
    seeds: Annotated[tuple[int, ...], _SEEDS] | None = None
    images_per_prompt: Count = 1
    batch: Count = 1
    max_sequence_length: Annotated[int, whole(1, _MAX_TOKENS + 1)] | None = None
    shift: float | None = None
    loras: Annotated[Mapping[str, float], Kind(_scales, _SCALES.schema)] = field(
        default_factory=dict
    )
    ip_adapter: Mapping[str, Any] | None = None
    controlnet: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def check_together(self, where: str) -> None:
        """Refuse a negative prompt without effect, and seeds that run past the last."""
        seed = kind_of(Seed).read
        seed(self.all_seeds[-1], inside(where, "seed"))
        if self.negative_prompt is not None and not (self.true_cfg or 1.0) > 1.0:
            raise RecipeError(
                f"{where}.negative_prompt: has no effect without true guidance, expected `true_cfg`"
                f" above 1, got {shown(self.true_cfg)}",
                hint="add `true_cfg`, 3.5 for instance; every step then takes twice as long",
            )

    @property
    def all_seeds(self) -> Sequence[int]:
        """The seed of each image of a prompt."""
        if self.seeds is not None:
            return self.seeds
        return range(self.seed, self.seed + self.images_per_prompt)

    def filled(self, defaults: Defaults) -> InferenceOptions:
        """Return the options with every default put in."""
        empty = {
            name: value
            for name, value in defaults.values.items()
            if getattr(self, name, None) is None
        }
        return replace(self, **empty)

    def to_dict(self) -> dict[str, Any]:
        """Return what decides an image beside prompt and seed, as plain data."""
        plain = {
            name: getattr(self, name)
            for name in declared(type(self))
            if name not in ("seed", "seeds", "images_per_prompt", "batch")
        }
        for name in ("ip_adapter", "controlnet", "more"):
            if plain[name]:
                plain[name] = {key: str(value) for key, value in plain[name].items()}
        return {name: value for name, value in plain.items() if value not in (None, {})}


class Defaults(NamedTuple):
    """The options a model is painted with unless asked otherwise, and why."""

    values: Mapping[str, Any]
    why: str


def defaults_for(*, guided: bool, few_step_parent: bool, size: int = 1024) -> Defaults:
    """Return the defaults of a model.

    Args:
        guided: whether the transformer has a guidance embedder, as dev and Krea have.
        few_step_parent: whether a model without one, as schnell, was merged into it.
        size: pixels along each side.
    """
    sides = {"width": size, "height": size, "true_cfg": 1.0}
    if not guided:
        return Defaults(
            {"steps": 4, "guidance": 0.0, "max_sequence_length": 256, **sides},
            "4 steps, no guidance, 256 text tokens: the model has no guidance embedder, as schnell",
        )
    if few_step_parent:
        return Defaults(
            {"steps": 8, "guidance": 3.5, "max_sequence_length": 512, **sides},
            "8 steps, guidance 3.5, 512 text tokens: a merge of a model with a guidance embedder "
            "(28 steps) and one distilled to 4 steps; the closer to the former, the more steps",
        )
    return Defaults(
        {"steps": 28, "guidance": 3.5, "max_sequence_length": 512, **sides},
        "28 steps, guidance 3.5, 512 text tokens: the model has a guidance embedder, as dev",
    )
