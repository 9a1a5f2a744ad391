"""Guidance where some parents have none: FLUX.1-schnell lacks the MLP that embeds its value.

The rules give a mixture for each guidance tensor, as for any other. Among parents that have the MLP
it is brought to a sum of 1 when a parent without it would take a part; a lone guided parent is
copied. Then the policy says what becomes of the mixture:

- keep: it is the output's guidance MLP;
- scale: the same, and the output layer (weight and bias) is multiplied by the guided parents'
  share, so that a parent without guidance counts as one whose contribution is zero;
- bake g: `W2 @ silu(W1 @ e(g) + b1) + b2` is added to `embed.time.out.bias`, after which the model
  has no guidance. Exact at that g: the model adds time, guidance and pooled-text embeddings before
  anything else sees them (black-forest-labs/flux `src/flux/model.py`, diffusers
  `CombinedTimestepGuidanceTextProjEmbeddings`);
- drop: the MLP goes. A rule whose selector begins with `guidance` wins over this.

`take` says which bytes, so it is never scaled. A parent that gives nothing to the output gives no
guidance either: alpha 0 is the first model, alpha 1 the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from submerge.errors import RecipeError, listing, quoted
from submerge.methods import number_in_words
from submerge.plan.decide import Choice, alone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.layout import Model
    from submerge.recipe import Guidance, Recipe

__all__ = ["BAKED_INTO", "Settled", "is_guidance", "settle", "sinusoid"]

BAKED_INTO = "embed.time.out.bias"

# Both code bases multiply the guidance value by this before the sinusoid, as they do the time.
_SCALE = 1000.0
_MAX_PERIOD = 10_000.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of guidance.

    Attributes:
        choices: the guidance units of the output; empty when it has none.
        baked: the mixtures to fold in, by unit; None unless the policy is `bake`.
        value: the guidance value baked in.
        words: the outcome as a sentence.
        absent: why guidance units are not in the output; empty when they are.
        notes: remarks for the plan.
    """

    choices: Mapping[str, Choice]
    words: str
    absent: str = ""
    baked: Mapping[str, Choice] | None = None
    value: float = 0.0
    notes: tuple[str, ...] = ()


def is_guidance(unit: str) -> bool:
    """Tell whether a unit belongs to the guidance MLP."""
    return unit.startswith("guidance.")


def sinusoid(guidance: float, width: int) -> tuple[float, ...]:
    """Return the embedding both code bases feed the guidance MLP: `width` numbers, cos then sin.

    `[cos(1000 g f_i)..., sin(1000 g f_i)...]` with `f_i = 10000 ** (-i / half)`: diffusers'
    `get_timestep_embedding(1000 g, width, flip_sin_to_cos=True, downscale_freq_shift=0)`, and
    `timestep_embedding` of black-forest-labs/flux, here in f64 throughout.
    """
    half = width // 2
    angles = [_SCALE * guidance * math.exp(-math.log(_MAX_PERIOD) * i / half) for i in range(half)]
    # An odd width is padded with a zero, as there.
    padding = (0.0,) * (width % 2)
    return (*map(math.cos, angles), *map(math.sin, angles), *padding)


def settle(recipe: Recipe, models: Mapping[str, Model], choices: Mapping[str, Choice]) -> Settled:
    """Return what becomes of the guidance units among `choices`.

    Raises:
        RecipeError: nothing to bake, only a part of the units left, or guided parents whose weights
            cancel or are all 0.
    """
    policy = recipe.guidance
    units = [unit for unit in choices if is_guidance(unit)]
    if not units:
        if policy.policy == "bake":
            raise _nothing_to_bake(policy, "no model has guidance")
        return Settled({}, "none: no model has a guidance embedder")
    contributing = {model for choice in choices.values() for model in choice.models}
    guided = [m for m in models if m in contributing and any(u in models[m].units for u in units)]
    mixed = {unit: _mixture(unit, choices[unit], models, guided) for unit in units}
    kept = _all_or_none(mixed)
    if policy.policy == "drop":
        return _dropped(recipe, choices, kept)
    if kept is None:
        why = _absence(guided, mixed)
        if policy.policy == "bake":
            raise _nothing_to_bake(policy, why)
        return Settled({}, f"none: {why}; guidance_embeds false", absent=why)
    if policy.policy == "bake":
        return _bake(policy, kept)
    if policy.policy == "scale":
        return _scale(policy, kept, choices, models)
    return Settled(kept, f"keep: {_source(kept)}; guidance_embeds true")


