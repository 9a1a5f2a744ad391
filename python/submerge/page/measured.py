"""The sections about memory and speed, and about the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.page.charts import Bar, Figures, Timeline, seconds_in_words
from submerge.page.content import Block, Cell, Details, Facts, Prose, Section, Table
from submerge.page.inputs import known
from submerge.plan.sizes import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.documents import MeasureDocument
    from submerge.documents.measurement import MeasuredModel, MeasuredResult, TimelineRow

__all__ = ["environments", "memory"]


def memory(measure: MeasureDocument) -> Section | None:
    """Tabulate memory and speed of each model and workload, and draw memory over time."""
    found: list[Block] = []
    if rows := [_row(result) for result in measure["results"]]:
        columns = ["model", "workload", "first image", "then, each", "n", "images/min"]
        columns += ["peak memory", "anonymous", "device"]
        found.append(Table(columns, rows, figures=2))
    if rows := [_loaded(model) for model in measure["models"]]:
        found.append(
            Table(["model", "imports", "loaded in", "peak memory"], rows, figures=1, narrow=True)
        )
    lines = [line for one in measure["timelines"] if (line := _timeline(one))]
    if lines:
        found.append(
            Prose(
                "Memory of each model's process over time; the bars say what it was doing.", "small"
            )
        )
        found.append(Figures(lines))
    return Section("memory", "Memory and speed", found) if found else None


def _row(result: MeasuredResult) -> Sequence[str | Cell]:
    peak = result["peak"]
    return [
        result["model"],
        result["workload"],
        seconds_in_words(result["first_seconds"]),
        seconds_in_words(result["seconds"]),
        str(result["images"]),
        f"{result['images_per_minute']:.3g}",
        *(_bytes(size) for size in (peak["rss"], peak["anonymous"], peak["vram"])),
    ]


def _loaded(model: MeasuredModel) -> Sequence[str | Cell]:
    times = (model["import_seconds"], model["load_seconds"])
    return [model["name"], *map(seconds_in_words, times), _bytes(model["peak"]["rss"])]


def _bytes(value: int | None) -> str:
    return "-" if value is None else bytes_in_words(value)


def _timeline(timeline: TimelineRow) -> Timeline | None:
    kinds = {
        "resident memory": [(s["seconds"], s["rss"]) for s in timeline["samples"]],
        "of it anonymous": [(s["seconds"], s["anonymous"]) for s in timeline["samples"]],
        "device memory": [(s["seconds"], s["vram"]) for s in timeline["samples"]],
    }
    curves = {
        words: [(at, held) for at, size in curve if (held := known(size)) is not None]
        for words, curve in kinds.items()
    }
    drawn = {words: points for words, points in curves.items() if points}
    bars = [
        Bar(s["name"], s["start"], s["seconds"], s["depth"])
        for s in timeline["spans"]
        if known(s["start"] + s["seconds"]) is not None
    ]
    return Timeline(timeline["model"], drawn, bars) if drawn else None


def environments(**inputs: Mapping[str, Any] | None) -> Section | None:
    """List the versions and hardware that each input was made with."""
    found: list[Block] = []
    for name, facts in inputs.items():
        if facts:
            pairs = [(key.replace("_", " "), _fact(key, value)) for key, value in facts.items()]
            found.append(Details(f"{name}: versions and hardware", [Facts(pairs)]))
    return Section("environment", "Environment", found) if found else None


def _fact(key: str, value: Any) -> str:
    return bytes_in_words(value) if key == "memory" and type(value) is int else str(value)
