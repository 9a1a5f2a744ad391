"""What is asked of a painting, and the defaults that fit the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from submerge.errors import RecipeError, nearest, quoted
from submerge.values import number, shown

__all__ = ["Defaults", "InferenceOptions", "defaults_for"]

# FLUX.1 paints in patches of 2 x 2 latents of 8 x 8 pixels.
_MAX_TOKENS = 512
_COUNTS = ("steps", "width", "height", "images_per_prompt", "batch", "max_sequence_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
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

    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    true_cfg: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int = 0
    seeds: tuple[int, ...] | None = None
    images_per_prompt: int = 1
    batch: int = 1
    max_sequence_length: int | None = None
    shift: float | None = None
    loras: Mapping[str, float] = field(default_factory=dict)
    ip_adapter: Mapping[str, Any] | None = None
    controlnet: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        for name in ("guidance", "true_cfg", "shift"):
            if getattr(self, name) is not None:
                number(getattr(self, name), f"options.{name}")
        if self.max_sequence_length is not None and self.max_sequence_length > _MAX_TOKENS:
            raise RecipeError(
                f"options.max_sequence_length: expected at most {_MAX_TOKENS}, "
                f"got {self.max_sequence_length}"
            )
        if self.seeds is not None and (type(self.seeds) is not tuple or not self.seeds):
            raise RecipeError(
                f"options.seeds: expected a list of whole numbers, got {shown(self.seeds)}",
                hint="`seed` takes one; with `images_per_prompt` those that follow it as well",
            )
        if not isinstance(self.loras, Mapping):
            raise RecipeError(
                f"options.loras: expected a mapping, got {shown(self.loras)}",
                hint="give each file its scale: `{'style.safetensors': 0.8}`",
            )
        for seed in self.all_seeds:
            if type(seed) is not int or not 0 <= seed < 1 << 63:
                raise RecipeError(
                    f"options.seed: expected a whole number from 0 to 2^63 - 1, got {shown(seed)}"
                )
        if self.negative_prompt is not None and not (self.true_cfg or 1.0) > 1.0:
            raise RecipeError(
                "options.negative_prompt: has no effect without true guidance, expected `true_cfg` "
                f"above 1, got {shown(self.true_cfg)}",
                hint="add `true_cfg`, 3.5 for instance; every step then takes twice as long",
            )

    @classmethod
    def of(cls, options: InferenceOptions | Mapping[str, Any] | None) -> InferenceOptions:
        """Return options from a plain dict.

        Raises:
            RecipeError: an unknown name or a value of the wrong kind, with its field.
        """
        if isinstance(options, InferenceOptions):
            return options
        if options is not None and not isinstance(options, Mapping):
            raise RecipeError(f"options: expected a mapping, got {shown(options)}")
        known = [f.name for f in fields(cls)]
        given = dict(options or {})
        for name in given:
            if name not in known:
                close = nearest(str(name), known)
                raise RecipeError(
                    f"options: expected one of {', '.join(known)}, got {quoted(str(name))}",
                    hint=f"did you mean {quoted(close[0])}?" if close else None,
                )
        seeds = given.get("seeds")
        if isinstance(seeds, Sequence) and not isinstance(seeds, str):
            given["seeds"] = tuple(seeds)
        return cls(**given)

    def with_(self, **changes: Any) -> InferenceOptions:
        """Return a copy with some options changed."""
        return replace(self, **changes)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seed of each image of a prompt."""
        if self.seeds is not None:
            return tuple(self.seeds)
        return tuple(range(self.seed, self.seed + self.images_per_prompt))

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
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("seed", "seeds", "images_per_prompt", "batch")
        }
        plain["loras"] = {str(path): scale for path, scale in self.loras.items()}
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


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if type(value) is not int or value < 1:
        raise RecipeError(
            f"options.{name}: expected a whole number of at least 1, got {shown(value)}"
        )
