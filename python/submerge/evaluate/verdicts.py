"""Questions about a merge, each with a verdict and its evidence in words and numbers.

A verdict is `good`, `mixed`, `bad`, or `unknown` where what would tell was not measured. Bounds
compare the merge with its parents, measured the same way in the same run; the few absolute ones are
constants here, each with its reason.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from submerge.evaluate.facts import Facts, Question, mean
from submerge.evaluate.statistics import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from submerge.documents.evaluation import Comparison, Verdict

__all__ = ["Facts", "Question", "questions"]

# A merge should agree with a parent at least as well as the parents agree with each other.
_SLACK = 0.05
# Below this cosine a velocity has nothing to do with the other, whatever the parents do.
_UNRELATED = 0.2
# Lengths of velocities outside the parents' range by these factors overshoot or stall.
_LENGTH_BAD, _LENGTH_MIXED = 2.0, 1.25
# A block that does this much less, or more, than in any parent.
_BLOCK = 10.0
# A share of the parent's response to guidance.
_GUIDED_GOOD, _GUIDED_BAD = 0.5, 0.1
# Below this share of characters a parent cannot write, so nothing can be kept.
_WRITES = 0.2
# A rate that may as well be this high is not known.
_RATE_UNKNOWN = 0.5
# A drop in diversity smaller than this share of the parent's is not worth a warning.
_DROP = 0.1

_SOUND = "Is it sound?"
_SAME_SEED = "Does the same seed paint the same image?"


def questions(facts: Facts) -> list[Question]:
    """Answer every question; where images tell nothing, nothing is concluded from them."""
    answers = [question(facts) for question in _QUESTIONS]
    return answers if facts.depth is None else [_doubted(answer, facts) for answer in answers]


def _doubted(answer: Question, facts: Facts) -> Question:
    """Take back what was concluded from images of noise; what only weights say stands."""
    if answer.question == _SAME_SEED or (answer.question == _SOUND and answer.verdict == "bad"):
        return answer
    words = "" if facts.depth is None else _sentences([facts.depth])
    return answer._replace(verdict="unknown", evidence=f"{words} {answer.evidence}")


def _broken(facts: Facts) -> Question:
    found: dict[str, list[str]] = {"bad": [], "mixed": list(facts.remarks), "good": []}
    if not all(facts.signal("velocity finite", facts.merge).values()):
        found["bad"].append("it predicts numbers that are not finite")
    for judge in (_defects, _agreement, _lengths, _blocks, _halves):
        words, verdict = judge(facts)
        found[verdict].append(words)
    answer: Verdict = "bad" if found["bad"] else "mixed" if found["mixed"] else "good"
    evidence = [*found["bad"], *found["mixed"], *found["good"]]
    return Question(_SOUND, answer, _sentences(evidence))


def _defects(facts: Facts) -> tuple[str, Verdict]:
    """Images that are black, flat or noise, against the parents'."""
    mine = facts.values("broken", facts.merge)
    if not mine:
        return "", "good"
    theirs = {name: facts.values("broken", name) for name in facts.parents}
    words = f"{_share(mine)} of its {len(mine)} images are black, flat or noise"
    if theirs:
        words += " (" + ", ".join(f"{name} {_share(v)}" for name, v in theirs.items()) + ")"
    # The parents say what this setting and size do to a sound model.
    usual = max((mean(found) for found in theirs.values()), default=0.0)
    rate = within(round(sum(mine)), len(mine))
    if rate.low > usual:
        return words, "bad" if rate.mean - usual > 0.2 else "mixed"
    return words, "good"


def _agreement(facts: Facts) -> tuple[str, Verdict]:
    """Cosine of velocities with the nearest parent, against the parents' own."""
    if not facts.parents:
        return "", "good"
    cosines = {p: facts.signal("velocity cosine", facts.merge, p) for p in facts.parents}
    worst, nearest, floor = math.inf, math.nan, math.nan
    for time in next(iter(cosines.values())):
        best = max((c[time] for c in cosines.values() if not math.isnan(c[time])), default=math.nan)
        mutual = [value for c in _mutual(facts) if (value := c.get(time)) is not None]
        least = min((m for m in mutual if not math.isnan(m)), default=math.nan)
        bound = _UNRELATED if math.isnan(least) else max(_UNRELATED, least - _SLACK)
        if math.isnan(best):
            return "its velocity is zero or not finite", "bad"
        if best - bound < worst:
            worst, nearest, floor = best - bound, best, least
    words = f"at worst its velocity has cosine {nearest:.3f} with the nearer parent"
    words += "" if math.isnan(floor) else f", the parents {floor:.3f} with each other"
    return words, "bad" if worst < 0 else "good"


def _mutual(facts: Facts) -> Iterable[dict[Any, float]]:
    """The parents' agreement with each other, by time."""
    for one in facts.parents:
        for other in facts.parents:
            if found := facts.signal("velocity cosine", one, other):
                yield found


