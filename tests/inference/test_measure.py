"""Memory and speed of tiny pipelines, each in a process of its own."""

from __future__ import annotations

import importlib
import json
import subprocess
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

import submerge
from submerge import CheckpointError, PlanError, RecipeError, SubmergeError, cli
from submerge.measure import Workload, child
from submerge.page import build
from submerge.profile import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# `submerge.measure` is the function; this is its module.
measuring: Any = importlib.import_module("submerge.measure")


@pytest.fixture(scope="module")
def found(pipelines: dict[str, Path]) -> Iterator[submerge.Measurement]:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        # Threads that wait for each other tell little on a busy machine.
        patch.setenv("OMP_NUM_THREADS", "1")
        yield submerge.measure(
            pipelines["merged"],
            workloads=["steps=1,size=64,images=2", {"steps": 3, "size": "32x64", "images": 1}],
            load={"device": "cpu", "dtype": "f32"},
            rounds=1,
            notify=told.append,
        )
    assert told == ["measuring merged, round 1 of 1"]


def test_each_model_at_each_workload(found: submerge.Measurement) -> None:
    rows = [(r["model"], r["workload"], r["images"]) for r in found.results]
    assert rows == [
        ("merged", "1 step, 64x64", 2),
        ("merged", "3 steps, 32x64", 1),
    ]
    assert [model["role"] for model in found.models] == ["merge"]
    results: list[Any] = list(found.results)
    for result in results:
        assert result["least_seconds"] <= result["seconds"] <= result["most_seconds"]
        assert 0 < sum(result["phases"].values()) <= result["most_seconds"]
        assert set(result["phases"]) == {"text", "denoise", "decode"}
        assert set(result["phase_peaks"]) == set(result["phases"])
        assert all(most["rss"] <= result["peak"]["rss"] for most in result["phase_peaks"].values())
        assert set(result["peak"]) == set(result["average"]) == set(KINDS)
        assert result["average"]["rss"] <= result["peak"]["rss"]
        assert result["peak"]["vram"] is None
    assert [result["options"]["steps"] for result in found.results] == [1, 3]


def test_the_spans_say_where_the_time_went(found: submerge.Measurement) -> None:
    for line in found.timelines:
        spans = line["spans"]
        outer = [span["name"] for span in spans if span["depth"] == 0]
        assert outer == ["import", "load", "workload", "workload"]
        images = [span for span in spans if span["name"] == "image"]
        assert [i["details"]["warm_up"] for i in images] == [True, False, False, True, False]
        first = next(r for r in found.results if r["model"] == line["model"])
        timed = [span["seconds"] for span in images[1:3]]
        assert first["seconds"] == pytest.approx(median(timed), rel=0.1, abs=0.01)
        assert first["first_seconds"] == pytest.approx(images[0]["seconds"], rel=0.1, abs=0.01)
        inside = [s["name"] for s in spans if s["depth"] == 2]
        assert {"text", "denoise", "decode"} <= set(inside)
        # No image is spared its text: each has a prompt of its own.
        assert inside.count("text") == len(images)
        # Loading imports nothing more: the time of the libraries is not taken for the model's.
        imported, loaded = (span["seconds"] for span in spans[:2])
        assert loaded < imported


def test_the_peak_counts_the_whole_process(found: submerge.Measurement) -> None:
    models: list[Any] = list(found.models)
    for model in models:
        lines: list[Any] = [one for one in found.timelines if one["model"] == model["name"]]
        (line,) = lines
        assert model["peak"]["rss"] >= max(sample["rss"] for sample in line["samples"])
        # torch and diffusers alone take more than 150 MB.
        assert model["peak"]["rss"] > 150_000_000
        assert model["load_seconds"] > 0


def test_json_table_and_trace(found: submerge.Measurement, tmp_path: Path) -> None:
    found.save(tmp_path / "measure.json")
    found.save_trace(tmp_path / "trace.json")
    told = json.loads((tmp_path / "measure.json").read_text(encoding="utf-8"))
    assert told["format"] == "submerge-measure/1"
    assert told["environment"]["device"] == "cpu"
    assert told["environment"]["dtype"] == "float32"
    assert "torch" in told["environment"]
    lines = found.table().splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:3] == ["model", "workload", "n"]
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [e["args"]["name"] for e in trace if e["name"] == "process_name"]
    assert names == ["merged, round 1"]
    assert {e["name"] for e in trace if e["ph"] == "X"} >= {"import", "load", "image", "denoise"}


def test_the_report_shows_it(found: submerge.Measurement) -> None:
    page = build(measure=found.to_dict())
    assert [section.key for section in page.sections] == ["memory", "environment"]
    html = page.html()
    assert html.count("<svg") == 1
    assert "3 steps, 32x64" in html


