"""The document of a measurement: memory, latency and throughput."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from submerge.documents.painting import Memory, Role

__all__ = [
    "MeasureDocument",
    "MeasuredModel",
    "MeasuredResult",
    "Sample",
    "TimelineRow",
    "TimelineSpan",
    "WorkloadRow",
]


class WorkloadRow(TypedDict):
    """What was painted and timed."""

    name: str
    images: int
    prompt: str
    options: dict[str, Any]


class MeasuredModel(TypedDict):
    """A model that was measured.

    Attributes:
        plan: how it was loaded, in words.
        rounds: processes that were measured.
        import_seconds, load_seconds: medians over them.
        peak: of the whole process, imports and loading included.
    """

    name: str
    path: str
    role: Role
    plan: str
    rounds: int
    import_seconds: float
    load_seconds: float
    peak: Memory


class MeasuredResult(TypedDict):
    """The figures of one model at one workload.

    Attributes:
        images: how many were timed.
        batch: how many at once.
        options: what they were painted with.
        first_seconds: the warm-up, in no other time.
        seconds, least_seconds, most_seconds: each image's share of its batch.
        cpu_seconds: of the process.
        phases: means by phase; `phase_peaks` the most memory.
        images_per_minute: from the mean.
        peak, average: memory.
    """

    model: str
    workload: str
    images: int
    batch: int
    options: dict[str, Any]
    first_seconds: float
    seconds: float
    least_seconds: float
    most_seconds: float
    cpu_seconds: float
    phases: dict[str, float]
    phase_peaks: dict[str, Memory]
    images_per_minute: float
    peak: Memory
    average: Memory


class Sample(Memory):
    """The memory at one moment; `seconds` since the process began."""

    seconds: float


class TimelineSpan(TypedDict):
    """What was done when: start and length in seconds, and how deep it lies."""

    name: str
    start: float
    seconds: float
    thread: int
    depth: int
    details: dict[str, Any]


class TimelineRow(TypedDict):
    """One process over time; `interval` is the seconds between samples."""

    model: str
    round: int
    process: int
    interval: float
    samples: list[Sample]
    spans: list[TimelineSpan]


class MeasureDocument(TypedDict):
    """What `submerge measure` writes. Times in seconds, memory in bytes.

    Attributes:
        environment: versions, hardware and settings.
        workloads: what was painted.
        models: what was measured.
        results: one for each model and workload.
        timelines: one for each process.
    """

    format: Literal["submerge-measure/1"]
    environment: dict[str, Any]
    workloads: list[WorkloadRow]
    models: list[MeasuredModel]
    results: list[MeasuredResult]
    timelines: list[TimelineRow]
