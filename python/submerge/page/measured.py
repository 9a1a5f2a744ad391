"""The sections about memory and speed, and about the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.page.charts import Bar, Figures, Timeline, seconds_in_words
from submerge.page.content import Block, Cell, Details, Facts, Prose, Section, Table
from submerge.page.inputs import items, number, text
from submerge.plan.sizes import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["environments", "memory"]

_CURVES = {
    "rss": "resident memory",
    "anonymous": "of it anonymous",
    "vram": "device memory",
}


def memory(measure: Mapping[str, Any]) -> Section | None:
    """Tabulate memory and speed of each model and workload, and draw memory over time."""
    found: list[Block] = []
    if rows := [_row(result) for result in items(measure, "results")]:
        columns = [
            "model",
            "workload",
            "first image",
            "then, each",
            "n",
            "images/min",
            "peak memory",
        ]
        columns += ["anonymous", "device"]
        found.append(Table(columns, rows, figures=2))
    if rows := [_loaded(model) for model in items(measure, "models")]:
        found.append(
            Table(["model", "imports", "loaded in", "peak memory"], rows, figures=1, narrow=True)
        )
    lines = [line for one in items(measure, "timelines") if (line := _timeline(one))]
    if lines:
        found.append(
            Prose(
                "Memory of each model's process over time; the bars say what it was doing.", "small"
            )
        )
        found.append(Figures(lines))
    return Section("memory", "Memory and speed", found) if found else None


def _row(result: Mapping[str, Any]) -> Sequence[str | Cell]:
    peak = result.get("peak") or {}
    return [
        text(result.get("model")),
        text(result.get("workload")),
        _seconds(result.get("first_seconds")),
        _seconds(result.get("seconds")),
        text(result.get("images")),
        _plain(result.get("images_per_minute")),
        *(_bytes(peak.get(kind)) for kind in ("rss", "anonymous", "vram")),
    ]


def _loaded(model: Mapping[str, Any]) -> Sequence[str | Cell]:
    peak = model.get("peak") or {}
    times = (_seconds(model.get(f"{name}_seconds")) for name in ("import", "load"))
    return [text(model.get("name")), *times, _bytes(peak.get("rss"))]


def _seconds(value: Any) -> str:
    known = number(value)
    return "-" if known is None else seconds_in_words(known)


def _bytes(value: Any) -> str:
    known = number(value)
    return "-" if known is None else bytes_in_words(int(known))


def _plain(value: Any) -> str:
    known = number(value)
    return "-" if known is None else f"{known:.3g}"


def _timeline(timeline: Mapping[str, Any]) -> Timeline | None:
    samples = items(timeline, "samples")
    curves = {
        words: [
            (at, held)
            for sample in samples
            if (held := number(sample.get(kind))) is not None
            and (at := number(sample.get("seconds"))) is not None
        ]
        for kind, words in _CURVES.items()
    }
    known = {words: points for words, points in curves.items() if points}
    bars = [
        Bar(
            text(s.get("name")),
            number(s.get("start")) or 0.0,
            number(s.get("seconds")) or 0.0,
            int(number(s.get("depth")) or 0),
        )
        for s in items(timeline, "spans")
    ]
    return Timeline(text(timeline.get("model")), known, bars) if known else None


def environments(**inputs: Mapping[str, Any] | None) -> Section | None:
    """List the versions and hardware that each input was made with."""
    found: list[Block] = []
    for name, data in inputs.items():
        facts = data.get("environment") if data else None
        if isinstance(facts, dict) and facts:
            pairs = [
                (text(key).replace("_", " "), _fact(text(key), value))
                for key, value in facts.items()
            ]
            found.append(Details(f"{name}: versions and hardware", [Facts(pairs)]))
    return Section("environment", "Environment", found) if found else None


def _fact(key: str, value: Any) -> str:
    return _bytes(value) if key == "memory" else text(value)
