"""Guidance where some parents have none: FLUX.1-schnell lacks the network that embeds its value.

The rules give a mixture for each guidance tensor, as for any other. Among parents that have the MLP
it is brought to a sum of 1 when a parent without it would take a part; a lone guided parent is
copied. Then the policy says what becomes of the mixture:

- keep: it is the output's guidance MLP;
- scale: the same, and the output layer (weight and bias) is multiplied by the guided parents'
  share, so that a parent without guidance counts as one whose contribution is zero;
- bake g: what the network makes of g is added to the bias it is always added to, after which the
  model has no guidance. Exact at that g;
- drop: the MLP goes. A rule whose selector begins with `guidance` wins over this.

`take` says which bytes, so it is never scaled. A parent that gives nothing to the output gives no
guidance either: alpha 0 is the first model, alpha 1 the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from submerge.errors import RecipeError, listing, quoted
from submerge.layout import family_of
from submerge.methods import copied, number_in_words, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.layout import GuidanceNetwork, Model
    from submerge.plan.form import Unit
    from submerge.recipe import Guidance, Recipe

__all__ = ["GuidanceOutcome", "decide_guidance"]


@dataclass(frozen=True, slots=True)
class GuidanceOutcome:
    """What becomes of guidance.

    Attributes:
        network: the family's, if it has one.
        units: the guidance units of the output; empty when it has none.
        words: the outcome as a sentence.
        absent: why guidance units are not in the output; empty when they are.
        baked: the guidance units to fold in, by name; empty unless the policy is `bake`.
        value: the guidance value baked in.
        notes: remarks for the plan.
    """

    network: GuidanceNetwork | None
    units: Mapping[str, Unit]
    words: str
    absent: str = ""
    baked: Mapping[str, Unit] = field(default_factory=dict)
    value: float = 0.0
    notes: tuple[str, ...] = ()

    def has(self, unit: str) -> bool:
        """Tell whether a unit belongs to the guidance network."""
        return self.network is not None and self.network.has(unit)


def decide_guidance(
    recipe: Recipe, models: Mapping[str, Model], units: Mapping[str, Unit]
) -> GuidanceOutcome:
    """Return what becomes of the guidance units among `units`.

    Raises:
        RecipeError: nothing to bake, only a part of the units left, or guided parents whose weights
            cancel or are all 0.
    """
    policy = recipe.guidance
    family = family_of(next(iter(models.values())).arch)
    network = None if family is None else family.guidance
    decided = {} if network is None else {n: unit for n, unit in units.items() if network.has(n)}
    if network is None or not decided:
        if policy.policy == "bake":
            raise _nothing_to_bake(policy, "no model has guidance")
        return GuidanceOutcome(network, {}, "none: no model has a guidance embedder")
    contributing = {model for unit in units.values() for model in unit.models}
    guided = [
        name
        for name, model in models.items()
        if name in contributing and any(unit in model.units for unit in decided)
    ]
    found = {name: _among_guided(unit, models, guided) for name, unit in decided.items()}
    kept = _all_or_none(found)
    if policy.policy == "drop":
        return _dropped(network, recipe, decided, kept)
    if kept is None:
        why = _absence(guided, found)
        if policy.policy == "bake":
            raise _nothing_to_bake(policy, why)
        return GuidanceOutcome(network, {}, f"none: {why}; guidance_embeds false", absent=why)
    if policy.policy == "bake":
        return _bake(network, policy, kept)
    if policy.policy == "scale":
        return _scale(network, policy, kept, (decided, models))
    return GuidanceOutcome(network, kept, f"keep: {_source(kept)}; guidance_embeds true")


def _among_guided(unit: Unit, models: Mapping[str, Model], guided: Sequence[str]) -> Unit | str:
    """Return the unit made of the guided parents alone, or why it cannot be."""
    missing = [model for model in unit.models if unit.name not in models[model].units]
    if not missing and unit.models:
        return unit
    if unit.op == "copy":
        return f"{unit.reason} takes `{missing[0]}`, which has none"
    if not guided:
        return "no model with guidance contributes"
    if len(guided) == 1:
        return unit._replace(blend=copied(guided[0]))
    weights = unit.blend.among(guided)
    total = math.fsum(weights.values())
    if abs(total) <= 1e-12 * max((abs(w) for w in weights.values()), default=1.0):
        raise RecipeError(
            f"recipe.guidance: the weights of {listing(guided, noun='guided model')} in "
            f"{quoted(unit.name)} sum to {total:g}, expected another sum than 0",
            hint=f"add `rules: [{{where: guidance, take: {guided[0]}}}]`",
        )
    if len(weights) == 1:
        return unit._replace(blend=copied(next(iter(weights))))
    return unit._replace(blend=weighted_sum({model: w / total for model, w in weights.items()}))


def _all_or_none(found: Mapping[str, Unit | str]) -> dict[str, Unit] | None:
    """Return the units if all are there, None if none is.

    Raises:
        RecipeError: only some are; half an MLP loads nowhere.
    """
    kept = {name: unit for name, unit in found.items() if not isinstance(unit, str)}
    lost = [name for name in found if name not in kept]
    if kept and lost:
        raise RecipeError(
            f"recipe.guidance: {listing(lost, noun='unit')} left without a source "
            f"({found[lost[0]]}), expected all {len(found)} guidance units or none",
            hint="select `guidance` as a whole",
        )
    return kept or None


def _absence(guided: Sequence[str], found: Mapping[str, Unit | str]) -> str:
    why = next((reason for reason in found.values() if isinstance(reason, str)), "")
    return why if guided else "no model with guidance contributes"


def _nothing_to_bake(policy: Guidance, why: str) -> RecipeError:
    return RecipeError(
        f"recipe.guidance: nothing to bake at {policy.value:g}, {why}",
        hint="leave `guidance` out, or give a model with guidance a weight",
    )


def _dropped(
    network: GuidanceNetwork,
    recipe: Recipe,
    decided: Mapping[str, Unit],
    kept: Mapping[str, Unit] | None,
) -> GuidanceOutcome:
    """Drop, unless rules that name guidance keep it: those win."""
    # Not a rule that reaches guidance by a wildcard.
    naming = {
        f"rules[{i}]" for i, rule in enumerate(recipe.rules) if rule.where.startswith(network.name)
    }
    named = [name for name, unit in decided.items() if unit.reason in naming]
    if not named or kept is None:
        why = "`guidance: drop`"
        return GuidanceOutcome(network, {}, "drop: guidance_embeds false", absent=why)
    rest = [name for name in kept if name not in named]
    reason = kept[named[0]].reason
    if rest:
        raise RecipeError(
            f"recipe.guidance: drop would leave {listing(rest, noun='unit')} out of an MLP that "
            f"{reason} keeps, expected all {len(kept)} guidance units or none",
            hint="let the rule select `guidance` as a whole",
        )
    note = f"{reason} keeps guidance although the policy is `drop`"
    words = f"keep: {_source(kept)}; guidance_embeds true"
    return GuidanceOutcome(network, kept, words, notes=(note,))


def _bake(network: GuidanceNetwork, policy: Guidance, kept: Mapping[str, Unit]) -> GuidanceOutcome:
    value, into = policy.value or 0.0, quoted(network.added_to)
    return GuidanceOutcome(
        network,
        {},
        f"bake {value:g}: {_source(kept)}, folded into {into}; guidance_embeds false",
        absent=f"folded into {into} at guidance {value:g}",
        baked=kept,
        value=value,
    )


def _scale(
    network: GuidanceNetwork,
    policy: Guidance,
    kept: Mapping[str, Unit],
    around: tuple[Mapping[str, Unit], Mapping[str, Model]],
) -> GuidanceOutcome:
    """Multiply the output layer by the guided parents' share; what is taken stays as it is.

    `around` holds the units as the rules decided them, and the models.
    """
    decided, models = around
    scaled, shares = dict(kept), []
    for name, unit in kept.items():
        if not name.startswith(network.layers[-1] + ".") or decided[name].op == "copy":
            continue
        share = policy.value if policy.value is not None else _share(decided[name], models)
        shares.append(share)
        if share != 1:
            weights = unit.shares
            blend = weighted_sum({model: weight * share for model, weight in weights.items()})
            scaled[name] = unit._replace(blend=blend)
    if not shares:
        words = f"keep: {_source(kept)} as taken; guidance_embeds true"
        return GuidanceOutcome(network, kept, words)
    words = " and ".join(dict.fromkeys(map(number_in_words, shares)))
    if all(share == 0 for share in shares):
        why = "its share is 0"
        return GuidanceOutcome(network, {}, f"none: {why}; guidance_embeds false", absent=why)
    words = f"scale: {_source(kept)}, its output times {words}; guidance_embeds true"
    return GuidanceOutcome(network, scaled, words)


def _share(unit: Unit, models: Mapping[str, Model]) -> float:
    """Return the guided parents' part of all weights of a unit; 1 when every parent has it."""
    if all(unit.name in models[model].units for model in unit.models):
        return 1.0
    return math.fsum(w for model, w in unit.shares.items() if unit.name in models[model].units)


def _source(kept: Mapping[str, Unit]) -> str:
    """Return where the MLP comes from, in words."""
    return " and ".join(dict.fromkeys(unit.formula for unit in kept.values()))