def _mixture(
    unit: str, choice: Choice, models: Mapping[str, Model], guided: Sequence[str]
) -> Choice | str:
    """Return the mixture of the guided parents, or why there is none."""
    missing = [model for model in choice.models if unit not in models[model].units]
    if not missing and choice.models:
        return choice
    if choice.take:
        return f"{choice.reason} takes `{missing[0]}`, which has none"
    if not guided:
        return "no model with guidance contributes"
    if choice.blend is None:
        weights = {model: choice.weights[model] for model in guided if model in choice.weights}
    else:
        weights = choice.blend.among(guided)
    if len(guided) == 1:
        return alone(guided[0], choice.reason)
    total = math.fsum(weights.values())
    if abs(total) <= 1e-12 * max((abs(w) for w in weights.values()), default=1.0):
        raise RecipeError(
            f"recipe.guidance: the weights of {listing(guided, noun='guided model')} in "
            f"{quoted(unit)} sum to {total:g}, expected another sum than 0",
            hint=f"add `rules: [{{where: guidance, take: {guided[0]}}}]`",
        )
    if len(weights) == 1:
        return alone(next(iter(weights)), choice.reason)
    return choice.summed({model: w / total for model, w in weights.items()})


def _all_or_none(mixed: Mapping[str, Choice | str]) -> dict[str, Choice] | None:
    """Return the mixtures if all units have one, None if none has.

    Raises:
        RecipeError: only some have; half an MLP loads nowhere.
    """
    kept = {unit: choice for unit, choice in mixed.items() if isinstance(choice, Choice)}
    lost = [unit for unit in mixed if unit not in kept]
    if kept and lost:
        raise RecipeError(
            f"recipe.guidance: {listing(lost, noun='unit')} left without a source "
            f"({mixed[lost[0]]}), expected all {len(mixed)} guidance units or none",
            hint="select `guidance` as a whole",
        )
    return kept or None


def _absence(guided: Sequence[str], mixed: Mapping[str, Choice | str]) -> str:
    why = next((reason for reason in mixed.values() if isinstance(reason, str)), "")
    return why if guided else "no model with guidance contributes"


def _nothing_to_bake(policy: Guidance, why: str) -> RecipeError:
    return RecipeError(
        f"recipe.guidance: nothing to bake at {policy.value:g}, {why}",
        hint="leave `guidance` out, or give a model with guidance a weight",
    )


def _dropped(
    recipe: Recipe, choices: Mapping[str, Choice], kept: Mapping[str, Choice] | None
) -> Settled:
    """Drop, unless rules that name guidance keep it: those win."""
    named = [u for u in choices if is_guidance(u) and _named(recipe, choices[u])]
    why = "`guidance: drop`"
    if not named or kept is None:
        return Settled({}, "drop: guidance_embeds false", absent=why)
    rest = [unit for unit in kept if unit not in named]
    if rest:
        raise RecipeError(
            f"recipe.guidance: drop would leave {listing(rest, noun='unit')} out of an MLP that "
            f"{kept[named[0]].reason} keeps, expected all {len(kept)} guidance units or none",
            hint="let the rule select `guidance` as a whole",
        )
    note = f"{kept[named[0]].reason} keeps guidance although the policy is `drop`"
    return Settled(kept, f"keep: {_source(kept)}; guidance_embeds true", notes=(note,))


def _named(recipe: Recipe, choice: Choice) -> bool:
    """Tell whether a rule that names guidance decided, not one that reached it by a wildcard."""
    return choice.step is not None and recipe.rules[choice.step].where.startswith("guidance")


def _bake(policy: Guidance, kept: Mapping[str, Choice]) -> Settled:
    value = policy.value or 0.0
    words = f"bake {value:g}: {_source(kept)}, folded into `{BAKED_INTO}`; guidance_embeds false"
    absent = f"folded into `{BAKED_INTO}` at guidance {value:g}"
    summed = {unit: choice.summed() for unit, choice in kept.items()}
    return Settled({}, words, absent=absent, baked=summed, value=value)


def _scale(
    policy: Guidance,
    kept: Mapping[str, Choice],
    choices: Mapping[str, Choice],
    models: Mapping[str, Model],
) -> Settled:
    """Multiply the output layer by the guided parents' share; what is taken stays as it is."""
    scaled, shares = dict(kept), []
    for unit, choice in kept.items():
        if not unit.startswith("guidance.out.") or choices[unit].take:
            continue
        share = policy.value if policy.value is not None else _share(unit, choices[unit], models)
        shares.append(share)
        if share == 1:
            continue
        weights = {model: weight * share for model, weight in choice.weights.items()}
        scaled[unit] = replace(choice.summed(weights), take=False)
    if not shares:
        return Settled(kept, f"keep: {_source(kept)} as taken; guidance_embeds true")
    words = " and ".join(dict.fromkeys(map(number_in_words, shares)))
    if all(share == 0 for share in shares):
        why = "its share is 0"
        return Settled({}, f"none: {why}; guidance_embeds false", absent=why)
    return Settled(
        scaled, f"scale: {_source(kept)}, its output times {words}; guidance_embeds true"
    )


def _share(unit: str, choice: Choice, models: Mapping[str, Model]) -> float:
    """Return the guided parents' part of all weights of a unit; 1 when every parent has it."""
    if all(unit in models[model].units for model in choice.models):
        return 1.0
    return math.fsum(w for model, w in choice.weights.items() if unit in models[model].units)


def _source(kept: Mapping[str, Choice]) -> str:
    """Return where the MLP comes from, in words."""
    formulas = list(dict.fromkeys(choice.formula for choice in kept.values()))
    return " and ".join(formulas)
