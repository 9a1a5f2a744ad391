"""The compiled core at its boundary: plans by hand in, files and figures out."""

from __future__ import annotations

import json
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import boundary
import factory
import oracle
from boundary import blended, execute, linear, place, rows
from submerge import CheckpointError, PlanError, _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INFO = json.loads(_core.build_info())
COLUMNS = 301
SHAPE = (457, COLUMNS)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two files with one float tensor, one row vector, one scalar and one without elements."""
    made = []
    for seed, name in enumerate("ab"):
        random = np.random.default_rng(seed)
        arrays = {
            "w": random.normal(size=SHAPE).astype(np.float32),
            "v": random.normal(size=17).astype(np.float32),
            "scalar": np.array(seed + 0.5, np.float32),
            "none": np.zeros((3, 0), np.float32),
        }
        made.append(factory.write(tmp_path / f"{name}.safetensors", arrays))
    return made


def test_what_it_says_of_itself() -> None:
    assert INFO["plan_version"] == 1
    assert INFO["numerics"] == 2
    assert INFO["profile"] in ("release", "debug")
    assert INFO["isas"][0] == "scalar"
    assert set(INFO["ops"]) >= {"copy", "linear", "same"}


def test_a_header_as_the_package_reads_it(pair: list[Path]) -> None:
    found = boundary.read_header(pair[0])
    theirs = factory.header(pair[0])
    assert found["metadata"] == theirs.pop("__metadata__")
    assert found["data_start"] + max(t["data_offsets"][1] for t in theirs.values()) == found["size"]
    assert {
        t["name"]: [t["dtype"], t["shape"], [t["start"], t["end"]]] for t in found["tensors"]
    } == {name: [t["dtype"], t["shape"], t["data_offsets"]] for name, t in theirs.items()}


def test_a_weighted_sum_and_its_figures(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    plan = blended(out, pair, [0.3, 0.7])
    report = execute(plan)
    a, b = map(oracle.read, pair)
    expected = {name: oracle.weighted([a[name], b[name]], [0.3, 0.7], "F32") for name in a}
    assert oracle.differing(oracle.read(out), expected) == []
    assert report["bytes_written"] == out.stat().st_size
    assert report["bytes_read"] == 2 * sum(array.nbytes for array in a.values())
    for figure in report["units"]:
        name = plan["units"][figure["unit"]]["name"]
        x, y = a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel()
        assert figure["elements"] == x.size
        assert figure["changed"] == int((expected[name] != a[name]).sum())
        assert figure["norm2"] == pytest.approx([x @ x, y @ y], rel=1e-6)
        assert figure["dot"] == pytest.approx([x @ x, x @ y], rel=1e-6, abs=1e-3)
        assert figure["delta2"] == pytest.approx([0, (y - x) @ (y - x)], rel=1e-6)
        assert (figure["nonfinite"], figure["nonfinite_out"]) == ([0, 0], 0)
    assert {plan["units"][f["unit"]]["name"] for f in report["units"]} == {"w", "v", "scalar"}


def test_rows_can_be_stacked_cut_and_reordered(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    plan = blended(out, pair, [1, 1])
    plan["outputs"] = [{"file": 0, "name": "x", "dtype": "BF16", "shape": [10, COLUMNS]}]
    parts: list[tuple[int, int, list[list[dict[str, Any]]], dict[str, Any]]] = [
        (0, 4, [rows(1, "w", 453, 457)], {"copy": {}}),
        (4, 5, [rows(0, "w", 7, 8), rows(1, "w", 9, 10)], linear(-1.5, 0.25)),
        (5, 10, [rows(0, "w", 0, 5)], linear(2.0)),
    ]
    plan["units"] = [
        {"name": f"u{i}", "output": 0, "start": s, "end": e, "operands": operands, "op": op}
        for i, (s, e, operands, op) in enumerate(parts)
    ]
    execute(plan)
    a, b = (oracle.read(path)["w"] for path in pair)
    expected = [
        oracle.weighted([b[453:457]], [1.0], "BF16"),  # another dtype: rounded once
        oracle.weighted([a[7:8], b[9:10]], [-1.5, 0.25], "BF16"),
        oracle.weighted([a[0:5]], [2.0], "BF16"),
    ]
    assert oracle.differing(oracle.read(out), {"x": np.concatenate(expected)}) == []


def test_a_network_becomes_a_vector(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    plan = blended(out, pair, [1, 1])
    plan["outputs"] = [{"file": 0, "name": "x", "dtype": "F32", "shape": [17]}]

    def mix(tensor: str, start: int, end: int) -> dict[str, Any]:
        operands = [place(i, tensor, start, end) for i in (0, 1)]
        return {"operands": operands, "weights": [0.5, 2.0]}

    layer = {"weight": mix("w", 20, 37), "bias": mix("v", 0, 17), "activation": "none"}
    inputs = [math.sin(i) for i in range(COLUMNS)]
    network = [{"network": {"input": inputs, "layers": [layer]}}]
    unit = {"name": "u", "output": 0, "start": 0, "end": 17, "op": linear(1.0, 0.5)}
    plan["units"] = [unit | {"operands": [rows(0, "v", 0, 17), network]}]
    execute(plan)
    a, b = (
        {name: array.astype(np.float64) for name, array in oracle.read(path).items()}
        for path in pair
    )
    weight, bias = (0.5 * a[n] + 2.0 * b[n] for n in ("w", "v"))
    vector = np.cumsum(weight[20:37] * np.array(inputs), axis=1)[:, -1] + bias
    expected = oracle.weighted(
        [a["v"].astype(np.float32), vector.astype(np.float32)], [1.0, 0.5], "F32"
    )
    assert oracle.differing(oracle.read(out), {"x": expected}) == []


@pytest.mark.parametrize("isa", INFO["isas"])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_the_report_says_how_it_ran(pair: list[Path], tmp_path: Path, isa: str, io: str) -> None:
    plan = blended(tmp_path / "out.safetensors", pair, [0.5, 0.5])
    report = execute(plan, isa=isa, io=io, threads=3, chunk=1, memory_budget=4 << 20)
    assert (report["isa"], report["io"], report["threads"]) == (isa, io, 3)
    assert 0 < report["working_bytes"] <= 4 << 20
    assert report["seconds"] == pytest.approx(sum(report["phases"].values()), rel=0.01)
    assert report["peak_rss"] > report["working_bytes"] // 8


def test_measuring_writes_nothing_and_finds_the_same(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "out.safetensors"  # its folder does not even exist
    plan = blended(out, pair, [0.5, 0.5])
    measured = execute(plan, mode="measure")
    assert not out.parent.exists()
    out.parent.mkdir()
    assert execute(plan)["units"] == measured["units"]
    assert measured["bytes_written"] == 0


def test_checking_names_the_place(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    plan = blended(out, pair, [0.5, 0.5])
    execute(plan)
    execute(plan, mode="check")
    start = boundary.read_header(out)["data_start"]
    tensor = factory.header(out)["w"]["data_offsets"]
    for at, name in ((start + tensor[0] + 5000, "w"), (start - 2, "header")):
        content = bytearray(out.read_bytes())
        content[at] ^= 4
        out.write_bytes(content)
        with pytest.raises(PlanError, match=rf"`{name}` differs at byte|its {name} differs"):
            execute(plan, mode="check")
        content[at] ^= 4
        out.write_bytes(content)
    execute(plan, mode="check")


def test_statistics_can_be_left_out(pair: list[Path], tmp_path: Path) -> None:
    plan = blended(tmp_path / "out.safetensors", pair, [0.5, 0.5])
    for figure in execute(plan, stats=False)["units"]:
        assert (figure["norm2"], figure["dot"], figure["delta2"]) == ([], [], [])
        assert figure["elements"] > 0


def test_progress_grows_to_the_end_on_the_calling_thread(tmp_path: Path) -> None:
    sparse = [
        factory.save_sparse(tmp_path / f"{n}.safetensors", factory.Flux(1, 1, 1024, 64))
        for n in "ab"
    ]
    plan = blended(tmp_path / "out.safetensors", sparse, [0.5, 0.5])
    seen: list[tuple[int, int]] = []
    begun = time.monotonic()

    def watch(done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append((done, total))

    execute(plan, progress=watch, mode="measure", threads=1, isa="scalar", chunk=1)
    elapsed = time.monotonic() - begun
    # At the beginning, at the end, and at most ten times a second between them.
    assert 2 <= len(seen) <= elapsed * 10 + 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    total = sum(t["end"] - t["start"] for t in boundary.read_header(sparse[0])["tensors"])
    assert all(whole == total and 0 <= done <= total for done, whole in seen)
    assert (seen[0], seen[-1]) == ((0, total), (total, total))


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda plan: plan.pop(key) and None


def _unit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plan: plan["units"][0].update(changes)


# `w` is the first unit by name of the plan built below.
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown field": (lambda p: p.update(seed=0), "unknown field `seed`"),
    "a field missing": (_drop("texts"), "missing field `texts`"),
    "another version": (lambda p: p.update(version=2), "version 2, expected 1"),
    "a dtype unknown": (lambda p: p["outputs"][0].update(dtype="BF17"), "unknown variant `BF17`"),
    "an op unknown": (_unit(op={"slerp": {}}), "unknown variant `slerp`"),
    "no such source": (_unit(operands=[rows(2, "w", 0, 457)] * 2), "source 2, expected one of 2"),
    "no such tensor": (_unit(operands=[rows(0, "q", 0, 457)] * 2), "has no tensor `q`"),
    "rows beyond the end": (_unit(operands=[rows(0, "w", 1, 458)] * 2), "rows 1..458 of `w`"),
    "rows backwards": (_unit(operands=[rows(0, "w", 5, 4)] * 2), "rows 5..4"),
    "another count": (_unit(operands=[rows(0, "w", 0, 9)] * 2), "rows differ, expected 457, got 9"),
    "another width": (
        lambda p: p["outputs"][0].update(shape=[457, 300]),
        "elements in a row differ, expected 300, got 301",
    ),
    "a hole": (_unit(start=1), "expected to start at 0"),
    "an overlap": (lambda p: p["units"].insert(1, p["units"][0]), "expected to start at 457"),
    "not to the end": (_unit(end=456), "filled up to row 456|rows differ"),
    "beyond the output": (_unit(end=999), "expected to start at 0 and to end by 457"),
    "out of order": (lambda p: p["units"].reverse(), "filled up to row 0|out of order"),
    "a unit too many": (
        lambda p: p["units"].append({**p["units"][0], "output": 9}),
        "output 9 out of order",
    ),
    "weights too few": (_unit(op=linear(1.0)), "1 weights for 2 operands"),
    "no operand": (_unit(operands=[], op=linear()), "0 weights for 0 operands"),
    "a weight too large": (_unit(op=linear(1e39, 1)), "expected a finite f32"),
    "a rotation of a share": (
        _unit(
            op={
                "matrix": {
                    "weights": [0.5],
                    "lambda": 1.0,
                    "apart": False,
                    "make": {"rotated": {"alignment": 1.0, "alpha": 0.0, "centralization": 0.0}},
                }
            }
        ),
        "expected one model of weight 1",
    ),
    "a copy of two": (_unit(op={"copy": {}}), "1 weights for 2 operands"),
    "a name twice": (
        lambda p: p["outputs"].insert(1, p["outputs"][0]),
        "named twice in one file",
    ),
    "a file unknown": (lambda p: p["outputs"][0].update(file=1), "file 1, expected 0..1"),
    "too large a shape": (
        lambda p: p["outputs"][0].update(shape=[1 << 40, 1 << 40]),
        "do not make a whole number of bytes below 2",
    ),
    "a path outside": (lambda p: p["files"][0].update(path="../x"), "relative path inside"),
    "a path in a file": (lambda p: p["files"][0].update(path="x"), "relative path inside"),
    "a stale identity": (
        lambda p: p["sources"][1]["file"]["identity"].update(size=1),
        "is not the file the plan was made for",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plan_that_does_not_fit_is_refused(pair: list[Path], tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    out = tmp_path / "out" / "out.safetensors"
    out.parent.mkdir()
    plan = blended(out, pair, [0.5, 0.5])
    for key in ("outputs", "units"):
        plan[key].sort(key=lambda part: ["w", "v", "scalar", "none"].index(part["name"]))
    for at, unit in enumerate(plan["units"]):
        unit["output"] = at
    execute(json.loads(json.dumps(plan)), mode="measure")
    change(plan)
    with pytest.raises(PlanError, match=message):
        execute(plan)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "0 threads"),
        ({"chunk": 0}, "chunks of 0 bytes"),
        ({"isa": "mmx"}, "isa `mmx`, expected auto or scalar"),
        ({"mode": "guess"}, "unknown variant `guess`"),
        ({"memory_budget": 1000}, "1000 bytes of working memory are too few, expected at least"),
        ({"hurry": True}, "unknown field `hurry`"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    pair: list[Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(PlanError, match=message):
        execute(blended(out, pair, [0.5, 0.5]), **options)
    assert not out.exists()


def test_the_smallest_budget_named_is_enough(pair: list[Path], tmp_path: Path) -> None:
    plan = blended(tmp_path / "out.safetensors", pair, [0.5, 0.5])
    with pytest.raises(PlanError) as caught:
        execute(plan, memory_budget=1000)
    words = caught.value.message.split()
    needed = int(words[words.index("least") + 1])
    assert "`memory_budget`" in str(caught.value.hint)
    with pytest.raises(PlanError):
        execute(plan, memory_budget=needed - 1)
    report = execute(plan, memory_budget=needed)
    assert (report["working_bytes"], report["threads"]) == (needed, 1)


def test_a_damaged_input_is_named(pair: list[Path], tmp_path: Path) -> None:
    plan = blended(tmp_path / "out.safetensors", pair, [0.5, 0.5])
    content = pair[1].read_bytes()
    pair[1].write_bytes(content[:8] + b"[" + content[9:])
    plan["sources"][1] = boundary.source(pair[1])
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        execute(plan)


def test_what_is_missing_stays_an_oserror(pair: list[Path], tmp_path: Path) -> None:
    plan = blended(tmp_path / "none" / "out.safetensors", pair, [0.5, 0.5])
    with pytest.raises(FileNotFoundError) as caught:
        execute(plan)
    assert caught.value.filename == str(tmp_path / "none")
    assert any("create the folder" in note for note in caught.value.__notes__)
    pair[0].unlink()
    with pytest.raises(FileNotFoundError) as caught:
        execute(plan)
    assert caught.value.filename == str(pair[0])