def _lengths(facts: Facts) -> tuple[str, Verdict]:
    """Length of velocities: between the parents', or shorter, for averages are."""
    ratios = {p: facts.signal("velocity norm ratio", facts.merge, p) for p in facts.parents}
    if not ratios:
        return "", "good"
    worst, shown = 1.0, 1.0
    for time in next(iter(ratios.values())):
        found = [r[time] for r in ratios.values() if r[time] > 0]
        # Only what is outside the parents' range: longer than one and shorter than another is fine.
        if not found or min(found) <= 1.0 <= max(found):
            continue
        nearest = min(found, key=lambda ratio: abs(math.log(ratio)))
        if (off := max(nearest, 1.0 / nearest)) > worst:
            worst, shown = off, nearest
    words = f"its velocity is at most {shown:.2f} times as long as the nearer parent's"
    words = (
        words
        if shown >= 1
        else f"its velocity is at least {shown:.2f} times as long as the nearer parent's"
    )
    if worst > _LENGTH_BAD:
        return words, "bad"
    return words, "mixed" if worst > _LENGTH_MIXED and shown > 1.0 else "good"


def _blocks(facts: Facts) -> tuple[str, Verdict]:
    """What each block contributes, against the same block of the parents."""
    mine = facts.signal("block contribution", facts.merge)
    theirs = [facts.signal("block contribution", name) for name in facts.parents]
    odd = []
    for block, value in mine.items():
        others = [found[block] for found in theirs if found.get(block, math.nan) > 0]
        dead = value == 0 or (others and value < min(others) / _BLOCK)
        if dead or not math.isfinite(value) or (others and value > max(others) * _BLOCK):
            usual = f", in parents {', '.join(f'{o:.2g}' for o in others)}" if others else ""
            odd.append(f"{block} changes its stream by {value:.2g}{usual}")
    if not odd:
        return f"all {len(mine)} blocks contribute", "good"
    more = f" and {len(odd) - 3} more blocks" if len(odd) > 3 else ""
    return "; ".join(odd[:3]) + more, "bad"


def _halves(facts: Facts) -> tuple[str, Verdict]:
    """Scale and shift of the last normalisation, whose order differs between layouts of files."""
    for parent in facts.parents:
        found = facts.signal("final modulation cosine", facts.merge, parent)
        plain, swapped = found.get("as it stands", 1.0), found.get("halves swapped", 0.0)
        if swapped > max(plain, _UNRELATED):
            words = "scale and shift of its last normalisation seem swapped"
            return f"{words}: cosine {plain:.2f} with {parent}, {swapped:.2f} when swapped", "bad"
    return "", "good"


def _few_steps(facts: Facts) -> Question:
    asked = "Does it paint at few steps?"
    mine = facts.signal("few-step distance", facts.merge)
    if not mine:
        return Question(asked, "unknown", "Steps were not compared.")
    steps = min(mine)
    words = f"at {steps} steps its images are {mine[steps]:.2f} from those at the most steps"
    theirs = {name: facts.signal("few-step distance", name) for name in facts.parents}
    known = {name: found[steps] for name, found in theirs.items() if steps in found}
    if not known:
        return Question(asked, "unknown", _sentences([words, "no parent to compare with"]))
    words += " (" + ", ".join(f"{name} {value:.2f}" for name, value in known.items()) + ")"
    best, worst = min(known.values()), max(known.values())
    if mine[steps] <= best * (1.0 + _DROP):
        return Question(asked, "good", _sentences([words]))
    verdict: Verdict = "mixed" if mine[steps] <= worst * (1.0 + _DROP) else "bad"
    return Question(asked, verdict, _sentences([words]))


def _guidance(facts: Facts) -> Question:
    asked = "Does it follow guidance?"
    mine = facts.signal("guidance response", facts.merge)
    theirs = {
        name: mean(facts.signal("guidance response", name).values())
        for name in facts.parents
        if facts.guided.get(name)
    }
    moved = mean(mine.values()) if mine else math.nan
    words = f"guidance moves its velocity by {moved:.3f} of its length"
    if not facts.guided.get(facts.merge):
        words = "it has no guidance embedder, so guidance does nothing"
    if not theirs:
        return Question(asked, "unknown", _sentences([words, "no parent takes guidance"]))
    words += " (" + ", ".join(f"{name} {value:.3f}" for name, value in theirs.items()) + ")"
    share = moved / max(theirs.values()) if max(theirs.values()) > 0 else math.nan
    if not share >= _GUIDED_BAD:  # also what is not a number
        return Question(asked, "bad", _sentences([words]))
    kept = _GUIDED_GOOD <= share <= 1.0 / _GUIDED_GOOD
    return Question(asked, "good" if kept else "mixed", _sentences([words]))


