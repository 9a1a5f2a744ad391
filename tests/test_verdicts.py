"""What is concluded from the numbers of an evaluation, and what is not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from submerge.evaluate.verdicts import Facts, questions

TIMES = (1.0, 0.5)


def facts(**changes: Any) -> Facts:
    """A sound merge `m` between the parents `s` (without guidance) and `k`."""
    signals: list[tuple[Any, ...]] = []
    for model, against, cosine in (("m", "s", 0.97), ("m", "k", 0.96), ("s", "k", 0.93)):
        for time in TIMES:
            signals.append(("velocity cosine", model, against, time, cosine))
            signals.append(("velocity norm ratio", model, against, time, 0.99))
        for x, value in (("as it stands", 0.98), ("halves swapped", 0.1)):
            signals.append(("final modulation cosine", model, against, x, value))
    for model, response, few in (("m", 0.09, 0.2), ("s", 0.0, 0.1), ("k", 0.1, 0.6)):
        signals += [
            ("guidance response", model, None, 7.0, response),
            ("few-step distance", model, None, 4, few),
            ("block contribution", model, None, "double.0", 0.1),
            ("block contribution", model, None, "single.0", 0.2),
            ("velocity finite", model, None, None, 1.0),
            ("image repeats", model, None, None, 1.0),
            ("seeds differ", model, None, None, 1.0),
        ]
    names = ("signal", "model", "against", "x", "value")
    rows = [dict(zip(names, row, strict=True)) for row in signals]
    for (signal, model, x), value in changes.pop("signals", {}).items():
        for row in rows:
            if (row["signal"], row["model"]) == (signal, model) and x in (None, row["x"]):
                row["value"] = value
    known: dict[str, Any] = {
        "merge": "m",
        "parents": ["s", "k"],
        "guided": {"m": True, "s": False, "k": True},
        "scores": [],
        "comparisons": [],
        "signals": rows,
        "benign": frozenset({"swimmer"}),
        "unsafe": 0.8,
    }
    return Facts(**known | changes)


def verdict(asked: str, found: Facts) -> str:
    return next(q.verdict for q in questions(found) if asked in q.question)


def scores(scorer: str, **values: list[float]) -> list[dict[str, Any]]:
    return [
        {"scorer": scorer, "model": model, "prompt": "swimmer", "seed": seed, "value": value}
        for model, some in values.items()
        for seed, value in enumerate(some)
    ]


def differences(scorer: str, s: tuple[float, float, float], k: tuple[float, float, float]) -> Any:
    return [
        {"scorer": scorer, "parent": parent, "mean_difference": mean, "low": low, "high": high,
         "pairs": 9, "win_rate": 0.5}
        for parent, (mean, low, high) in (("s", s), ("k", k))
    ]  # fmt: skip


def test_a_sound_merge_is_found_sound() -> None:
    found = {question.question: question.verdict for question in questions(facts())}
    assert found["Is it sound?"] == "good"
    assert found["Does it follow guidance?"] == "good"
    assert found["Does the same seed paint the same image?"] == "good"
    # Nothing is claimed about what was not scored.
    assert found["Is text kept?"] == "unknown"
    assert found["Is it as diverse as its parents?"] == "unknown"
    assert found["Is it as safe as its parents?"] == "unknown"
    assert found["Does it follow prompts as its parents do?"] == "unknown"


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        ({("velocity cosine", "m", None): 0.85}, "bad"),  # further off than the parents are
        ({("velocity cosine", "m", 0.5): 0.5}, "bad"),  # at one time only
        ({("velocity cosine", "m", None): math.nan}, "bad"),
        ({("velocity norm ratio", "m", None): 2.5}, "bad"),
        ({("velocity norm ratio", "m", None): 0.4}, "bad"),
        ({("velocity norm ratio", "m", None): 1.4}, "mixed"),
        ({("velocity norm ratio", "m", None): 0.7}, "good"),  # an average is shorter
        ({("block contribution", "m", "double.0"): 0.0}, "bad"),
        ({("block contribution", "m", "double.0"): 1.5}, "bad"),
        ({("block contribution", "m", "double.0"): math.nan}, "bad"),
        ({("block contribution", "m", "double.0"): 0.03}, "good"),
        ({("velocity finite", "m", None): 0.0}, "bad"),
        ({("final modulation cosine", "m", "halves swapped"): 0.99}, "bad"),
    ],
)
def test_what_is_not_sound(signals: dict[Any, float], expected: str) -> None:
    assert verdict("sound", facts(signals=signals)) == expected


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([1.0] * 8, [0.0] * 8, "bad"),
        ([1.0] * 8, [1.0] * 8, "unknown"),  # at this setting the parents paint nothing either
        ([0.0] * 8, [1.0] * 8, "unknown"),
        ([0.0] * 8, [1.0] * 3 + [0.0] * 5, "good"),
        ([1.0] + [0.0] * 63, [0.0] * 64, "mixed"),
    ],
)
def test_broken_images(mine: list[float], theirs: list[float], expected: str) -> None:
    rows = scores("broken", m=mine, s=theirs, k=theirs)
    assert verdict("sound", facts(scores=rows)) == expected


@pytest.mark.parametrize(("few", "expected"), [(0.1, "good"), (0.3, "mixed"), (0.9, "bad")])
def test_few_steps(few: float, expected: str) -> None:
    found = facts(signals={("few-step distance", "m", 4): few})
    assert verdict("few steps", found) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (0.1, "good"),
        (0.06, "good"),
        (0.03, "mixed"),
        (0.5, "mixed"),
        (0.0, "bad"),
        (math.nan, "bad"),
    ],
)
def test_guidance(response: float, expected: str) -> None:
    found = facts(signals={("guidance response", "m", None): response})
    assert verdict("guidance", found) == expected


def test_guidance_without_a_parent_that_takes_it() -> None:
    assert verdict("guidance", facts(guided={"m": False, "s": False, "k": False})) == "unknown"


@pytest.mark.parametrize(
    ("s", "k", "expected"),
    [
        ((0.0, -0.1, 0.1), (0.1, 0.0, 0.2), "good"),
        ((-0.4, -0.5, -0.3), (0.1, 0.0, 0.2), "mixed"),
        ((-0.4, -0.5, -0.3), (-0.4, -0.5, -0.3), "bad"),
        ((-0.01, -0.02, -0.001), (-0.01, -0.02, -0.001), "good"),  # sure, but too little to matter
        ((-0.4, math.nan, math.nan), (-0.4, math.nan, math.nan), "unknown"),
    ],
)
def test_diversity(s: Any, k: Any, expected: str) -> None:
    rows = scores("pixel diversity", m=[0.6], s=[1.0], k=[1.0])
    found = facts(scores=rows, comparisons=differences("pixel diversity", s, k))
    assert verdict("diverse", found) == expected


def test_text_that_no_parent_can_write_cannot_be_kept() -> None:
    lost = differences("text accuracy", (-0.8, -0.9, -0.7), (-0.8, -0.9, -0.7))
    able = scores("text accuracy", m=[0.1], s=[0.9], k=[0.9])
    assert verdict("text", facts(scores=able, comparisons=lost)) == "bad"
    unable = scores("text accuracy", m=[0.0], s=[0.1], k=[0.0])
    assert verdict("text", facts(scores=unable, comparisons=lost)) == "unknown"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([0.1] * 40, "good"), ([0.9] * 3 + [0.1] * 37, "mixed"), ([0.9] * 30 + [0.1] * 10, "bad")],
)
def test_safety(flags: list[float], expected: str) -> None:
    rows = scores("unsafe", m=flags, s=[0.1] * 40, k=[0.1] * 40)
    assert verdict("safe", facts(scores=rows)) == expected
    assert verdict("safe", facts(scores=rows, benign=frozenset())) == "unknown"


NOISE = [1.0] * 8


def test_nothing_is_concluded_from_images_of_noise() -> None:
    rows = scores("broken", m=NOISE, s=NOISE, k=NOISE)
    answers = {q.question: q for q in questions(facts(scores=rows))}
    judged = {name: answer.verdict for name, answer in answers.items()}
    assert judged.pop("Does the same seed paint the same image?") == "good"
    assert set(judged.values()) == {"unknown"}
    few = answers["Does it paint at few steps?"].evidence
    assert few.startswith("What its parents paint is black, flat or noise as well (s 100%, k 100%")
    assert "At 4 steps" in few  # what was measured is still told


def test_one_parent_that_paints_is_enough_to_compare_with() -> None:
    rows = scores("broken", m=[0.0] * 8, s=[0.0] * 8, k=NOISE)
    assert verdict("sound", facts(scores=rows)) == "good"


def test_what_weights_show_to_be_broken_is_bad_among_noise_too() -> None:
    rows = scores("broken", m=NOISE, s=NOISE, k=NOISE)
    found = facts(scores=rows, signals={("velocity finite", "m", None): 0.0})
    assert verdict("sound", found) == "bad"


def test_networks_trained_apart_are_not_called_good() -> None:
    remark = "s and k have the cosine 0.010, relatives 0.9 or more"
    found = facts(remarks=(remark,))
    sound = next(q for q in questions(found) if "sound" in q.question)
    assert sound.verdict == "mixed"
    assert sound.evidence.startswith("S and k have the cosine 0.010, relatives 0.9 or more.")


@pytest.mark.parametrize(("images", "expected"), [(1, "unknown"), (3, "unknown"), (4, "good")])
def test_few_images_say_nothing_about_safety(images: int, expected: str) -> None:
    rows = scores("unsafe", m=[0.1] * images, s=[0.1] * images, k=[0.1] * images)
    assert verdict("safe", facts(scores=rows)) == expected


def test_seeds_that_do_not_repeat_or_do_not_differ() -> None:
    assert verdict("same seed", facts(signals={("image repeats", "m", None): 0.0})) == "bad"
    assert verdict("same seed", facts(signals={("seeds differ", "m", None): 0.5})) == "bad"


def test_evidence_names_the_numbers() -> None:
    found = facts(signals={("block contribution", "m", "double.0"): 0.0})
    sound = next(q for q in questions(found) if "sound" in q.question)
    assert "Double.0 changes its stream by 0, in parents 0.1, 0.1." in sound.evidence
