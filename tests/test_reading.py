"""Reading a file piece by piece: always from the file whose header was read, or an error."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

import boundary
import factory
import submerge
from submerge import _core
from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from submerge.checkpoint import TensorInfo

# More than a piece of the core's, and no multiple of one.
NUMBERS = (1 << 20) + 12345
PIECE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(0).integers(0, 1 << 16, NUMBERS, dtype=np.uint32)
    arrays = {"a": numbers.view(np.float32), "b": numbers[:7].view(np.float32)}
    return factory.write(tmp_path / "model.safetensors", arrays)


def opened(path: Path) -> tuple[Reading, TensorInfo, bytes]:
    """Return a reading, a tensor of more than one piece, and its bytes."""
    checkpoint = open_checkpoint(path)
    tensor = checkpoint.tensors["a"]
    begin = checkpoint.files[0].data_start + tensor.start
    return Reading(checkpoint), tensor, path.read_bytes()[begin : begin + tensor.nbytes]


def rewrite(path: Path) -> None:
    """Write other numbers, as many, and put the time back."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    times, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes()[:-8] + bytes(8))
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_and_grow(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


CHANGES = [rewrite, replace, cut, cut_and_grow]
posix = pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be changed there")


@pytest.mark.parametrize("skip", [0, 1, PIECE - 1, PIECE, PIECE + 1])
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 1, None])
def test_every_range_is_the_bytes_of_the_file(path: Path, skip: int, size: int | None) -> None:
    reading, tensor, truth = opened(path)
    size = tensor.nbytes - skip if size is None else size
    memory = bytearray(size + 2)
    reading.into(tensor, skip, memoryview(memory)[1 : size + 1])
    assert memory == b"\0" + truth[skip : skip + size] + b"\0"
    for begin, length in ((tensor.nbytes - 1, 2), (-1, 1), (0, tensor.nbytes + 1)):
        with pytest.raises(ValueError, match="bytes after"):
            reading.into(tensor, begin, bytearray(length))


def test_memory_that_cannot_be_filled_is_refused(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    reader = _core.Reader(str(path), json.dumps(checkpoint.files[0].identity))
    for memory in (b"12345678", memoryview(bytearray(8)).cast("I")):
        with pytest.raises(BufferError):
            reader.read_into(0, memory)  # type: ignore[arg-type]
    for offset in (path.stat().st_size - 1, (1 << 64) - 1):
        with pytest.raises(submerge.PlanError, match=r"expected at most \d+ bytes, got 2 at"):
            reader.read_into(offset, bytearray(2))


@posix
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_is_an_error_from_then_on(
    path: Path, change: Callable[[Path], None]
) -> None:
    reading, tensor, _ = opened(path)
    change(path)
    for _ in range(2):
        with pytest.raises(submerge.CheckpointError, match=r"model\.safetensors.*expected"):
            reading.into(tensor, 0, bytearray(tensor.nbytes))
        with pytest.raises(submerge.CheckpointError, match=r"model\.safetensors.*expected"):
            reading.check()


@posix
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_since_its_header_was_read_is_not_opened(
    path: Path, change: Callable[[Path], None]
) -> None:
    checkpoint = open_checkpoint(path)
    change(path)
    with pytest.raises(submerge.CheckpointError, match="is not the file that was opened") as caught:
        Reading(checkpoint)
    assert "load the model again" in str(caught.value.hint)


@posix
def test_a_file_that_is_gone_is_named(path: Path) -> None:
    reading, tensor, _ = opened(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="can no longer be found") as caught:
        reading.into(tensor, 0, bytearray(1))
    assert caught.value.filename == str(path)
    assert caught.value.__notes__ == ["hint: it was moved or removed meanwhile"]


def test_what_is_closed_raises(path: Path) -> None:
    reading, tensor, truth = opened(path)
    with reading:
        assert reading.sample(tensor, 0, 4) == truth[:4]
    for action in (reading.check, lambda: reading.into(tensor, 0, bytearray(1))):
        with pytest.raises(submerge.PlanError, match="was closed, expected it open"):
            action()
    reading.close()


def test_many_threads_read_at_once_and_one_may_close(path: Path) -> None:
    reading, tensor, truth = opened(path)
    wrong: list[object] = []
    stop = threading.Event()

    def read(skip: int) -> None:
        memory = bytearray(PIECE + 17)
        while not stop.is_set():
            try:
                reading.into(tensor, skip, memory)
            except submerge.PlanError as error:
                if "was closed" not in error.message:
                    wrong.append(error)
                return
            if memory != truth[skip : skip + len(memory)]:
                wrong.append(skip)

    threads = [threading.Thread(target=read, args=(skip * 997,)) for skip in range(4)]
    for thread in threads:
        thread.start()
    timer = threading.Timer(0.5, reading.close)
    timer.start()
    for thread in threads:
        thread.join(30)
    stop.set()
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_reads_beside_its_parent(path: Path) -> None:
    reading, tensor, truth = opened(path)
    child = os.fork()
    if child == 0:
        memory = bytearray(tensor.nbytes)
        for _ in range(20):
            reading.into(tensor, 0, memory)
        os._exit(0 if memory == truth else 1)
    for skip in range(100):
        assert reading.sample(tensor, skip, 64) == truth[skip : skip + 64]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_other_threads_run_during_one_read(tmp_path: Path) -> None:
    path = factory.save_sparse(tmp_path / "m.safetensors", factory.Flux(hidden=2048))
    checkpoint = open_checkpoint(path)
    reader = _core.Reader(str(path), json.dumps(checkpoint.files[0].identity))
    memory, ticks, done = bytearray(100_000_000), [0], threading.Event()

    def tick() -> None:
        while not done.wait(0.0001):
            ticks[0] += 1

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        sys.setswitchinterval(1000)  # nobody is made to let others go
        before = ticks[0]
        reader.read_into(0, memory)
        assert ticks[0] > before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()


@posix
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(submerge.CheckpointError, match="expected a regular file"):
            _core.Reader(str(path), json.dumps(boundary.source(path)["file"]["identity"]))
        with pytest.raises(submerge.CheckpointError, match="expected a regular file"):
            boundary.read_header(path)
