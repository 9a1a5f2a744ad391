"""The result of an evaluation: tables for people, one JSON for programs, images in files."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge import documents
from submerge.errors import RecipeError
from submerge.files import write_whole

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from submerge.documents import EvaluationDocument
    from submerge.documents.evaluation import (
        Comparison,
        ImageRow,
        NotRun,
        PromptRow,
        Score,
        Signal,
        SweepRow,
    )
    from submerge.documents.painting import ModelRow
    from submerge.evaluate.painting import Picture
    from submerge.evaluate.verdicts import Question

__all__ = ["Evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """What was painted, scored and found; every row is plain data, see `submerge.documents`.

    Attributes:
        models: `{name, path, role}`, the merge first.
        prompts: `{id, text, tags}`.
        options: what the evaluation was told to do, defaults filled in.
        environment: versions, hardware and settings.
        images: `{model, prompt, seed, path, sha256, seconds, phases, memory}`.
        scores: `{scorer, unit, better, model, prompt, seed, value}`.
        comparisons: `{scorer, parent, mean_difference, low, high, pairs, win_rate}`: the merge less
            the parent, with its 95 % bootstrap interval; NaN where it cannot be said.
        signals: `{signal, model, against, x, value}`.
        sweep: `{model, steps, guidance, scorer, value}`, means over the probes.
        questions: questions with verdicts and evidence.
        not_run: `{what, why}`.
        notes: what is known of the weights that speaks against merging them.
        pictures: the images, by model, prompt and seed.
    """

    models: Sequence[ModelRow]
    prompts: Sequence[PromptRow]
    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    images: Sequence[ImageRow]
    scores: Sequence[Score]
    comparisons: Sequence[Comparison]
    signals: Sequence[Signal]
    sweep: Sequence[SweepRow]
    questions: Sequence[Question]
    not_run: Sequence[NotRun]
    notes: Sequence[str]
    pictures: Mapping[tuple[str, str, int], Picture] = field(repr=False)

    def to_dict(self) -> EvaluationDocument:
        """Return everything but the pictures, as `evaluation.json` holds it."""
        return {
            "format": "submerge-evaluation/1",
            "models": list(self.models),
            "prompts": list(self.prompts),
            "options": dict(self.options),
            "environment": dict(self.environment),
            "images": list(self.images),
            "scores": list(self.scores),
            "comparisons": list(self.comparisons),
            "signals": list(self.signals),
            "sweep": list(self.sweep),
            "questions": [question.to_dict() for question in self.questions],
            "not_run": list(self.not_run),
            "notes": list(self.notes),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return what `evaluation.json` holds."""
        return documents.text(self.to_dict(), indent=indent)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the images that are not there yet, then `evaluation.json`, and return its path.

        Raises:
            RecipeError: the images lie in another folder.
            OSError: the folder cannot be written to.
        """
        target = Path(folder)
        rows = [self._saved(row, target) for row in self.images]
        path = target / "evaluation.json"
        write_whole(path, documents.text({**self.to_dict(), "images": rows}) + "\n")
        return path

    def _saved(self, row: ImageRow, folder: Path) -> ImageRow:
        """Write an image, or find it, and return its row with path and digest."""
        name = row["path"] or f"images/{row['model']}/{row['prompt']}-{row['seed']}.png"
        path = folder / name
        if row["path"] is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.pictures[row["model"], row["prompt"], row["seed"]].made.save(path)
        if not path.is_file():
            raise RecipeError(
                f"{folder}: expected the images of this evaluation, got no `{name}`",
                hint="save into the folder that was given as `output`",
            )
        return {**row, "path": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def table(self) -> str:
        """Return verdicts, comparisons and the sweep in words, a line each."""
        lines = []
        for question in self.questions:
            lines.append(f"{question.verdict:<8} {question.question}")
            lines.append(f"         {question.evidence}")
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *notes, *self._comparisons(), *self._sweep(), *self._left_out()])

    def _comparisons(self) -> list[str]:
        if not self.comparisons:
            return []
        lines = ["", f"{'merge less parent':<20} {'parent':<16} {'mean':>9}  95 % interval"]
        for row in self.comparisons:
            bounds = f"[{row['low']:+.3g}, {row['high']:+.3g}]"
            won = "" if math.isnan(row["win_rate"]) else f"  wins {row['win_rate']:.0%}"
            mean = row["mean_difference"]
            lines.append(f"{row['scorer']:<20} {row['parent']:<16} {mean:>+9.3g}  {bounds}{won}")
        return lines

    def _sweep(self) -> list[str]:
        """One line for each model, steps and guidance."""
        scorers = list(dict.fromkeys(row["scorer"] for row in self.sweep))
        cells: dict[tuple[Any, ...], dict[str, float]] = {}
        for row in self.sweep:
            key = row["model"], row["steps"], row["guidance"]
            cells.setdefault(key, {})[row["scorer"]] = row["value"]
        if not cells:
            return []
        head = "  ".join(f"{name:>14}" for name in scorers)
        lines = ["", f"{'sweep':<16} steps  guidance  {head}"]
        for (model, steps, guidance), values in cells.items():
            shown = "  ".join(f"{values.get(name, math.nan):>14.4g}" for name in scorers)
            lines.append(f"{model:<16} {steps:>5}  {guidance:>8g}  {shown}")
        return lines

    def _left_out(self) -> list[str]:
        return ["", *(f"not run: {row['what']}: {row['why']}" for row in self.not_run)]
