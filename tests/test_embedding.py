"""Inside another program: submerge stops when asked, from anywhere, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factory
import oracle
import submerge
from factory import KREA, SCHNELL
from jobs import GENEROUS, NARROWER, Scene, names, run_python, start, until, written
from submerge import Cancelled, CancelToken, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

IO = pytest.mark.parametrize("io", ["mmap", "pread"])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def short(tmp_path: Path) -> Scene:
    return Scene(tmp_path, NARROWER)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    return {
        "schnell": str(factory.save_file(tmp_path / "pair" / "schnell.safetensors", SCHNELL)),
        "krea": str(factory.save_file(tmp_path / "pair" / "krea.safetensors", KREA, "bfl")),
    }


def slowly(
    scene: Scene,
    io: Any,
    progress: Callable[[int, int], object] | None = None,
    cancel: CancelToken | None = None,
) -> None:
    """A merge of about a second."""
    submerge.merge(
        scene.recipe(),
        scene.output,
        io=io,
        threads=1,
        isa="scalar",
        chunk=1,
        progress=progress,
        cancel=cancel,
    )


@IO
def test_a_token_cancels_from_another_thread(scene: Scene, io: str) -> None:
    token, asked = CancelToken(), []

    def cancel() -> None:
        time.sleep(0.2)
        asked.append(time.monotonic())
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled, match="nothing was written"):
        slowly(scene, io, cancel=token)
    ended = time.monotonic()
    thread.join()
    assert ended - asked[0] < GENEROUS
    assert token.cancelled
    assert scene.left() == []


@IO
def test_a_callback_cancels_by_returning_false(scene: Scene, io: str) -> None:
    asked: list[float] = []

    def watch(_done: int, _total: int) -> bool:
        asked.append(time.monotonic())
        return len(asked) < 2

    with pytest.raises(Cancelled):
        slowly(scene, io, watch)
    assert time.monotonic() - asked[-1] < GENEROUS
    assert len(asked) == 2  # it is not called again once it has said no
    assert scene.left() == []


class Odd(BaseException):
    """An exception that no `except Exception` would catch."""


@IO
def test_what_a_callback_raises_comes_through(scene: Scene, io: str) -> None:
    thrown = Odd("mine")

    def watch(_done: int, _total: int) -> None:
        raise thrown

    with pytest.raises(Odd) as caught:
        slowly(scene, io, watch)
    assert caught.value is thrown
    assert scene.left() == []


def test_a_callback_may_return_anything_else(pair: dict[str, str], tmp_path: Path) -> None:
    for answer in (None, True, 1, "go on"):
        out = tmp_path / f"{answer}.safetensors"
        submerge.merge({"models": pair}, out, progress=lambda *_, answer=answer: answer)
        assert out.exists()


def test_a_cancelled_token_stops_a_run_at_once(pair: dict[str, str], tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        submerge.merge({"models": pair}, tmp_path / "out.safetensors", cancel=token)
    assert not (tmp_path / "out.safetensors").exists()


@IO
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_command_line(
    scene: Scene, io: str, number: signal.Signals, code: int
) -> None:
    process = start(scene.command("--io", io))
    until(lambda: written(process.pid) > 16 << 20)
    asked = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < GENEROUS + 0.5  # and the interpreter's own end
    assert process.returncode == code
    assert errors.strip().endswith("nothing was written")
    assert scene.left() == []


INTERRUPTED = """
import json, signal, sys, threading, time, submerge
a, b, out = sys.argv[1:]
timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
begun = time.monotonic()
timer.start()
try:
    submerge.merge({"models": {"a": a, "b": b}}, out, threads=1, isa="scalar", chunk=1)
except KeyboardInterrupt:
    print(json.dumps({"seconds": time.monotonic() - begun - 0.3}))
"""


def test_ctrl_c_in_an_interpreter_is_a_keyboard_interrupt(scene: Scene) -> None:
    found = run_python(INTERRUPTED, *scene.models.values(), scene.output)
    assert float(str(found["seconds"])) < GENEROUS
    assert scene.left() == []


@IO
def test_a_killed_process_leaves_nothing(scene: Scene, io: str) -> None:
    process = start(scene.command("--io", io))
    until(lambda: written(process.pid) > 64 << 20)
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert scene.left() == []


def test_many_threads_merge_at_once(pair: dict[str, str], tmp_path: Path) -> None:
    reference = tmp_path / "reference.safetensors"
    submerge.merge({"models": pair, "alpha": 0.3}, reference)
    outputs = [tmp_path / f"{i}.safetensors" for i in range(12)]
    failures: list[BaseException] = []

    def work(at: int) -> None:
        try:
            how: dict[str, Any] = {"threads": 1 + at % 3, "io": ("mmap", "pread")[at % 2]}
            submerge.merge({"models": pair, "alpha": 0.3}, outputs[at], **how)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(outputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert {oracle.digest(out) for out in outputs} == {oracle.digest(reference)}


@pytest.mark.parametrize("name", ["merged.safetensors", "folder"])
def test_of_many_threads_with_one_output_one_succeeds(
    pair: dict[str, str], tmp_path: Path, name: str
) -> None:
    shards = {"shard_size": 50_000} if name == "folder" else {}
    made = {"models": pair, "output": {"layout": "diffusers", **shards}}
    submerge.merge(made, tmp_path / name)
    expected = {
        p.name: oracle.digest(p)
        for p in [tmp_path / name, *(tmp_path / name).glob("*")]
        if p.is_file()
    }
    for attempt in range(8):
        out = tmp_path / str(attempt) / name
        out.parent.mkdir()
        outcomes: list[str] = []

        def work(out: Path = out, outcomes: list[str] = outcomes) -> None:
            try:
                submerge.merge(made, out)
                outcomes.append("done")
            except PlanError as error:
                outcomes.append(error.message.rpartition(": ")[2])

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(outcomes) == ["done", *["exists, expected a path that is free"] * 3]
        assert names(out.parent) == [name]
        assert {p.name: oracle.digest(p) for p in [out, *out.glob("*")] if p.is_file()} == expected


def native_threads() -> int:
    return len(names("/proc/self/task"))


def test_no_thread_and_no_file_outlives_a_run(
    pair: dict[str, str], scene: Scene, tmp_path: Path
) -> None:
    submerge.merge({"models": pair}, tmp_path / "warm.safetensors")
    before = native_threads(), len(names("/proc/self/fd"))
    for i in range(5):
        submerge.merge({"models": pair}, tmp_path / f"{i}.safetensors", threads=4)
        with pytest.raises(Cancelled):
            slowly(scene, "auto", lambda *_: False)
        with pytest.raises(PlanError):
            submerge.merge({"models": pair}, tmp_path / "warm.safetensors")
    assert (native_threads(), len(names("/proc/self/fd"))) == before


FORKING = """
import json, multiprocessing, os, sys, time, submerge
a, b, out = sys.argv[1:]
codes = []
def merge(name, progress=None):
    recipe = {"models": {"a": a, "b": b}}
    path = os.path.join(out, name)
    submerge.merge(recipe, path, threads=2, isa="scalar", chunk=1, progress=progress)
