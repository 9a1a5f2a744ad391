"""From an analysis to a recipe to start with, each choice with its evidence in a comment.

Strategies, cheapest first: blocks taken whole from one model or the other; weighted sums with a
curve over the blocks; the arithmetic of changes from a base. What decides between them is the goal
and what was measured; no image is made, and the recipe says so.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from submerge.analysis.compare import Analysis, analyze
from submerge.analysis.rows import BlockRow, Sums
from submerge.errors import RecipeError, counted, quoted
from submerge.files import write_whole
from submerge.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack

    from submerge.run import RunArguments

__all__ = ["Goal", "Suggestion", "suggest"]

Goal = Literal["few-step", "quality", "balanced"]

# Above this cosine a slerp is a weighted sum in all but name (mergekit's threshold too).
_PARALLEL = 0.9995
# Relatives lie far above, networks trained apart far below; as in reports.
_RELATED = 0.5
# Strings that YAML reads as strings without quotes.
_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_NO_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
# Half the weight is chance.
_OPPOSED = 0.55
# How much of a's change from the base is added to b.
_LAMBDA = {"few-step": 1.0, "balanced": 0.8, "quality": 0.6}


class _Rule(NamedTuple):
    """One rule: where, what happens there, and why."""

    where: str
    action: dict[str, Any]
    why: Sequence[str]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A recipe to start with.

    Attributes:
        recipe: the recipe, checked.
        text: the same as commented YAML.
        goal: what it aims at.
        evidence: what was measured, in the order of the comments.
    """

    recipe: Recipe
    text: str
    goal: Goal
    evidence: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the commented YAML; the file appears whole or not at all."""
        write_whole(path, self.text)
        return Path(path)


def suggest(
    a: str | os.PathLike[str] | Analysis,
    b: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    *,
    goal: Goal = "balanced",
    layout: str = "auto",
    **run: Unpack[RunArguments],
) -> Suggestion:
    """Suggest a recipe for two models, on the evidence of an analysis.

    Args:
        a: the model whose few steps are to be kept (schnell): a file or folder; or an `Analysis`,
            or the path of one saved as JSON, and nothing else.
        b: the model whose look is wanted (Krea).
        base: a model both come from (dev).
        goal: `few-step` stays near a, `quality` near b, `balanced` between them.
        layout: as in `analyze`.
        **run: how to run, see `RunOptions`.

    Raises:
        RecipeError: an unknown goal, one model alone, or a file that is no analysis.
        SubmergeError, OSError: as `analyze`.
    """
    if goal not in get_args(Goal):
        raise RecipeError(f"goal: expected one of {', '.join(get_args(Goal))}, got `{goal}`")
    if isinstance(a, Analysis):
        return _suggestion(a, goal)
    if b is None:
        if not str(a).endswith(".json"):
            raise RecipeError("suggest: one model, expected two, or a saved analysis")
        return _suggestion(Analysis.load(a), goal)
    return _suggestion(analyze(a, b, base, layout=layout, **run), goal)


def _suggestion(found: Analysis, goal: Goal) -> Suggestion:
    """Return the recipe for an analysis: safe copies first, then what the goal asks for."""
    strategy = _arithmetic if "base" in found.models else _curves
    if goal == "few-step" and "base" not in found.models and _stack(found, "single"):
        strategy = _hybrid
    top, why, rules = strategy(found, goal)
    rules = [*_unsound(found), *_identical(found), *rules]
    evidence = (*_overview(found), *why, *(line for rule in rules for line in rule.why))
    lines = [f"# Suggested by submerge for the goal: {goal}.", f"# {_ROLES}"]
    lines += [f"# {line}" for line in (*_overview(found), *_UNKNOWN)]
    lines += ["models:"]
    for role, name in _order(found):
        source: Any = os.path.abspath(found.paths[role])  # noqa: PTH100 - symlinks stay
        if found.layout != "auto":
            source = {"path": source, "layout": found.layout}
        lines.append(f"  {name}: {_flow(source)}")
    lines += ["", *(f"# {line}" for line in why)]
    lines += [f"{field}: {_flow(value)}" for field, value in top.items()]
    if rules:
        lines += ["", "# The first rule that matches decides.", "rules:"]
    for rule in rules:
        lines += [f"  # {line}" for line in rule.why]
        lines.append(f"  - {_flow({'where': rule.where} | rule.action)}")
    text = "\n".join(lines) + "\n"
    return Suggestion(Recipe.load(text), text, goal, evidence)


_ROLES = "a is the model whose few steps are kept, b the one whose look is wanted."
_UNKNOWN = (
    "What this does not know: no image was made. The numbers below are of weights alone; how many",
    "steps the result needs and how it looks only pictures tell. Change one rule at a time.",
)


def _order(found: Analysis) -> list[tuple[str, str]]:
    """Return the models as the recipe lists them: a then b, so that alpha is b's share."""
    return [(role, found.models[role]) for role in ("a", "b", "base") if role in found.models]


