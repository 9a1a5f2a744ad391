"""Sliders as rules of a recipe, and rules as sliders.

A slider is a group of units, `embed`, `double[3]` or `final`; its number is the share of the second
model, as every `alpha` is. Moved sliders become rules before all others, neighbours of one number
in one rule; rules that say more than that are left as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.blocks import Selector, block_of, part_of
from submerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.plan import Plan

__all__ = ["Slider", "moved", "sliders"]

_ACTIONS = ("alpha", "method", "weight", "take")
_WHERE = re.compile(r"(?P<word>[a-z_]+)(?:\[(?P<first>[0-9]{1,5})(?::(?P<end>[0-9]{1,5}))?\])?")
_OUTSIDE = ("embed", "final")
_DIGITS = 4


class Slider(NamedTuple):
    """A group of units and the share of the second model in it.

    Attributes:
        group: a selector: `embed`, `double[3]`, `final`.
        share: the mean over its units.
        even: whether all its units have that share.
    """

    group: str
    share: float
    even: bool


def sliders(plan: Plan) -> list[Slider]:
    """Return the sliders of a plan of two models, in execution order; none of other plans."""
    names = [parent.name for parent in plan.about.parents]
    if len(names) != 2:
        return []
    found: dict[str, list[float]] = {}
    for unit in plan.units:
        group = _group(unit.name)
        if group is not None and set(unit.models) <= set(names):
            found.setdefault(group, []).append(round(unit.shares.get(names[1], 0.0), 6))
    return [
        Slider(group, sum(shares) / len(shares), len(set(shares)) == 1)
        for group, shares in sorted(found.items(), key=lambda item: _order(item[0]))
    ]


def moved(
    recipe: Mapping[str, Any],
    shares: Mapping[str, float],
    everywhere: float | None = None,
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a recipe with sliders moved.

    Args:
        recipe: plain data, of two models.
        shares: the new share of each group that moved.
        everywhere: the share of all that no rule reaches; replaces what the top level says.
        groups: all groups there are, so that rules of whole stacks are told apart; by default those
            that rules name.

    Raises:
        RecipeError: a group is none, or a share no finite number.
    """
    data = _short(recipe)
    if everywhere is not None:
        data = {name: value for name, value in data.items() if name not in _ACTIONS}
        data["alpha"] = _number(everywhere, "everywhere")
    known, others = _taken_apart(data.get("rules", ()), groups)
    for group, share in shares.items():
        Selector.parse(group, "shares")
        known[group] = _number(share, group)
    top = data.get("alpha")
    # What the top level says need not be said again, unless a rule behind would come between.
    plain = {group: share for group, share in known.items() if others or share != top}
    rules = [{"where": where, "alpha": share} for where, share in _runs(plain, groups)]
    data.pop("rules", None)
    return data | ({"rules": [*rules, *others]} if rules or others else {})


def _group(unit: str) -> str | None:
    block = block_of(unit)
    if block is not None:
        return f"{block[0]}[{block[1]}]"
    part = part_of(unit)
    return part if part in _OUTSIDE else None


def _order(group: str) -> tuple[int, str, int]:
    word, _, index = group.rstrip("]").partition("[")
    return (0 if word == "embed" else 2 if word == "final" else 1, word, int(index or 0))


def _number(share: object, where: str) -> float:
    if isinstance(share, bool) or not isinstance(share, int | float) or not -10 <= share <= 10:
        raise RecipeError(f"shares.{where}: expected a share from 0 to 1, got {share!r}")
    return round(float(share), _DIGITS)


def _taken_apart(
    rules: Iterable[Mapping[str, Any]], groups: Sequence[str]
) -> tuple[dict[str, float], list[Mapping[str, Any]]]:
    """Return what rules in front say of single groups, and the rules that say anything else."""
    found: dict[str, float] = {}
    others: list[Mapping[str, Any]] = []
    for rule in rules:
        named = [] if others else _named(rule, groups)
        if not named:
            others.append(rule)
        for group in named:
            found.setdefault(group, rule["alpha"])
    return found, others


def _named(rule: Mapping[str, Any], groups: Sequence[str]) -> list[str]:
    """Return the groups of a rule that sets a share of groups and says nothing else."""
    alpha, where = rule.get("alpha"), rule.get("where")
    if rule.keys() != {"where", "alpha"} or not isinstance(alpha, int | float):
        return []
    match = _WHERE.fullmatch(where) if isinstance(where, str) else None
    if match is None:
        return []
    word, first, end = match["word"], match["first"], match["end"]
    if first is None:
        return [g for g in groups if g == word or g.startswith(f"{word}[")]
    return [f"{word}[{at}]" for at in range(int(first), int(end or int(first) + 1))]


def _short(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe whose top level says `alpha` where it is a linear method's number."""
    data = dict(recipe)
    method = data.get("method")
    linear = method.get("linear") if isinstance(method, dict) else None
    alpha = linear["alpha"] if isinstance(linear, dict) and linear.keys() == {"alpha"} else None
    if isinstance(alpha, int | float):
        del data["method"]
        data["alpha"] = alpha
    return data


def _runs(shares: Mapping[str, float], groups: Sequence[str]) -> list[tuple[str, float]]:
    """Return selectors for runs of equal shares, in execution order."""
    found: list[tuple[str, int, int, float]] = []
    for group in sorted(shares, key=_order):
        word, _, index = group.rstrip("]").partition("[")
        at, share = int(index or -1), shares[group]
        before = found[-1] if found else ("", -1, -1, 0.0)
        if at >= 0 and (before[0], *before[2:]) == (word, at, share):
            found[-1] = (word, before[1], at + 1, share)
        else:
            found.append((word, at, at + 1, share))
    depth = {word: sum(g.startswith(f"{word}[") for g in groups) for word, *_ in found}
    return [(_selector(word, first, end, depth[word]), share) for word, first, end, share in found]


def _selector(word: str, first: int, end: int, depth: int) -> str:
    if first < 0 or (first == 0 and end == depth):
        return word
    return f"{word}[{first}]" if end == first + 1 else f"{word}[{first}:{end}]"
