"""The trace event format of Chrome's `about:tracing`, which Perfetto reads too.

Source: "Trace Event Format", Google, the JSON object form with events of phases M, X and C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.profile.memory import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["trace"]

_TRACKS = {
    "rss": "resident memory",
    "anonymous": "anonymous memory",
    "file": "file pages",
    "vram": "device memory",
    "vram_reserved": "device memory reserved",
}


def trace(
    timeline: Mapping[str, Any], *, process: int, thread: int, name: str = "submerge"
) -> dict[str, Any]:
    """Return a timeline (`Profile.to_dict()`) as a trace: a bar for each span, a curve for memory.

    Args:
        timeline: `spans` and `samples`, in seconds and bytes.
        process: the number of the process that was measured.
        thread: the number of its main thread, which is named so.
        name: what to call the process.
    """
    named = {"name": "process_name", "args": {"name": name}}
    main = {"name": "thread_name", "tid": thread, "args": {"name": "main"}}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": process, "tid": thread, "ts": 0} | event for event in (named, main)
    ]
    events += [
        {
            "ph": "X",
            "name": span["name"],
            "cat": "submerge",
            "pid": process,
            "tid": span["thread"],
            "ts": _microseconds(span["start"]),
            "dur": _microseconds(span["seconds"]),
            "args": span["details"],
        }
        for span in timeline["spans"]
    ]
    events += [
        {
            "ph": "C",
            "name": _TRACKS[kind],
            "pid": process,
            "tid": thread,
            "ts": _microseconds(sample["seconds"]),
            "args": {"MB": sample[kind] / 1e6},
        }
        for kind in KINDS
        for sample in timeline["samples"]
        if sample[kind] is not None
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)
