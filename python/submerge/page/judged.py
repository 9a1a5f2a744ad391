"""The sections about how a model paints: questions, images, scores."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from submerge.errors import counted
from submerge.page.charts import Curves, Figures, interval
from submerge.page.content import Block, Cell, Details, Facts, Prose, Section, Table, badge
from submerge.page.gallery import gallery, ordered
from submerge.page.inputs import known
from submerge.pictures.markup import tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from submerge.documents import EvaluationDocument
    from submerge.documents.evaluation import Comparison, Verdict

__all__ = ["images", "questions", "scores", "verdicts"]

_VERDICTS: tuple[Verdict, ...] = ("good", "mixed", "bad", "unknown")
# What runs along the signals that are curves.
_ACROSS = {
    "velocity cosine": "time (1 is noise)",
    "velocity norm ratio": "time (1 is noise)",
    "guidance response": "guidance",
    "block contribution": "block",
    "few-step distance": "steps",
}


def verdicts(evaluation: EvaluationDocument) -> dict[Verdict, int]:
    """Return how many questions got each verdict, the best first."""
    found = [question["verdict"] for question in evaluation["questions"]]
    return {verdict: found.count(verdict) for verdict in _VERDICTS if verdict in found}


def questions(evaluation: EvaluationDocument) -> Section | None:
    """List the questions with their verdicts and evidence, and what was not run."""
    rows: list[Sequence[str | Cell]] = [
        [q["question"], badge(q["verdict"]), _prose(q["evidence"])] for q in evaluation["questions"]
    ]
    found: list[Block] = [Table(["question", "verdict", "evidence"], rows)] if rows else []
    if left := [[n["what"], n["why"]] for n in evaluation["not_run"]]:
        found.append(
            Details(f"{counted(len(left), 'check')} not run", [Table(["check", "why"], left)])
        )
    return Section("questions", "Does it paint?", found) if found else None


def _prose(words: str) -> Cell:
    return Cell(words, tag("span", words, class_="prose"))


def images(evaluation: EvaluationDocument, folder: Path, budget: int) -> Section | None:
    """Show the images of every model side by side, prompt by prompt."""
    shown = gallery(evaluation, folder, budget)
    if not shown.rows:
        return None
    how = [
        (name, str(value))
        for name, value in evaluation["options"].items()
        if value not in (None, "", {}, [])
    ]
    lead = f"{counted(len(shown.rows), 'row')}: the same prompt, seed and start for every model."
    found: list[Block] = [Prose(lead), shown]
    if how:
        found.insert(1, Details("how the images were made", [Facts(how)]))
    return Section("images", "Images", found)


def scores(evaluation: EvaluationDocument) -> Section | None:
    """Compare the models' scores, with intervals, and draw the signals."""
    found: list[Block] = []
    better = {score["scorer"]: score["better"] for score in evaluation["scores"]}
    if rows := _compared(evaluation["comparisons"], better):
        found.append(
            Prose(
                "The merge minus each parent on the same prompts and seeds. The line spans the"
                " 95 % bootstrap interval of the mean, the grey mark is zero; coloured where the"
                " interval leaves zero out."
            )
        )
        columns = ["score", "against", "difference", "mean", "95 % interval"]
        columns += ["merge ahead", "pairs"]
        found.append(Table(columns, rows, figures=3))
    if means := _means(evaluation):
        found.append(means)
    if charts := _signals(evaluation):
        found.append(Figures(charts))
    found += _single(evaluation)
    if sweep := _sweep(evaluation):
        found.append(Details("steps and guidance", [sweep]))
    return Section("scores", "Scores", found) if found else None


