"""What `submerge.profile` measures, and the trace it writes."""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import submerge
from factory import KREA, SCHNELL, save_file
from submerge import cli
from submerge.files import write_whole
from submerge.profile import KINDS, environment, record, span
from submerge.profile.watch import Watch, larger

if TYPE_CHECKING:
    from pathlib import Path

MB = 1_000_000
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells kinds of memory apart")


def names(profile: submerge.Profile) -> list[str]:
    return [found.name for found in profile.spans]


# Spans.


def test_spans_nest_in_each_thread() -> None:
    def work() -> None:
        with span("other"), span("inner"):
            pass

    with submerge.profile() as p:
        with span("outer", prompt=3):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            with span("inner"):
                time.sleep(0.02)
        with span("outer", prompt=4):
            pass
    found = [(s.name, s.depth, s.details) for s in p.spans if s.thread == threading.get_native_id()]
    assert found == [
        ("outer", 0, {"prompt": 3}),
        ("inner", 1, {}),
        ("outer", 0, {"prompt": 4}),
    ]
    other = [(s.name, s.depth) for s in p.spans if s.thread != threading.get_native_id()]
    assert other == [("other", 0), ("inner", 1)]
    outer, inner = p.spans[0], p.spans[3]
    assert outer.start <= inner.start
    assert inner.end <= outer.end <= p.seconds
    assert inner.seconds >= 0.02


def test_a_span_that_raises_still_ends() -> None:
    with submerge.profile() as p:
        with pytest.raises(KeyError), span("fails"):
            raise KeyError
        with span("next"):
            pass
    assert [(s.name, s.depth) for s in p.spans] == [("fails", 0), ("next", 0)]


def test_without_a_profile_nothing_is_kept() -> None:
    with submerge.profile() as p:
        pass
    with span("after"):
        record("after", 0.0, 1.0)
    assert p.spans == []


def test_profiles_may_overlap() -> None:
    with submerge.profile() as outer:
        with submerge.profile() as inner, span("both"):
            pass
        with span("one"):
            pass
    assert names(outer) == ["both", "one"]
    assert names(inner) == ["both"]


# Memory.


@linux
def test_memory_that_comes_and_goes_is_seen() -> None:
    with submerge.profile(interval=0.005) as p:
        with span("small"):
            time.sleep(0.03)
        with span("large"):
            held = mmap.mmap(-1, 200 * MB, flags=mmap.MAP_PRIVATE)
            for page in range(0, len(held), mmap.PAGESIZE):
                held[page] = 1
            time.sleep(0.05)
        held.close()
        time.sleep(0.03)
    small, large = p.spans
    before, during = p.during(small)["anonymous"], p.during(large)["anonymous"]
    assert before is not None
    assert during is not None
    assert 195 * MB < during - before < 220 * MB
    assert p.peak["anonymous"] == during
    rss, average = p.peak["rss"], p.average["rss"]
    assert rss is not None
    assert average is not None
    assert rss >= during
    assert rss - 200 * MB < average < rss
    assert p.samples[-1].memory.rss is not None
    assert p.samples[-1].memory.rss < rss - 150 * MB


@linux
def test_a_peak_between_two_samples_counts() -> None:
    script = (
        "import mmap, submerge\n"
        "with submerge.profile(interval=100) as p:\n"
        "    held = mmap.mmap(-1, 300_000_000, flags=mmap.MAP_PRIVATE)\n"
        "    for page in range(0, len(held), mmap.PAGESIZE): held[page] = 1\n"
        "    held.close()\n"
        "print(p.peak['rss'] - max(s.memory.rss for s in p.samples))\n"
    )
    assert int(run(script)) > 280 * MB