def test_models_take_turns_and_figures_are_over_all_rounds(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = dict.fromkeys(KINDS)
    asked = []

    def child(name: str, _: dict[str, Any]) -> dict[str, Any]:
        asked.append(name)
        turn = (len(asked) - 1) // 2
        rss = kinds | {"rss": 100 + 10 * turn}
        result = {
            "workload": "w",
            "first_seconds": 9.0 + turn,
            "seconds": [[1.0, 2.0, 6.0], [4.0, 5.0, 12.0]][turn],
            "cpu_seconds": [[1.0, 2.0, 3.0], [3.0, 3.0, 3.0]][turn],
            "phases": [{"denoise": value} for value in ([1, 2, 6], [4, 5, 12])[turn]],
            "batch": 2,
            "options": {"steps": 4},
            "phase_peaks": {"denoise": rss},
            "peak": rss | {"vram": 7 if turn else None},
            "average": rss,
        }
        samples = [{"seconds": 0.0, **rss}]
        timeline = {"interval": 0.1, "samples": samples, "spans": [], "peak": rss}
        about = {"plan": "", "environment": {}, "process": 4000 + len(asked)}
        times = {"import_seconds": 3.0, "load_seconds": 5.0 + turn}
        return about | times | {"results": [result], "timeline": timeline}

    monkeypatch.setattr(measuring, "_child", child)
    made = submerge.measure(pipelines["merged"], parents=[pipelines["krea"]], rounds=2)
    # A folder called `pipeline` is called so where nothing better is known.
    assert asked == ["merged", "pipeline"] * 2
    result = made.results[0]
    assert (result["images"], result["batch"]) == (12, 2)
    assert (result["least_seconds"], result["seconds"], result["most_seconds"]) == (1, 4.5, 12)
    assert (result["first_seconds"], result["cpu_seconds"]) == (9.5, 3)
    assert result["phases"]["denoise"] == 5
    assert result["phase_peaks"] == {"denoise": kinds | {"rss": 110}}
    assert result["images_per_minute"] == 12
    assert (result["peak"]["rss"], result["average"]["rss"]) == (110, 105)
    # Not known in every round: not known.
    assert result["peak"]["vram"] is None
    assert [(m["role"], m["rounds"], m["load_seconds"]) for m in made.models] == [
        ("merge", 2, 5.5),
        ("parent", 2, 5.5),
    ]
    assert len({event["pid"] for event in made.trace()["traceEvents"]}) == 4


def test_a_model_that_cannot_be_loaded_is_refused_before_any_is_measured(
    pipelines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_child", pytest.fail)
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(FileNotFoundError):
        submerge.measure(pipelines["merged"], parents=[tmp_path / "nothing"])
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        submerge.measure(pipelines["merged"], parents=[tmp_path / "broken.safetensors"])
    with pytest.raises(PlanError, match="budget"):
        submerge.measure(pipelines["merged"], load={"memory_budget": "1MB", "device": "cpu"})


def test_an_error_of_the_process_is_raised_here(tmp_path: Path) -> None:
    """As a model that is damaged after it was looked at, or a device that is not there."""
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 64)
    job = {"path": str(tmp_path / "broken.safetensors"), "load": {}, "workloads": [{}]}
    (tmp_path / "job").write_text(json.dumps(job | {"interval": 0.1}), encoding="utf-8")
    child.main(str(tmp_path / "job"), str(tmp_path / "result"))
    told = json.loads((tmp_path / "result").read_text(encoding="utf-8"))
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        raise measuring._error(told)
    (tmp_path / "job").write_text(json.dumps(job | {"path": "no/where/else", "interval": 0.1}))
    child.main(str(tmp_path / "job"), str(tmp_path / "result"))
    told = json.loads((tmp_path / "result").read_text(encoding="utf-8"))
    with pytest.raises(OSError, match="no/where/else"):
        raise measuring._error(told)


@pytest.mark.parametrize(
    ("code", "message"),
    [(-9, "killed by SIGKILL"), (3, "ended with code 3: out of luck")],
)
def test_a_process_that_dies_is_an_error(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def died(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, code, b"", b"Traceback\nout of luck\n")

    monkeypatch.setattr(subprocess, "run", died)
    with pytest.raises(SubmergeError, match=message):
        submerge.measure(pipelines["merged"], rounds=1)


def test_an_error_of_the_process_is_raised_as_it_was_there(pipelines: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match=r"^width: expected a multiple of 4, got 33"):
        submerge.measure(
            pipelines["merged"],
            rounds=1,
            workloads=[{"width": 33, "height": 32, "steps": 1}],
            load={"device": "cpu"},
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("steps", "expected name=value with each name once, got `steps`"),
        ("step=4", "unknown field `step`, expected one of `images`"),
        ("steps=4,steps=8", "expected name=value with each name once, got `steps=8`"),
        ("steps=four", r"workload\.steps: expected a whole number, got the text `four`"),
        ("size=512x", r"workload\.size: expected `1024` or `1024x768`"),
        ("images=0", r"workload\.images: expected a whole number of at least 1, got 0"),
        ({"stepz": 4}, "workload: unknown field `stepz`"),
    ],
)
def test_a_malformed_workload_is_refused(given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Workload.of(given)


def test_a_workload_says_what_it_is() -> None:
    assert Workload.of({}).name == "the model's defaults"
    given = Workload.of("steps=4, size=512x768, batch=2, images=5, guidance=2.5")
    assert given.name == "4 steps, 512x768, batch 2, guidance 2.5"
    assert given.images == 5


def test_the_command(
    found: submerge.Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    asked: dict[str, Any] = {}

    def instead(model: str, **keywords: Any) -> submerge.Measurement:
        asked.update(keywords, model=model)
        return found

    monkeypatch.setattr(measuring, "measure", instead)
    out, trace = tmp_path / "measure.json", tmp_path / "trace.json"
    given = ["--parents", "a", "b", "--workload", "steps=1", "--memory-budget", "2GB"]
    given += ["--rounds", "3", "-o", str(out), "--trace", str(trace)]
    assert cli._run(["measure", "merged", *given]) == 0
    assert asked["model"] == "merged"
    assert (asked["parents"], asked["workloads"], asked["rounds"]) == (["a", "b"], ("steps=1",), 3)
    assert asked["load"] == {"memory_budget": "2GB"}
    assert json.loads(out.read_text(encoding="utf-8")) == found.to_dict()
    assert trace.exists()
    assert capfd.readouterr().out == found.table() + "\n"


def test_a_wrong_workload_is_wrong_usage() -> None:
    assert cli._run(["measure", "x", "--workload", "steps=x"]) == 2
