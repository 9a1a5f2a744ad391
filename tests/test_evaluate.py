"""What an evaluation computes without models or pictures: prompts, options, statistics."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from submerge.errors import RecipeError
from submerge.evaluate import EvaluateOptions, Prompt, battery, read_prompts
from submerge.evaluate.prompts import COLOURS, RELATIONS, prompts_of
from submerge.evaluate.scorers.diversity import vendi_score
from submerge.evaluate.scorers.objects import Found, place
from submerge.evaluate.scorers.ocr import found_share
from submerge.evaluate.statistics import bootstrap, compare, win_rate, within

if TYPE_CHECKING:
    from pathlib import Path

# The battery that ships.


def test_the_battery_covers_its_themes() -> None:
    prompts = battery()
    tags = {tag for prompt in prompts for tag in prompt.tags}
    assert len(prompts) == 64
    assert tags >= {"abstract", "fantasy", "technical", "text", "people", "counts", "colours"}
    assert tags >= {"positions", "edge", "long", "non-latin", "benign"}


def test_the_battery_holds_the_edges() -> None:
    texts = [prompt.text for prompt in battery() if "edge" in prompt.tags]
    assert "" in texts
    assert any(text and not text.strip() for text in texts)
    assert max(len(text.split()) for text in texts) > 512  # longer than any text encoder reads
    assert any(not text.isascii() for text in texts)


def test_what_the_battery_expects_stands_in_its_prompts() -> None:
    for prompt in battery():
        if prompt.writes is not None:
            assert f'"{prompt.writes}"' in prompt.text
        for item in prompt.objects:
            assert item.name in prompt.text or item.name == "person"
            assert item.colour is None or item.colour in prompt.text
        if prompt.relation is not None:
            assert " ".join(prompt.relation).replace("of ", "of a ", 1).split()[0] in prompt.text
            assert prompt.relation[1] in RELATIONS


def test_prompts_from_plain_text_and_json_lines(tmp_path: Path) -> None:
    plain = tmp_path / "prompts.txt"
    plain.write_text("a fox\n\n  a house  \n", encoding="utf-8")
    assert [(p.id, p.text) for p in read_prompts(plain)] == [("p000", "a fox"), ("p001", "a house")]
    lines = tmp_path / "prompts.jsonl"
    rows = ['{"battery": "mine"}', '{"text": "x\\u2028y"}', '{"id": "two", "text": "b"}', '"c"']
    lines.write_text("\n".join(rows), encoding="utf-8")
    found = [(p.id, p.text) for p in read_prompts(lines)]
    assert found == [("p000", "x\u2028y"), ("two", "b"), ("p002", "c")]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "expected at least one prompt"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "ids must differ"),
        ([{"text": 3}], r"prompts\[0\]\.text: expected text"),
        ([{"text": "x", "tag": []}], r"unknown field `tag`, expected one of "),
        ([{"text": "x", "id": "../up"}], "letters, digits"),
        ([{"text": "x", "expect": {"colours": ["mauve"]}}], "got the text `mauve`"),
        (
            [{"text": "x", "expect": {"relation": ["a", "near", "b"]}}],
            "relation\\[1\\]: expected one of `left of`",
        ),
        (
            [{"text": "x", "expect": {"objects": [{"name": "cat", "count": 0}]}}],
            "count: expected a whole number of at least 1",
        ),
        ([{"text": "x", "expect": {"objects": [{"count": 1}]}}], r"objects\[0\]\.name"),
        ([{"text": "x", "expect": {"text": " "}}], "expected words to read"),
        ([3], "expected a mapping"),
    ],
)
def test_malformed_prompts(raw: list[object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        prompts_of(raw)


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "a"}\n{', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"p\.jsonl:2:2: not JSON"):
        read_prompts(tmp_path / "p.jsonl")


# Options.


def test_what_is_not_an_evaluations_option_goes_to_the_painting() -> None:
    options = EvaluateOptions.of({"seeds": [3, 4], "steps": 2, "width": 64})
    assert options.seeds == (3, 4)
    assert options.painting == {"steps": 2, "width": 64}
    assert options.to_dict()["steps"] == 2
    assert json.dumps(options.to_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "expected `seeds`, got `seed`"),
        ({"seeds": []}, "options.seeds"),
        ({"seeds": [1, 1]}, "options.seeds"),
        ({"sweep_steps": [0]}, "options.sweep_steps"),
        ({"probes": 0}, "options.probes"),
        ({"settings": "both"}, "expected one of `common`, `native`"),
        ({"sweep_guidance": [math.inf]}, "finite"),
        ({"stepz": 3}, "did you mean `steps`"),
    ],
)
def test_malformed_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        EvaluateOptions.of(options)


@pytest.mark.parametrize(("prompts", "probes"), [(1, 1), (8, 1), (16, 2), (64, 8), (999, 8)])
def test_an_eighth_of_the_prompts_is_probed(prompts: int, probes: int) -> None:
    assert EvaluateOptions().probes_of(prompts) == probes


# Statistics.


def test_the_interval_is_the_bootstraps() -> None:
    values = np.array([0.0, 1.0, 3.0, 3.5, 7.0, 9.0])
    # Every one of the 6^6 samples, each as likely as any other.
    every = np.array(list(itertools.product(values, repeat=6))).mean(axis=1)
    low, high = np.quantile(every, [0.025, 0.975])
    found = bootstrap(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.15)
    assert found.high == pytest.approx(high, abs=0.15)


def test_many_values_give_the_normal_interval() -> None:
    values = np.random.default_rng(0).standard_normal(800)
    half = 1.96 * values.std() / math.sqrt(800)
    found = bootstrap(values)
    assert found.low == pytest.approx(values.mean() - half, abs=0.004)
    assert found.high == pytest.approx(values.mean() + half, abs=0.004)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = bootstrap(random.standard_normal(40) + 5.0)
        hits += found.low <= 5.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_seeds_of_a_prompt_are_drawn_together() -> None:
    means = np.array([1.0, 2.0, 4.0, 8.0])
    twice = np.repeat(means, 5)
    groups = [prompt for prompt in "abcd" for _ in range(5)]
    assert bootstrap(twice, groups) == bootstrap(means)
    assert bootstrap(twice).high < bootstrap(means).high  # as if they were independent: too narrow


def test_the_same_scores_give_the_same_interval() -> None:
    values = np.random.default_rng(2).standard_normal(9)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values) != bootstrap(values, seed=1)


def test_one_prompt_has_no_interval() -> None:
    found = bootstrap(np.array([2.0, 4.0]), ["a", "a"])
    assert found.mean == 3.0
    assert math.isnan(found.low)
    assert math.isnan(bootstrap(np.array([])).mean)


def test_only_pairs_are_compared() -> None:
    mine = {("a", 0): 5.0, ("b", 0): 1.0, ("c", 0): 100.0}
    theirs = {("a", 0): 3.0, ("b", 0): 1.0, ("d", 0): -100.0}
    found = compare(mine, theirs, better="higher")
    assert found.pairs == 2
    assert found.difference.mean == 1.0
    assert found.win_rate == 0.75  # one win, one draw


def test_who_wins_depends_on_what_is_better() -> None:
    differences = np.array([1.0, 2.0, -1.0, 0.0])
    assert win_rate(differences, "higher") == 0.625
    assert win_rate(differences, "lower") == 0.375
    assert math.isnan(win_rate(differences, "none"))


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # The examples of Newcombe 1998, Statistics in Medicine 17, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_rates_have_wilsons_interval(hits: int, trials: int, low: float, high: float) -> None:
    found = within(hits, trials)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    mirrored = within(trials - hits, trials)
    assert mirrored.high == pytest.approx(1.0 - found.low)


# Formulas of scorers.


def test_vendi_counts_what_is_distinct() -> None:
    assert vendi_score(np.eye(5)) == pytest.approx(5.0)
    assert vendi_score(np.ones((5, 5))) == pytest.approx(1.0)
    assert vendi_score(np.eye(2).repeat(3, axis=0).repeat(3, axis=1)) == pytest.approx(2.0)
    shares = np.array([1.3, 0.7]) / 2
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert vendi_score(np.array([[1.0, 0.3], [0.3, 1.0]])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("expected", "read", "share"),
    [
        ("OPEN", "OPEN", 1.0),
        ("OPEN", "open", 1.0),
        ("NIGHT TRAIN", "NIGHTTRAIN", 1.0),
        ("OPEN", "we are OPEN daily", 1.0),
        ("OPEN", "OPFN", 0.75),
        ("OPEN", "OPN", 0.75),
        ("OPEN", "", 0.0),
        ("OPEN", "xyz", 0.0),
        ("ab", "a-----b", 0.5),
    ],
)
def test_how_much_of_a_text_can_be_read(expected: str, read: str, share: float) -> None:
    assert found_share(expected, read) == share


def test_places_are_those_of_geneval() -> None:
    def at(x: float, y: float) -> Found:
        return Found("it", 1.0, (x - 10, y - 10, x + 10, y + 10))

    assert place(at(0, 0), at(100, 0)) == {"left of"}
    assert place(at(100, 0), at(0, 0)) == {"right of"}
    assert place(at(0, 0), at(0, 100)) == {"above"}
    assert place(at(70, 100), at(0, 0)) == {"below", "right of"}
    assert place(at(0, 0), at(3, 0)) == set()  # closer than a tenth of both widths


def test_colours_are_those_of_geneval_and_grey() -> None:
    names = "red orange yellow green blue purple pink brown black white grey"
    assert list(COLOURS) == names.split()


def test_prompts_may_be_texts_and_prompts() -> None:
    assert prompts_of(["a", Prompt("mine", "b")])[1].id == "mine"
