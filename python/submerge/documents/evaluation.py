"""The document of an evaluation: images, scores, signals and verdicts."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from submerge.documents.form import Figure  # noqa: TC001 - the types are read at run time
from submerge.documents.painting import ModelRow  # noqa: TC001 - as above

__all__ = [
    "Better",
    "Comparison",
    "EvaluationDocument",
    "ImageRow",
    "NotRun",
    "PromptRow",
    "QuestionRow",
    "Score",
    "Signal",
    "SweepRow",
    "Verdict",
]

Better = Literal["higher", "lower", "none"]
Verdict = Literal["good", "mixed", "bad", "unknown"]


class PromptRow(TypedDict):
    """A prompt: its id, text and tags."""

    id: str
    text: str
    tags: list[str]


class ImageRow(TypedDict):
    """One painted image.

    Attributes:
        model, prompt, seed: whose image it is.
        path: relative to the folder of the evaluation; null: it lies in no file.
        sha256: of the file.
        seconds: how long it took; 0 for one that was there already.
        phases: seconds of each phase.
        memory: the most of each kind of memory, by phase.
    """

    model: str
    prompt: str
    seed: int
    path: str | None
    sha256: str | None
    seconds: float
    phases: dict[str, float]
    memory: dict[str, dict[str, int | None]]


class Score(TypedDict):
    """One image's score.

    Attributes:
        scorer, unit, better: what was scored, in what unit, which direction is the better one.
        model, prompt, seed: which image.
        value: the score.
    """

    scorer: str
    unit: str
    better: Better
    model: str
    prompt: str
    seed: int
    value: Figure


class Comparison(TypedDict):
    """The merge less a parent, over the prompts and seeds both have.

    Attributes:
        scorer, parent: by what score, and against whom.
        mean_difference: the mean over prompts.
        low, high: the 95 % bootstrap interval.
        pairs: prompts with seeds.
        win_rate: share of the pairs in which the merge is better.
    """

    scorer: str
    parent: str
    mean_difference: Figure
    low: Figure
    high: Figure
    pairs: int
    win_rate: Figure


class Signal(TypedDict):
    """A figure of a model, perhaps against another one, along `x` or alone."""

    signal: str
    model: str
    against: str | None
    x: float | str | None
    value: Figure


class SweepRow(TypedDict):
    """A mean score over the probes, at other steps or guidance."""

    model: str
    steps: int
    guidance: float
    scorer: str
    value: Figure


class QuestionRow(TypedDict):
    """A question with its verdict, and the evidence in sentences."""

    question: str
    verdict: Verdict
    evidence: str


class NotRun(TypedDict):
    """A check that was not run, and why."""

    what: str
    why: str


class EvaluationDocument(TypedDict):
    """What `submerge test` writes as `evaluation.json`.

    Attributes:
        models: the merge first.
        prompts: what was painted.
        options: what the evaluation was told to do, defaults filled in.
        environment: versions, hardware and settings.
        images: one for each model, prompt and seed.
        scores: one for each image and scorer that applies.
        comparisons: the merge beside each parent.
        signals: what the weights themselves say.
        sweep: at other steps and guidance.
        questions: with their verdicts.
        not_run: what was not checked.
        notes: what is known of the weights that speaks against merging them.
    """

    format: Literal["submerge-evaluation/1"]
    models: list[ModelRow]
    prompts: list[PromptRow]
    options: dict[str, Any]
    environment: dict[str, Any]
    images: list[ImageRow]
    scores: list[Score]
    comparisons: list[Comparison]
    signals: list[Signal]
    sweep: list[SweepRow]
    questions: list[QuestionRow]
    not_run: list[NotRun]
    notes: NotRequired[list[str]]
