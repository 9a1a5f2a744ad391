"""The sections about how a model paints: questions, images, scores."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from submerge.errors import counted
from submerge.page.charts import Curves, Figures, interval
from submerge.page.content import Block, Cell, Details, Facts, Prose, Section, Table, badge
from submerge.page.gallery import gallery, ordered
from submerge.page.inputs import items, number, text
from submerge.page.markup import tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["images", "questions", "scores", "verdicts"]

# What runs along the signals that are curves.
_ACROSS = {
    "velocity cosine": "time (1 is noise)",
    "velocity norm ratio": "time (1 is noise)",
    "guidance response": "guidance",
    "block contribution": "block",
    "few-step distance": "steps",
}


def verdicts(evaluation: Mapping[str, Any]) -> dict[str, int]:
    """Return how many questions got each verdict, the best first."""
    found = [badge(text(q.get("verdict"))).text for q in items(evaluation, "questions")]
    return {
        verdict: found.count(verdict)
        for verdict in ("good", "mixed", "bad", "unknown")
        if verdict in found
    }


def questions(evaluation: Mapping[str, Any]) -> Section | None:
    """List the questions with their verdicts and evidence, and what was not run."""
    rows: list[Sequence[str | Cell]] = [
        [text(q.get("question")), badge(text(q.get("verdict"))), _prose(text(q.get("evidence")))]
        for q in items(evaluation, "questions")
    ]
    found: list[Block] = [Table(["question", "verdict", "evidence"], rows)] if rows else []
    left = [[text(n.get("what")), text(n.get("why"))] for n in items(evaluation, "not_run")]
    if left:
        found.append(
            Details(f"{counted(len(left), 'check')} not run", [Table(["check", "why"], left)])
        )
    return Section("questions", "Does it paint?", found) if found else None


def _prose(words: str) -> Cell:
    return Cell(words, tag("span", words, class_="prose"))


def images(evaluation: Mapping[str, Any], folder: Path, budget: int) -> Section | None:
    """Show the images of every model side by side, prompt by prompt."""
    shown = gallery(evaluation, folder, budget)
    if not shown.rows:
        return None
    how = [(text(name), text(value)) for name, value in (evaluation.get("options") or {}).items()]
    how = [(name, value) for name, value in how if value not in ("", "{}", "[]")]
    lead = f"{counted(len(shown.rows), 'row')}: the same prompt, seed and start for every model."
    found: list[Block] = [Prose(lead), shown]
    if how:
        found.insert(1, Details("how the images were made", [Facts(how)]))
    return Section("images", "Images", found)


def scores(evaluation: Mapping[str, Any]) -> Section | None:
    """Compare the models' scores, with intervals, and draw the signals."""
    found: list[Block] = []
    compared = items(evaluation, "comparisons")
    if rows := _compared(compared, _better(evaluation)):
        found.append(
            Prose(
                "The merge minus each parent on the same prompts and seeds. The line spans the"
                " 95 % bootstrap interval of the mean, the grey mark is zero; coloured where the"
                " interval leaves zero out."
            )
        )
        columns = [
            "score",
            "against",
            "difference",
            "mean",
            "95 % interval",
            "merge ahead",
            "pairs",
        ]
        found.append(Table(columns, rows, figures=3))
    if means := _means(evaluation):
        found.append(means)
    if charts := _signals(evaluation):
        found.append(Figures(charts))
    found += _single(evaluation)
    if sweep := _sweep(evaluation):
        found.append(Details("steps and guidance", [sweep]))
    return Section("scores", "Scores", found) if found else None


def _better(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Return which direction of each score is the better one: `higher`, `lower` or `none`."""
    return {text(s.get("scorer")): text(s.get("better")) for s in items(evaluation, "scores")}


def _compared(
    compared: Sequence[Mapping[str, Any]], better: Mapping[str, str]
) -> list[list[str | Cell]]:
    rows: list[list[str | Cell]] = []
    reach: dict[str, float] = {}
    for one in compared:
        ends = [abs(number(one.get(name)) or 0.0) for name in ("low", "high", "mean_difference")]
        scorer = text(one.get("scorer"))
        reach[scorer] = max(reach.get(scorer, 0.0), *ends)
    for one in compared:
        scorer, against = text(one.get("scorer")), text(one.get("parent"))
        values = [number(one.get(name)) for name in ("mean_difference", "low", "high")]
        rate, pairs = number(one.get("win_rate")), text(one.get("pairs"))
        mean, low, high = values
        if mean is None or low is None or high is None:
            rows.append([scorer, against, "-", "-", "-", "-", pairs])
            continue
        tone = _tone(low, high, better.get(scorer, "none"))
        chart = Cell(tone, interval(mean, low, high, reach[scorer], tone))
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


def _means(evaluation: Mapping[str, Any]) -> Table | None:
    """Return the mean score of each model."""
    models = [text(model.get("name")) for model in ordered(items(evaluation, "models"))]
    values: dict[str, dict[str, list[float]]] = {}
    units: dict[str, str] = {}
    for score in items(evaluation, "scores"):
        value, scorer = number(score.get("value")), text(score.get("scorer"))
        if value is not None:
            values.setdefault(scorer, {}).setdefault(text(score.get("model")), []).append(value)
            units[scorer] = " ".join(
                word
                for word in (text(score.get("unit")), _direction(text(score.get("better"))))
                if word
            )
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


def _direction(better: str) -> str:
    return f"({better} is better)" if better in ("higher", "lower") else ""


def _signals(evaluation: Mapping[str, Any]) -> list[Curves]:
    """Return a chart for each signal with figures along a number, or along names."""
    found: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    labels: dict[str, list[str]] = {}
    for signal in items(evaluation, "signals"):
        name, value = text(signal.get("signal")), number(signal.get("value"))
        if value is None or signal.get("x") is None:
            continue
        x = number(signal["x"])
        if x is None:
            known = labels.setdefault(name, [])
            known += [] if (label := text(signal["x"])) in known else [label]
            x = float(known.index(label))
        who = text(signal.get("model")), text(signal.get("against"))
        found.setdefault(name, {}).setdefault(who, []).append((x, value))
    models = [text(model.get("name")) for model in items(evaluation, "models")]
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


def _single(evaluation: Mapping[str, Any]) -> list[Block]:
    """Return a table of the signals that are one figure."""
    rows = [
        [*(text(signal.get(name)) for name in ("signal", "model", "against")), f"{value:.4g}"]
        for signal in items(evaluation, "signals")
        if signal.get("x") is None and (value := number(signal.get("value"))) is not None
    ]
    table = Table(["signal", "model", "against", "value"], rows, figures=3)
    return [Details("signals of one figure", [table])] if rows else []


def _sweep(evaluation: Mapping[str, Any]) -> Table | None:
    """Return the mean scores at other steps and guidance."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in items(evaluation, "sweep"):
        if (value := number(cell.get("value"))) is not None:
            key = tuple(text(cell.get(name)) for name in ("model", "steps", "guidance"))
            found.setdefault(key, {})[text(cell.get("scorer"))] = f"{value:.4g}"
    scorers = list(dict.fromkeys(scorer for of in found.values() for scorer in of))
    rows = [[*key, *(of.get(scorer, "-") for scorer in scorers)] for key, of in found.items()]
    return Table(["model", "steps", "guidance", *scorers], rows, figures=1) if rows else None