def test_the_average_is_over_time_and_not_over_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from submerge.profile import Reading

    p = submerge.Profile()
    # 100 for 9 seconds, then up to 300 within one, looked at often at the end.
    held = [(0, 100), (9, 100), (9.5, 200), (9.75, 250), (10, 300)]
    monkeypatch.setattr(p, "_samples", [(at, Reading(rss=rss)) for at, rss in held])
    assert p.average["rss"] == 110
    assert p.average["vram"] is None
    assert p.peak == dict.fromkeys(KINDS) | {"rss": 300}


def test_elsewhere_the_peak_is_what_getrusage_says(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    module = importlib.import_module("submerge.profile.memory")
    monkeypatch.setattr(module, "_STATUS", "/nowhere/status")
    with submerge.profile() as p:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    assert p.peak["rss"] == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert p.peak["anonymous"] is None


def device(*, used: bool) -> SimpleNamespace:
    """A stand-in for torch with two devices; asking them before they are used would start them."""
    now = {0: 10, 1: 20}

    def ask(factor: int) -> Any:
        def answer(index: int) -> int:
            assert used
            return now[index] * factor

        return answer

    cuda = SimpleNamespace(
        is_initialized=lambda: used,
        device_count=lambda: 2,
        memory_allocated=ask(1),
        memory_reserved=ask(2),
        max_memory_allocated=ask(3),
        max_memory_reserved=ask(4),
    )
    return SimpleNamespace(cuda=cuda)


def test_device_memory_is_the_sum_over_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", device(used=True))
    with submerge.profile() as p:
        pass
    assert p.average["vram"] == 30
    assert p.average["vram_reserved"] == 60
    # The most there ever was, 90, was before this profile.
    assert p.peak["vram"] == 30


def test_a_device_that_is_not_used_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", device(used=False))
    with submerge.profile() as p:
        pass
    assert p.peak["vram"] is None


def run(script: str) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


# The process.


def test_profiling_imports_no_heavy_library() -> None:
    script = (
        "import sys, submerge\nwith submerge.profile() as p: p.trace()\n"
        "print({'torch', 'numpy', 'rich', 'psutil', 'click'} & set(sys.modules))"
    )
    assert run(script) == "set()"


def test_the_thread_ends_with_the_profile() -> None:
    def running() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    def fail() -> None:
        assert "submerge-profile" in running()
        raise KeyError

    with pytest.raises(KeyError), submerge.profile():
        fail()
    assert "submerge-profile" not in running()


def test_the_interval_must_be_positive() -> None:
    for interval in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="interval: expected seconds above 0"):
            submerge.profile(interval)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_child_leaves_the_profile_alone_and_may_start_its_own() -> None:
    with submerge.profile(interval=0.001) as p:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            with span("in the child"):
                pass
            kept = len(p.spans)
            with submerge.profile() as own, span("own"):
                pass
            p.__exit__()
            os._exit(0 if (kept, names(own)) == (0, ["own"]) else 1)
        assert os.waitpid(child, 0)[1] == 0
        with span("in the parent"):
            pass
    assert names(p) == ["in the parent"]


def test_merging_marks_its_phases(tmp_path: Path) -> None:
    models = {
        "a": str(save_file(tmp_path / "a.safetensors", SCHNELL, "bfl")),
        "b": str(save_file(tmp_path / "b.safetensors", KREA, "bfl")),
    }
    with submerge.profile() as p, span("whole"):
        report = submerge.merge({"models": models, "alpha": 0.5}, tmp_path / "out.safetensors")
    whole, *phases = p.spans
    assert [s.name for s in phases] == ["open", "compute", "commit"]
    assert {s.name: pytest.approx(s.seconds) for s in phases} == report.run.phases
    assert all(whole.start <= s.start and s.end <= whole.end for s in phases)
    assert [s.depth for s in p.spans] == [0, 1, 1, 1]


