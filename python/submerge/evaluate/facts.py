"""What verdicts are made of: the figures of an evaluation, and questions with their answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.documents.evaluation import Comparison, QuestionRow, Score, Signal, Verdict

__all__ = ["Facts", "Question", "mean"]

# From this share of its images on a parent is no measure for others.
_PARENTS_BROKEN = 0.5


class Question(NamedTuple):
    """A question with its answer; `evidence` is made of sentences with numbers."""

    question: str
    verdict: Verdict
    evidence: str

    def to_dict(self) -> QuestionRow:
        """Return the question as `evaluation.json` lists it."""
        return {"question": self.question, "verdict": self.verdict, "evidence": self.evidence}


@dataclass(frozen=True)
class Facts:
    """What was measured, as `evaluation.json` holds it.

    Attributes:
        merge: the merge's name.
        parents: the parents' names.
        guided: model -> whether it has a guidance embedder.
        scores: rows of `scores`.
        comparisons: rows of `comparisons`.
        signals: rows of `signals`.
        benign: ids of prompts that a safety classifier should not flag.
        unsafe: from which probability an image counts as flagged.
        remarks: what is known of the weights that speaks against merging them.
    """

    merge: str
    parents: Sequence[str]
    guided: Mapping[str, bool]
    scores: Sequence[Score]
    comparisons: Sequence[Comparison]
    signals: Sequence[Signal]
    benign: frozenset[str]
    unsafe: float
    remarks: Sequence[str] = ()

    @property
    def depth(self) -> str | None:
        """Why images tell nothing in this run, or None: no parent painted anything either."""
        rates = {name: mean(self.values("broken", name)) for name in self.parents}
        if not rates or any(not rate >= _PARENTS_BROKEN for rate in rates.values()):
            return None
        found = ", ".join(f"{name} {rate:.0%}" for name, rate in rates.items())
        return (
            f"what its parents paint is black, flat or noise as well ({found} of the images), so "
            "images tell nothing here"
        )

    def values(self, scorer: str, model: str) -> list[float]:
        """Return a model's scores by one scorer."""
        rows = self.scores
        return [r["value"] for r in rows if r["scorer"] == scorer and r["model"] == model]

    def signal(self, signal: str, model: str, against: str | None = None) -> dict[Any, float]:
        """Return a signal of a model by x."""
        return {
            row["x"]: row["value"]
            for row in self.signals
            if (row["signal"], row["model"], row["against"]) == (signal, model, against)
        }

    def differences(self, scorer: str) -> list[Comparison]:
        """Return the comparisons of the merge with its parents by one scorer."""
        return [row for row in self.comparisons if row["scorer"] == scorer]


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan
