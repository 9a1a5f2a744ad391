"""The figures of a measurement: a table for people, JSON for programs, a timeline for Perfetto."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, cast

from submerge import documents
from submerge.columns import aligned
from submerge.documents.painting import Memory
from submerge.files import write_whole
from submerge.plan.sizes import bytes_in_words
from submerge.profile import KINDS
from submerge.profile.trace import trace

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from submerge.documents import MeasureDocument
    from submerge.documents.measurement import (
        MeasuredModel,
        MeasuredResult,
        TimelineRow,
        WorkloadRow,
    )
    from submerge.documents.painting import ModelRow

__all__ = ["Measurement", "gathered"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Memory and speed of some models at some workloads. Times in seconds, memory in bytes.

    Attributes:
        environment: versions, hardware and settings.
        workloads: `{name, images, prompt, options}`.
        models: `{name, path, role, plan, rounds, import_seconds, load_seconds, peak}`: the peak is
            that of the whole process, imports and loading included.
        results: one for each model and workload: `{model, workload, images, batch, options,
            first_seconds, seconds, least_seconds, most_seconds, cpu_seconds, phases, phase_peaks,
            images_per_minute, peak, average}`. `seconds` is the median over the `images` timed,
            each its share of a batch; the warm-up is `first_seconds` and in nothing else but
            memory. `phases` are means, `phase_peaks` the most memory of each kind by phase.
        timelines: `{model, round, samples, spans}` of each process.
    """

    environment: Mapping[str, Any]
    workloads: Sequence[WorkloadRow]
    models: Sequence[MeasuredModel]
    results: Sequence[MeasuredResult]
    timelines: Sequence[TimelineRow]

    def to_dict(self) -> MeasureDocument:
        """Return everything as plain data, ready for JSON."""
        return {
            "format": "submerge-measure/1",
            "environment": dict(self.environment),
            "workloads": list(self.workloads),
            "models": list(self.models),
            "results": list(self.results),
            "timelines": list(self.timelines),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return everything as JSON."""
        return documents.text(self.to_dict(), indent=indent)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON to a file, which appears complete or not at all."""
        write_whole(path, self.to_json() + "\n")

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write what each process did over time, for Perfetto or `chrome://tracing`."""
        write_whole(path, json.dumps(self.trace(), ensure_ascii=False, allow_nan=False))

    def trace(self) -> dict[str, Any]:
        """Return every process's timeline in the trace event format, a process for each."""
        events = []
        for line in self.timelines:
            main = next((span["thread"] for span in line["spans"]), line["process"])
            name = f"{line['model']}, round {line['round']}"
            made = trace(line, process=line["process"], thread=main, name=name)
            events += made["traceEvents"]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def table(self) -> str:
        """Return a line for each model and workload."""
        columns = ["model", "workload", "n", "load", "first", "each", "text", "denoise", "decode"]
        columns += ["per min", "peak rss", "anonymous", "vram"]
        loads = {model["name"]: model["load_seconds"] for model in self.models}
        lines = [columns, *(_line(result, loads[result["model"]]) for result in self.results)]
        return aligned(lines, 2)


def _line(result: Mapping[str, Any], load: float) -> list[str]:
    phases = result["phases"]
    times = [load, result["first_seconds"], result["seconds"]]
    times += [phases.get(name) for name in ("text", "denoise", "decode")]
    return [
        result["model"],
        result["workload"],
        str(result["images"]),
        *("-" if value is None else f"{value:.2f} s" for value in times),
        f"{result['images_per_minute']:.2f}",
        *(_size(result["peak"][kind]) for kind in ("rss", "anonymous", "vram")),
    ]


def _size(value: int | None) -> str:
    return "-" if value is None else bytes_in_words(value)


def gathered(
    models: Sequence[ModelRow],
    workloads: Sequence[WorkloadRow],
    rounds: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Measurement:
    """Put together what the processes of each model saw.

    Args:
        models: names, paths and roles.
        workloads: as plain data.
        rounds: name of a model to what its processes wrote, in order.
    """
    return Measurement(
        environment=next(iter(rounds.values()))[0]["environment"],
        workloads=workloads,
        models=[_model(about, rounds[about["name"]]) for about in models],
        results=[
            _result(name, [one["results"][at] for one in seen])
            for at in range(len(workloads))
            for name, seen in rounds.items()
        ],
        timelines=[
            _timeline(name, at, one)
            for name, seen in rounds.items()
            for at, one in enumerate(seen, start=1)
        ],
    )


def _timeline(name: str, turn: int, one: Mapping[str, Any]) -> TimelineRow:
    line = one["timeline"]
    return {
        "model": name,
        "round": turn,
        "process": one["process"],
        "interval": line["interval"],
        "samples": line["samples"],
        "spans": line["spans"],
    }


def _model(about: ModelRow, seen: Sequence[Mapping[str, Any]]) -> MeasuredModel:
    return {
        **about,
        "plan": seen[0]["plan"],
        "rounds": len(seen),
        "import_seconds": median(one["import_seconds"] for one in seen),
        "load_seconds": median(one["load_seconds"] for one in seen),
        "peak": _each(max, [one["timeline"]["peak"] for one in seen]),
    }


def _result(name: str, seen: Sequence[Mapping[str, Any]]) -> MeasuredResult:
    """Return the figures of a model at one workload, over all rounds."""
    batch = seen[0]["batch"]
    seconds = [value for one in seen for value in one["seconds"]]
    phases = [of for one in seen for of in one["phases"]]
    return {
        "model": name,
        "workload": seen[0]["workload"],
        "images": batch * len(seconds),
        "batch": batch,
        "options": seen[0]["options"],
        "first_seconds": median(one["first_seconds"] for one in seen),
        "seconds": median(seconds),
        "least_seconds": min(seconds),
        "most_seconds": max(seconds),
        "cpu_seconds": median(value for one in seen for value in one["cpu_seconds"]),
        "phases": {phase: fmean(of[phase] for of in phases) for phase in phases[0]},
        "phase_peaks": {
            phase: _each(max, [one["phase_peaks"][phase] for one in seen])
            for phase in seen[0]["phase_peaks"]
        },
        "images_per_minute": 60 / fmean(seconds),
        "peak": _each(max, [one["peak"] for one in seen]),
        "average": _each(lambda held: round(fmean(held)), [one["average"] for one in seen]),
    }


def _each(how: Callable[[Iterable[int]], int], seen: Sequence[Mapping[str, int | None]]) -> Memory:
    """Return one figure for each kind of memory; None where it was not known in every round."""
    found: dict[str, int | None] = {}
    for kind in KINDS:
        values = [value for one in seen if (value := one[kind]) is not None]
        found[kind] = how(values) if len(values) == len(seen) else None
    return cast(Memory, found)
