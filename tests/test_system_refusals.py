"""What the system refuses the core comes through as its own error, with path, reason and hint."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from boundary import execute, source
from jobs import nobody
from refusals import Bench, changing
from submerge import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from refusals import Act

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's refusals")


def folder_plan(bench: Bench, **more: Any) -> dict[str, Any]:
    """A plan by hand of a folder with one weight file, and what else it is to hold."""
    plan = bench.plan({"x": np.ones((4, 3), np.float32)})
    plan["target"] = {"folder": {"path": str(bench.folder / "model")}}
    plan["files"][0]["path"] = "model.safetensors"
    return plan | more


def copied(bench: Bench, source: object, how: str) -> Act:
    copies = [{"path": "other", "from": str(source), "how": how}]
    return lambda: execute(folder_plan(bench, copies=copies))


def texts(bench: Bench, *paths: str) -> Act:
    plan = folder_plan(bench, texts=[{"path": path, "text": "x"} for path in paths])
    return lambda: execute(plan)


def linked_elsewhere(bench: Bench) -> Act:
    other = Path("/dev/shm") / f"submerge-test-{os.getpid()}"  # noqa: S108 - another disk
    other.write_text("x")
    act = copied(bench, other, "link")

    def linked() -> None:
        try:
            act()
        finally:
            other.unlink()

    return linked


def gone_folder(bench: Bench) -> Act:
    """The folder of the output goes while the job runs."""
    return changing(bench, lambda _: shutil.rmtree(bench.folder, ignore_errors=True), large=True)


# What is done, the error, the file it names, how the reason begins, a part of the hint.
REFUSED: dict[str, tuple[Callable[[Bench], Act], type[OSError], str, str, str | None]] = {
    "a folder that is a file": (
        lambda b: b.merge(b.schnell / "out.safetensors"), NotADirectoryError,
        "schnell.safetensors", "cannot use this folder: not a directory",
        "create the folder of the output first",
    ),
    "a copy of nothing": (
        lambda b: copied(b, b.root / "none", "copy"), FileNotFoundError, "none",
        "cannot open: No such file", None,
    ),
    "a link to nothing": (
        lambda b: copied(b, b.root / "none", "link"), FileNotFoundError, "none",
        "cannot open: No such file", None,
    ),
    "a link to another disk": (
        linked_elsewhere, OSError, f"submerge-test-{os.getpid()}",
        "cannot be linked into the output: Invalid cross-device link",
        "links need one filesystem; use `copy` or `auto`",
    ),
    "a text twice": (
        lambda b: texts(b, "a", "a"), FileExistsError, "a", "cannot write: File exists", None
    ),
    "a text below a text": (
        lambda b: texts(b, "a", "a/b"), FileExistsError, "a", "cannot create: ", None
    ),
    "a folder gone meanwhile": (
        gone_folder, FileNotFoundError, "out.safetensors", "cannot ", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_system_s_own_error_names_the_file(tmp_path: Path, name: str) -> None:
    make, error, file, reason, hint = REFUSED[name]
    bench = Bench(tmp_path)
    act = make(bench)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its parts are looked at below
        act()
    assert type(caught.value) is error
    assert file in str(caught.value.filename).rpartition("/")[2]
    assert str(caught.value.strerror).startswith(reason)
    notes = getattr(caught.value, "__notes__", [])
    assert [note.startswith("hint: ") for note in notes] == ([] if hint is None else [True])
    assert hint is None or hint in notes[0]
    assert not bench.folder.exists() or list(bench.folder.iterdir()) == []


# What happens to an output that is being replaced; what is there afterwards is left alone.


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_that_changes_its_kind_meanwhile_is_left(tmp_path: Path, kind: str) -> None:
    bench = Bench(tmp_path)
    out = bench.out if kind == "file" else bench.folder / "model"
    out.write_text("old") if kind == "file" else out.mkdir()
    seen: list[bool] = []

    def change(*_: int) -> None:
        if not seen:
            seen.append(True)
            if kind == "file":
                out.unlink()
                out.mkdir()
                (out / "mine").write_text("x")
            else:
                out.rmdir()
                out.write_text("mine")

    changing(bench, lambda _: None, large=True)  # models that take long enough
    slow: Any = {"threads": 1, "isa": "scalar", "chunk": 1, "io": "pread", "overwrite": True}
    with pytest.raises(PlanError) as caught:
        bench.merge(out, run=slow | {"progress": change})()
    expected = "a regular file" if kind == "file" else "a folder"
    assert f"{out}: cannot be overwritten, expected {expected}, got" in str(caught.value)
    assert [path.name for path in bench.folder.iterdir()] == [out.name]
    assert out.is_dir() if kind == "file" else out.read_text() == "mine"


# What is locked, and how; and what is said of it.
LOCKED: dict[str, tuple[str, int, str]] = {
    "an input": ("a.safetensors", 0o200, "cannot open: Permission denied"),
    "the folder of the output": (
        "out",
        0o500,
        "cannot create files in this folder: Permission denied",
    ),
    "an output to be replaced": ("out/model", 0o300, "cannot list: Permission denied"),
}


@pytest.mark.parametrize("name", LOCKED)
def test_what_is_locked_is_named(name: str) -> None:
    which, mode, reason = LOCKED[name]
    # Not below the folder of the tests, which is their user's alone.
    with tempfile.TemporaryDirectory() as there:
        bench = Bench(Path(there))
        plan = folder_plan(bench)
        locked = bench.root / which
        if not locked.exists():
            locked.mkdir()
        for path in (bench.root, *bench.root.rglob("*")):
            path.chmod(0o777)
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        plan["sources"] = [source(bench.root / "a.safetensors")]  # who may read it counts too
        locked.chmod(mode)
        with nobody(), pytest.raises(PermissionError) as caught:
            execute(plan, overwrite=True)
        locked.chmod(0o700)
    assert str(caught.value.filename).startswith(str(locked))
    assert str(caught.value.strerror).startswith(reason)