def _overview(found: Analysis) -> list[str]:
    """Return what holds for the whole of the two models."""
    total, a, b = found.total(), found.models["a"], found.models["b"]
    lines = [f"a = {a}, b = {b}: {_apart(total)}"]
    if total.cosine is not None and total.cosine < _RELATED:
        lines.append(
            "WARNING: relatives have a cosine of 0.9 or more; networks trained apart do not merge "
            "into one that works"
        )
    if total.effective_rank is not None and total.rank_share is not None:
        lines.append(
            f"b - a has an effective rank of {total.effective_rank:.0f} on average, "
            f"{total.rank_share:.0%} of what noise of these shapes has"
        )
    if "base" in found.models:
        lines.append(f"from {found.models['base']}: {_agreement(total)}")
    return lines


def _apart(sums: Sums) -> str:
    """Return how far apart two models are, in words."""
    if sums.cosine is None or sums.relative_delta is None or sums.norm_ratio is None:
        return "one of them is zero"
    return (
        f"cosine {sums.cosine:.5f}, |b - a| is {sums.relative_delta:.2%} of |a|, "
        f"|b| is {sums.norm_ratio:.4f} of |a|"
    )


def _agreement(sums: Sums) -> str:
    """Return how the changes from a base agree, in words."""
    if sums.delta_cosine is None or sums.sign_conflict_weighted is None:
        return "only one of the two changed anything"
    return (
        f"the changes have the cosine {sums.delta_cosine:+.3f} and oppose each other in "
        f"{sums.sign_conflict_weighted:.1%} of their weight"
    )


def _unsound(found: Analysis) -> list[_Rule]:
    """Keep units that are not finite in one model out of the result, if the other's are."""
    roles = {name: role for role, name in found.models.items()}
    bad: dict[str, set[str]] = {}
    for spot in found.nonfinite:
        bad.setdefault(spot.unit, set()).add(roles[spot.model])
    rules = []
    for unit, broken in bad.items():
        sound = [role for role in ("a", "b") if role not in broken]
        held = ", ".join(found.models[role] for role in sorted(broken))
        why = f"{held}: {quoted(unit)} holds elements that are not finite"
        if sound:
            rules.append(_Rule(unit, {"take": found.models[sound[0]]}, [why]))
    return rules


def _identical(found: Analysis) -> list[_Rule]:
    """Copy parts that are the same in both models; there is nothing to merge in them."""
    same = [r for r in found.rows if r.sums.identical_units == r.sums.units and r.part != "other"]
    if len(same) == len(found.rows):
        return []
    return [
        _Rule(where, {"take": found.models["a"]}, [f"identical in both: {counted(units, 'unit')}"])
        for where, units in _selectors(same, found.rows)
    ]


def _hybrid(found: Analysis, goal: Goal) -> tuple[dict[str, Any], list[str], list[_Rule]]:
    """Double blocks of b on everything else of a: copies only, nothing is averaged."""
    del goal
    a, b = found.models["a"], found.models["b"]
    why = [
        "Blocks taken whole: nothing is averaged, so what remains of a is exactly a. A merge of",
        "dev's double blocks onto schnell is published as working at 4 to 8 steps; here a keeps",
        "its modulation too.",
    ]
    rules = [
        _Rule("double[*].*.mod", {"take": a}, _evidence(found, "double", "mod", "modulation: ")),
        _Rule("double", {"take": b}, _evidence(found, "double", None, "the look: ")),
    ]
    return {"take": a}, why, [rule for rule in rules if _reaches(found, rule.where)]


def _curves(found: Analysis, goal: Goal) -> tuple[dict[str, Any], list[str], list[_Rule]]:
    """Weighted sums, or slerps where the directions differ enough to matter, block by block."""
    share = {"few-step": 0.25, "balanced": 0.5, "quality": 0.7}[goal]
    total = found.total()
    top, why = _blend(total, share)
    a, b = found.models["a"], found.models["b"]
    keeper = b if goal == "quality" else a
    rules = [
        _Rule("embed.time", {"take": keeper}, ["the timing of steps is learned here"]),
        _Rule("final", {"take": keeper}, _evidence(found, "final", None, "the last word: ")),
    ]
    plain = (
        ("double[*].*.mod", "double", "mod", share * 0.2),
        ("single[*].mod", "single", "mod", share * 0.2),
        ("double", "double", None, {"from": share - 0.2, "to": share + 0.1}),
        ("single", "single", None, {"from": share, "to": share - 0.2}),
    )
    for where, stack, part, alpha in plain:
        sums = _stack(found, stack, part)
        if sums is not None:
            words = "modulation steers the steps: " if part else "a curve over the blocks: "
            action, reason = _blend(sums, alpha)
            rules.append(_Rule(where, action, [*_evidence(found, stack, part, words), *reason]))
    return top, why, [rule for rule in rules if _reaches(found, rule.where)]