def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def fork(done, total):
    if codes:
        return
    worker = multiprocessing.get_context("fork").Process(target=sorted, args=([],))
    worker.start()
    worker.join()
    codes.append(worker.exitcode)
    for way in (lambda: os._exit(5), lambda: sys.exit(7), lambda: 1 / 0, lambda: None):
        child = os.fork()
        if child == 0:
            return way()
        codes.append(status(child))
merge("during.safetensors", fork)
child = os.fork()  # after a job, the child may merge itself
if child == 0:
    merge("child.safetensors")
    os._exit(3)
codes.append(status(child))
print(json.dumps({"codes": codes}))
"""


def test_forking_is_safe_during_and_after_a_run(short: Scene) -> None:
    found = run_python(FORKING, *short.models.values(), short.folder)
    assert found["codes"] == [0, 5, 7, 1, 1, 3]
    assert short.left() == ["child.safetensors", "during.safetensors"]
    assert oracle.digest(short.folder / "child.safetensors") == oracle.digest(
        short.folder / "during.safetensors"
    )


@IO
def test_an_input_truncated_meanwhile(scene: Scene, io: str) -> None:
    def cut(_done: int, _total: int) -> None:
        os.truncate(scene.models["krea"], 1 << 20)

    with pytest.raises(submerge.CheckpointError) as caught:
        slowly(scene, io, cut)
    assert "krea.safetensors" in caught.value.message
    assert scene.left() == []


@IO
def test_an_input_rewritten_meanwhile(short: Scene, io: str) -> None:
    path = Path(short.models["schnell"])

    def rewrite(_done: int, _total: int) -> None:
        with path.open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"\1" * 8)

    with pytest.raises(submerge.CheckpointError, match="changed while it was being read"):
        slowly(short, io, rewrite)
    assert short.left() == []


def test_a_read_only_folder(pair: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):
        folder.chmod(stat.S_IRWXU)
        pytest.skip("root may write anywhere")
    with pytest.raises(PermissionError) as caught:
        submerge.merge({"models": pair}, folder / "out.safetensors")
    assert str(folder) in str(caught.value.filename)
    assert names(folder) == []


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("overwrite", [True, False])
def test_an_input_under_another_name_is_never_the_output(
    pair: dict[str, str],
    tmp_path: Path,
    link: Callable[[str, Path], None],
    overwrite: bool,  # noqa: FBT001
) -> None:
    out = tmp_path / "out" / "merged.safetensors"
    out.parent.mkdir()
    link(pair["schnell"], out)
    before = oracle.digest(Path(pair["schnell"]))
    with pytest.raises(PlanError):
        submerge.merge({"models": pair}, out, overwrite=overwrite)
    assert names(out.parent) == [out.name]
    assert oracle.digest(Path(pair["schnell"])) == before


@pytest.mark.parametrize("name", ["merged.safetensors", "folder"])
def test_an_existing_output_is_replaced_in_one_step_or_not_at_all(
    pair: dict[str, str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out" / name
    out.parent.mkdir()
    submerge.merge({"models": pair, "alpha": 0.1}, out)
    weights = out if out.is_file() else out / "diffusion_pytorch_model.safetensors"
    old = weights.read_bytes()
    with pytest.raises(PlanError, match="exists") as caught:
        submerge.merge({"models": pair, "alpha": 0.9}, out)
    assert "`overwrite=True`" in str(caught.value.hint)
    assert weights.read_bytes() == old
    with weights.open("rb") as reader:
        submerge.merge({"models": pair, "alpha": 0.9}, out, overwrite=True)
        assert reader.read() == old
    assert weights.read_bytes() != old
    assert names(out.parent) == [name]
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        submerge.merge({"models": pair}, out, overwrite=True, cancel=token)
    assert names(out.parent) == [name]