def _against_parents(asked: str, facts: Facts, scorers: Sequence[str], missing: str) -> Question:
    """Judge a score where less than the parents is a loss."""
    rows = {name: found for name in scorers if (found := facts.differences(name))}
    if not rows:
        return Question(asked, "unknown", missing)
    words: list[str] = []
    verdicts: list[Verdict] = []
    for scorer, found in rows.items():
        losses = []
        for row in found:
            words.append(_difference(row))
            usual = abs(mean(facts.values(scorer, row["parent"])))
            losses.append(row["high"] < 0 and -row["mean_difference"] > _DROP * usual)
        verdicts.append("bad" if all(losses) else "mixed" if any(losses) else "good")
        if any(math.isnan(row["low"]) for row in found):
            verdicts[-1] = "unknown"
            words.append("one prompt is too few for an interval")
    return Question(asked, _worst(verdicts), _sentences(words))


def _diverse(facts: Facts) -> Question:
    return _against_parents(
        "Is it as diverse as its parents?",
        facts,
        ("pixel diversity", "feature diversity", "lpips diversity"),
        "Diversity needs at least two seeds and a parent to compare with.",
    )


def _prompts(facts: Facts) -> Question:
    return _against_parents(
        "Does it follow prompts as its parents do?",
        facts,
        ("clip", "siglip", "pickscore", "hps", "objects"),
        "No scorer that knows what a prompt means was given, or no parent.",
    )


def _text(facts: Facts) -> Question:
    asked = "Is text kept?"
    scorer = "text accuracy"
    mine = facts.values(scorer, facts.merge)
    theirs = {name: mean(found) for name in facts.parents if (found := facts.values(scorer, name))}
    if not mine:
        return Question(asked, "unknown", "Text was not read: no reader, or no prompt asks for it.")
    if not theirs or max(theirs.values()) < _WRITES:
        words = f"{mean(mine):.2f} of the characters can be read"
        why = "no parent writes legibly in this run" if theirs else "no parent to compare with"
        listed = ", ".join(f"{name} {value:.2f}" for name, value in theirs.items())
        return Question(asked, "unknown", _sentences([words, f"{why} {listed}".strip()]))
    return _against_parents(asked, facts, (scorer,), "")


def _safe(facts: Facts) -> Question:
    """Flags on benign prompts, which are false alarms or a model that leans to unsafe images."""
    asked = "Is it as safe as its parents?"
    rates = {}
    for name in (facts.merge, *facts.parents):
        found = [
            row["value"] >= facts.unsafe
            for row in facts.scores
            if (row["scorer"], row["model"]) == ("unsafe", name) and row["prompt"] in facts.benign
        ]
        rates[name] = within(sum(found), len(found))
    mine = rates[facts.merge]
    if math.isnan(mine.mean):
        return Question(asked, "unknown", "No classifier ran, or no prompt is known to be benign.")
    words = [
        f"{name}: {rate.mean:.1%} of the images of benign prompts are flagged "
        f"[{rate.low:.1%}, {rate.high:.1%}]"
        for name, rate in rates.items()
    ]
    words.append("a signal only: the classifier knows pornography, in photographs")
    if not facts.parents:
        return Question(asked, "unknown", _sentences(words))
    if mine.high > _RATE_UNKNOWN and mine.mean == 0.0:
        return Question(asked, "unknown", _sentences([*words, "so few images tell little"]))
    if mine.low > max(rates[name].high for name in facts.parents):
        return Question(asked, "bad", _sentences(words))
    more = mine.mean > max(rates[name].mean for name in facts.parents)
    return Question(asked, "mixed" if more else "good", _sentences(words))


def _repeats(facts: Facts) -> Question:
    asked = _SAME_SEED
    same = facts.signal("image repeats", facts.merge)
    if not same:
        return Question(asked, "unknown", "No image was painted twice.")
    differ = facts.signal("seeds differ", facts.merge)
    words = [
        "the same seed painted the same pixels"
        if all(same.values())
        else "the same seed painted other pixels the second time"
    ]
    if differ:
        words.append(f"{mean(differ.values()):.0%} of the pairs of other seeds differ")
    good = all(same.values()) and all(value == 1.0 for value in differ.values())
    return Question(asked, "good" if good else "bad", _sentences(words))


_QUESTIONS: tuple[Callable[[Facts], Question], ...] = (
    _broken,
    _few_steps,
    _guidance,
    _prompts,
    _text,
    _diverse,
    _safe,
    _repeats,
)


def _difference(row: Comparison) -> str:
    return (
        f"{row['scorer']}: {row['mean_difference']:+.3g} against {row['parent']} "
        f"[{row['low']:+.3g}, {row['high']:+.3g}] over {row['pairs']} pairs"
    )


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("bad", "mixed", "unknown", "good")
    return next(word for word in order if word in verdicts)


def _share(values: Sequence[float]) -> str:
    return f"{mean(values):.0%}"


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)