def _arithmetic(found: Analysis, goal: Goal) -> tuple[dict[str, Any], list[str], list[_Rule]]:
    """b, and on top what a learned beyond the base: acceleration arithmetic."""
    a, b, base = (found.models[role] for role in ("a", "b", "base"))
    total = found.total()
    scale = _LAMBDA[goal]
    why = [
        f"{b} + lambda * ({a} - {base}): what a learned on top of the base is added to b. The way",
        "distilled few-step changes are moved between relatives of one base.",
    ]
    if (total.sign_conflict_weighted or 0.0) > _OPPOSED:
        scale = round(scale - 0.2, 2)
        why.append(f"lambda is lowered by 0.2: {_agreement(total)}")
    else:
        why.append(f"lambda {scale:g} for this goal: {_agreement(total)}")
    weights = {b: 1.0, a: scale, base: -scale}
    top = {"method": {"linear": {"weight": weights, "normalize": False}}}
    unchanged = [
        row
        for row in found.rows
        if row.sums.based == row.sums.elements
        and row.sums.delta2_a == 0
        and row.sums.identical_units < row.sums.units
        and row.part != "other"
    ]
    rules = [
        _Rule(where, {"take": b}, [f"a never left the base here: {counted(units, 'unit')}"])
        for where, units in _selectors(unchanged, found.rows)
    ]
    if goal == "quality" and _stack(found, "double"):
        rules.append(_Rule("double", {"take": b}, _evidence(found, "double", None, "b's, whole: ")))
    if "b" in found.guided:
        rules.append(_Rule("guidance", {"take": b}, ["b was trained with this guidance"]))
    return top, why, rules


def _blend(sums: Sums, alpha: Any) -> tuple[dict[str, Any], list[str]]:
    """Return `alpha`, or a slerp where the angle is wide enough, and why."""
    if isinstance(alpha, dict):
        alpha = {end: round(value, 3) for end, value in alpha.items()}
    else:
        alpha = round(alpha, 3)
    cosine = sums.cosine
    if cosine is None or cosine >= _PARALLEL or cosine <= 0:
        shown = "no cosine" if cosine is None else f"cosine {cosine:.5f}"
        return {"alpha": alpha}, [f"{shown}: slerp would be the same weighted sum, or worse"]
    shrunk = 1 - ((1 + cosine) / 2) ** 0.5
    why = f"cosine {cosine:.5f}: half way a sum is {shrunk:.2%} shorter than either, a slerp not"
    return {"method": {"slerp": {"alpha": alpha}}}, [why]


def _stack(found: Analysis, stack: str, part: str | None = None) -> Sums | None:
    """Return the sums of a stack, or of one part of it; None where there is nothing."""
    rows = [
        row.sums
        for row in found.rows
        if row.block.partition(".")[0] == stack and part in (None, row.part)
    ]
    total = Sums()
    for sums in rows:
        total = total.plus(sums)
    return total if rows else None


def _evidence(found: Analysis, stack: str, part: str | None, words: str) -> list[str]:
    """Return how far apart the models are in a stack, and where the most."""
    sums = _stack(found, stack, part)
    if sums is None:
        return []
    lines = [words + _apart(sums)]
    blocks: dict[str, Sums] = {}
    for row in found.rows:
        if row.block.startswith(stack + ".") and part in (None, row.part):
            blocks[row.block] = blocks.get(row.block, Sums()).plus(row.sums)
    measured = {name: sums.relative_delta or 0.0 for name, sums in blocks.items()}
    if len(measured) > 1:
        low, high = (pick(measured, key=lambda name: measured[name]) for pick in (min, max))
        lines.append(f"least in {low}, {measured[low]:.2%}; most in {high}, {measured[high]:.2%}")
    return lines


def _reaches(found: Analysis, where: str) -> bool:
    """Tell whether a selector of this module reaches anything of the models."""
    stack = where.partition("[")[0].partition(".")[0]
    part = "mod" if where.endswith(".mod") else None
    return _stack(found, stack, part) is not None


def _selectors(chosen: Iterable[BlockRow], rows: Iterable[BlockRow]) -> list[tuple[str, int]]:
    """Return selectors for rows, with the units each reaches; whole stacks lose their indices."""
    deep: dict[tuple[str, str, str], int] = {}
    for row in rows:
        deep[_column(row)] = deep.get(_column(row), 0) + 1
    indices: dict[tuple[str, str, str], list[str]] = {}
    units: dict[tuple[str, str, str], int] = {}
    for row in chosen:
        column, index = _column(row), row.block.partition(".")[2]
        indices.setdefault(column, []).append(index)
        units[column] = units.get(column, 0) + row.sums.units
    found: dict[str, int] = {}
    for (stack, stream, part), some in indices.items():
        inside = "*" if len(some) == deep[stack, stream, part] else ",".join(some)
        beside = [one for of, one, _ in deep if of == stack and one]
        alike = all(indices.get((stack, one, part)) == some for one in beside)
        word = "*" if beside and alike else stream
        where = ".".join(filter(None, (f"{stack}[{inside}]", word, part)))
        where = where if some != [""] else stack
        found[where] = found.get(where, 0) + units[stack, stream, part]
    return list(found.items())


def _column(row: BlockRow) -> tuple[str, str, str]:
    """Return stack, stream and part of a row."""
    return row.block.partition(".")[0], row.stream, row.part


def _flow(value: Any) -> str:
    """Return a value as YAML on one line, words without quotes where they read as words."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NO_WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