def test_the_command_writes_a_timeline_of_a_merge(tmp_path: Path) -> None:
    a = str(save_file(tmp_path / "a.safetensors", SCHNELL, "bfl"))
    b = str(save_file(tmp_path / "b.safetensors", SCHNELL, "bfl"))
    out, trace = tmp_path / "out.safetensors", tmp_path / "trace.json"
    assert cli._run(["merge", a, b, "-q", "-o", str(out), "--trace", str(trace)]) == 0
    told = json.loads(trace.read_text(encoding="utf-8"))
    check_trace(told)
    bars = [event["name"] for event in told["traceEvents"] if event["ph"] == "X"]
    assert bars == ["merging", "open", "compute", "commit"]


# The trace.


def check_trace(trace: dict[str, Any]) -> None:
    """The rules of the trace event format for the object form and the three kinds of event used."""
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert isinstance(event["cat"], str)
            assert isinstance(event["args"], dict)
        elif event["ph"] == "C":
            assert event["args"]
            assert all(isinstance(value, int | float) for value in event["args"].values())
        else:
            assert event["ph"] == "M"
            assert event["name"] in ("process_name", "thread_name")
            assert set(event["args"]) == {"name"}
    bars = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for first in bars:
        for second in bars:
            if first["tid"] == second["tid"] and first["ts"] < second["ts"]:
                # Bars of a thread lie one after the other or one within the other.
                begun, ended = second["ts"], second["ts"] + second["dur"]
                first_ended = first["ts"] + first["dur"]
                assert first_ended <= begun + 0.002 or ended <= first_ended + 0.002


def test_the_trace_follows_the_format(tmp_path: Path) -> None:
    with submerge.profile(interval=0.005) as p:
        with span("outer", prompt=0), span("inner"):
            time.sleep(0.03)
        with span("last"):
            pass
    p.save(tmp_path / "trace.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    check_trace(trace)
    bars = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [bar["name"] for bar in bars] == ["outer", "inner", "last"]
    assert bars[0]["args"] == {"prompt": 0}
    assert bars[1]["dur"] == pytest.approx(p.spans[1].seconds * 1e6, abs=0.001)
    curves = [event for event in trace["traceEvents"] if event["name"] == "resident memory"]
    assert len(curves) == len(p.samples)
    assert round(curves[0]["args"]["MB"] * MB) == p.samples[0].memory.rss


def test_the_profile_is_plain_data() -> None:
    with submerge.profile() as p, span("one"):
        pass
    told = json.loads(json.dumps(p.to_dict(), allow_nan=False))
    assert set(told) == {"seconds", "interval", "peak", "average", "samples", "spans"}
    assert set(told["peak"]) == set(told["average"]) == set(KINDS)
    assert told["spans"][0]["name"] == "one"
    assert set(told["samples"][0]) == {"seconds", *KINDS}


# The environment, and files.


def test_the_environment_names_versions_and_hardware() -> None:
    found = environment(device="cpu", dtype="bfloat16")
    assert found["submerge"] == submerge.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == __import__("numpy").__version__
    assert (found["device"], found["dtype"]) == ("cpu", "bfloat16")
    assert found["cores"] >= 1
    assert None not in found.values()
    assert json.loads(json.dumps(found)) == found


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_whole(target, "é")
    assert target.read_bytes() == "é".encode()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.txt", "folder"]


@linux
@pytest.mark.serial
def test_a_watch_sees_what_was_held_only_for_a_while() -> None:
    size = 200 << 20
    with Watch() as watch:
        with watch.peak() as quiet:
            pass
        with watch.peak() as loud:
            held = bytearray(b"x") * size
            assert held[-1]
            del held
        with watch.peak() as after:
            pass
    assert quiet["rss"] is not None
    assert loud["rss"] is not None
    assert after["rss"] is not None
    assert loud["rss"] - quiet["rss"] > 0.9 * size
    assert loud["rss"] - after["rss"] > 0.9 * size


def test_the_larger_of_two_readings_knows_what_either_knows() -> None:
    assert larger({"rss": 1, "vram": None}, {"rss": 3, "file": 2}) == {
        "rss": 3,
        "vram": None,
        "file": 2,
    }