def _compared(compared: Sequence[Comparison], better: Mapping[str, str]) -> list[list[str | Cell]]:
    rows: list[list[str | Cell]] = []
    reach: dict[str, float] = {}
    for one in compared:
        ends = [abs(known(of) or 0.0) for of in (one["low"], one["high"], one["mean_difference"])]
        reach[one["scorer"]] = max(reach.get(one["scorer"], 0.0), *ends)
    for one in compared:
        scorer, against, pairs = one["scorer"], one["parent"], str(one["pairs"])
        mean, low, high = known(one["mean_difference"]), known(one["low"]), known(one["high"])
        if mean is None or low is None or high is None:
            rows.append([scorer, against, "-", "-", "-", "-", pairs])
            continue
        tone = _tone(low, high, better.get(scorer, "none"))
        chart = Cell(tone, interval(mean, low, high, reach[scorer], tone))
        rate = known(one["win_rate"])
        won = "-" if rate is None else f"{rate:.0%}"
        rows.append(
            [scorer, against, chart, f"{mean:+.4g}", f"{low:+.4g} to {high:+.4g}", won, pairs]
        )
    return rows


def _tone(low: float, high: float, better: str) -> str:
    """Return `good` or `bad` where an interval lies on one side of zero, else `unknown`."""
    if low <= 0 <= high or better not in ("higher", "lower"):
        return "unknown"
    return "good" if (low > 0) == (better == "higher") else "bad"


def _means(evaluation: EvaluationDocument) -> Table | None:
    """Return the mean score of each model."""
    models = [model["name"] for model in ordered(evaluation["models"])]
    values: dict[str, dict[str, list[float]]] = {}
    units: dict[str, str] = {}
    for score in evaluation["scores"]:
        if (value := known(score["value"])) is not None:
            scorer, better = score["scorer"], score["better"]
            values.setdefault(scorer, {}).setdefault(score["model"], []).append(value)
            direction = "" if better == "none" else f"({better} is better)"
            units[scorer] = f"{score['unit']} {direction}".strip()
    rows = [
        [
            scorer,
            units[scorer],
            *(f"{fmean(of[m]):.4g}" if m in of else "-" for m in models),
            str(sum(map(len, of.values()))),
        ]
        for scorer, of in values.items()
    ]
    return Table(["mean score", "unit", *models, "images"], rows, figures=2) if rows else None


def _signals(evaluation: EvaluationDocument) -> list[Curves]:
    """Return a chart for each signal with figures along a number, or along names."""
    found: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    labels: dict[str, list[str]] = {}
    for signal in evaluation["signals"]:
        name, value, x = signal["signal"], known(signal["value"]), signal["x"]
        if value is None or x is None:
            continue
        if isinstance(x, str):
            along = labels.setdefault(name, [])
            along += [] if x in along else [x]
            x = float(along.index(x))
        if known(x) is not None:
            who = signal["model"], signal["against"] or ""
            found.setdefault(name, {}).setdefault(who, []).append((x, value))
    models = [model["name"] for model in evaluation["models"]]
    return [
        Curves(name, _ACROSS.get(name, ""), _in_order(series, models), labels.get(name, ()))
        for name, series in found.items()
    ]


def _in_order(
    series: Mapping[tuple[str, str], list[tuple[float, float]]], models: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """Return the series in the order of the models, so that one has the same colour everywhere."""
    rank = {name: at for at, name in enumerate(models)}
    order = sorted(series, key=lambda who: [rank.get(name, len(rank)) for name in who])
    return {
        f"{model} against {against}" if against else model: sorted(series[model, against])
        for model, against in order
    }


def _single(evaluation: EvaluationDocument) -> list[Block]:
    """Return a table of the signals that are one figure."""
    rows = [
        [signal["signal"], signal["model"], signal["against"] or "", f"{value:.4g}"]
        for signal in evaluation["signals"]
        if signal["x"] is None and (value := known(signal["value"])) is not None
    ]
    table = Table(["signal", "model", "against", "value"], rows, figures=3)
    return [Details("signals of one figure", [table])] if rows else []


def _sweep(evaluation: EvaluationDocument) -> Table | None:
    """Return the mean scores at other steps and guidance."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in evaluation["sweep"]:
        if (value := known(cell["value"])) is not None:
            key = cell["model"], str(cell["steps"]), str(cell["guidance"])
            found.setdefault(key, {})[cell["scorer"]] = f"{value:.4g}"
    scorers = list(dict.fromkeys(scorer for of in found.values() for scorer in of))
    rows = [[*key, *(of.get(scorer, "-") for scorer in scorers)] for key, of in found.items()]
    return Table(["model", "steps", "guidance", *scorers], rows, figures=1) if rows else None
