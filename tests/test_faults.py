"""Every operation on files fails once, or is the last: the path holds the old output or the new."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factory
import submerge
from factory import KREA, SCHNELL
from faulty import Faulty
from jobs import names

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(tmp_path)
    yield made
    made.close()


class Scene:
    """Two models, an output made of them before, and what it is and will be."""

    def __init__(self, root: Path, layout: str = "diffusers") -> None:
        models = {
            "schnell": str(factory.save_file(root / "schnell.safetensors", SCHNELL)),
            "krea": str(factory.save_file(root / "krea.safetensors", KREA, "bfl")),
        }
        self.recipe = {"models": models, "alpha": 0.4, "output": {"layout": layout}}
        self.folder = root / "out"
        self.folder.mkdir()
        self.out = self.folder / ("model" if layout == "diffusers" else "model.safetensors")
        submerge.merge(self.recipe, self.out)
        self.new = self.content()
        submerge.merge(self.recipe | {"alpha": 0.9}, self.out, overwrite=True)
        self.old = self.content()
        assert self.old != self.new

    def content(self) -> dict[str, bytes] | None:
        if not self.out.exists():
            return None
        files = [path for path in [self.out, *self.out.rglob("*")] if path.is_file()]
        return {str(path.relative_to(self.out)): path.read_bytes() for path in files}

    def restore(self) -> None:
        """Put back the output as it was made before."""
        if self.content() == self.old:
            return
        if self.out.is_dir():
            shutil.rmtree(self.out)
        assert self.old is not None
        for name, content in self.old.items():
            path = self.out / name if name != "." else self.out
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("layout", "plain"), [("bfl", False), ("diffusers", False), ("diffusers", True)]
)
def test_whatever_fails_the_old_output_stands_or_the_new_one(
    tmp_path: Path, faulty: Faulty, layout: str, *, plain: bool
) -> None:
    scene = Scene(tmp_path, layout)
    how: dict[str, Any] = {"overwrite": True, "plain": plain, "act": errno.EIO}
    total = faulty.merge(scene.recipe, scene.out, **how)["count"]
    assert total > 10
    outcomes = set()
    for at in range(total):
        scene.restore()
        done = faulty.merge(scene.recipe, scene.out, at=at, **how)
        outcomes.add("ok" in done)
        assert scene.content() == (scene.new if "ok" in done else scene.old), (at, done)
        assert names(scene.folder) == [scene.out.name], (at, done)
    assert outcomes == {False, True}


@pytest.mark.parametrize("plain", [False, True])
def test_whenever_it_is_killed_the_next_job_finds_the_old_output_or_the_new_one(
    tmp_path: Path, faulty: Faulty, *, plain: bool
) -> None:
    scene = Scene(tmp_path)
    how: dict[str, Any] = {"overwrite": True, "plain": plain}
    total = faulty.merge(scene.recipe, scene.out, **how)["count"]
    put_back = 0
    for at in range(total):
        scene.restore()
        faulty.merge(scene.recipe, scene.out, at=at, act=-signal.SIGKILL, **how)
        absent = scene.content() is None
        assert plain or not absent, at
        refused = faulty.merge(scene.recipe, scene.out, plain=plain)
        assert "exists, expected a path that is free" in refused["error"], at
        assert ("put back what stood there" in refused["error"]) == absent, at
        assert scene.content() in (scene.old, scene.new), at
        assert names(scene.folder) == [scene.out.name], at
        put_back += absent
    # Between two renames there is a moment without an output, which is what this is about.
    assert (put_back > 0) == plain


def test_a_job_that_replaces_says_what_an_earlier_one_had_taken_away(
    tmp_path: Path, faulty: Faulty
) -> None:
    scene = Scene(tmp_path)
    how: dict[str, Any] = {"overwrite": True, "plain": True, "only": "rename"}
    faulty.merge(scene.recipe, scene.out, at=1, act=-signal.SIGKILL, **how)
    assert scene.content() is None
    done = faulty.merge(scene.recipe, scene.out, **how)
    assert any("put back what stood there" in note for note in done["notes"])
    assert scene.content() == scene.new


def test_what_fails_after_the_output_is_in_place_is_a_note(tmp_path: Path, faulty: Faulty) -> None:
    scene = Scene(tmp_path)
    how: dict[str, Any] = {"overwrite": True, "only": "fsync", "act": errno.EIO}
    syncs = faulty.merge(scene.recipe, scene.out, **how)["count"]
    scene.restore()
    done = faulty.merge(scene.recipe, scene.out, at=syncs - 2, **how)
    assert any("may not survive a power cut" in note for note in done["notes"])
    assert scene.content() == scene.new


def stopped(pid: int) -> bool:
    return ") T " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_job_never_touches_what_another_puts_in_place(
    tmp_path: Path, faulty: Faulty, at: int, *, overwrite: bool
) -> None:
    scene = Scene(tmp_path)
    if not overwrite:
        for path in [*sorted(scene.out.rglob("*"), reverse=True), scene.out]:
            path.rmdir() if path.is_dir() else path.unlink()
    only = ["mkdir", "fsync", "rename"][at]
    how: dict[str, Any] = {"overwrite": overwrite, "only": only, "at": 0}
    first = faulty.start(scene.recipe, scene.out, act=-signal.SIGSTOP, **how)
    try:
        limit = time.monotonic() + 30
        while not stopped(first):
            assert time.monotonic() < limit
            time.sleep(0.01)
        # What the first has put together so far is still there when the second is done.
        submerge.merge(scene.recipe, scene.out, overwrite=overwrite)
    finally:
        os.kill(first, signal.SIGCONT)
    done = faulty.answer()
    assert overwrite == ("ok" in done), done
    assert overwrite or "exists, expected a path that is free" in done["error"]
    assert scene.content() == scene.new
    assert names(scene.folder) == [scene.out.name]
