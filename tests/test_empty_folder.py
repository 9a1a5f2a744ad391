"""A folder that was made for the output: taken while it is empty, and never anything else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import submerge
from faulty import Faulty
from jobs import names, nobody
from submerge import PlanError
from test_faults import Scene, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
TAKEN = "exists, expected a path that is free"


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(tmp_path)
    yield made
    made.close()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    found = Scene(tmp_path)
    empty(found)
    return found


def empty(scene: Scene) -> None:
    shutil.rmtree(scene.out, ignore_errors=True)
    scene.out.mkdir()


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o2775])
@pytest.mark.parametrize("overwrite", [False, True])
def test_it_is_filled_and_stays_as_private_as_it_was(
    scene: Scene, mode: int, *, overwrite: bool
) -> None:
    scene.out.chmod(mode)
    submerge.merge(scene.recipe, scene.out, overwrite=overwrite)
    assert scene.content() == scene.new
    assert names(scene.folder) == [scene.out.name]
    assert overwrite or scene.out.stat().st_mode & 0o7777 == mode


def test_a_link_to_it_stays(scene: Scene) -> None:
    link = scene.folder.parent / "link"
    link.symlink_to(scene.out)
    submerge.merge(scene.recipe, link)
    assert link.is_symlink()
    # The card's title is the name that was asked for.
    assert {**(scene.content() or {}), "README.md": b""} == {**(scene.new or {}), "README.md": b""}


@pytest.mark.parametrize("name", [".hidden", "config.json", "diffusion.safetensors", "folder"])
def test_whatever_is_in_it_it_is_not_empty(scene: Scene, name: str) -> None:
    (scene.out / name).mkdir() if name == "folder" else (scene.out / name).write_text("mine")
    with pytest.raises(PlanError, match=TAKEN):
        submerge.merge(scene.recipe, scene.out)
    assert names(scene.out) == [name]


def test_a_file_takes_no_folder_s_place(scene: Scene) -> None:
    out = scene.folder / "o.safetensors"
    out.mkdir()
    recipe = {**scene.recipe, "output": {"layout": "bfl"}}
    with pytest.raises(PlanError, match=TAKEN):
        submerge.merge(recipe, out)
    assert names(out) == []


def test_the_folder_one_works_in_is_not_replaced(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a shell would go on in a folder that is no more."""
    monkeypatch.chdir(scene.out)
    for out in (".", scene.out):
        with pytest.raises(PlanError, match=TAKEN):
            submerge.merge(scene.recipe, out)
    assert names(scene.out) == []
    submerge.merge(scene.recipe, "inside")
    assert names(scene.out) == ["inside"]


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="changes who it is")
@pytest.mark.parametrize("what", ["in a sticky folder", "that may not be written"])
def test_one_of_somebody_else_is_refused_at_once(what: str) -> None:
    with tempfile.TemporaryDirectory() as there:
        scene = Scene(Path(there))
        empty(scene)
        for path in (Path(there), *Path(there).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        scene.folder.chmod(0o1777 if what == "in a sticky folder" else 0o777)
        scene.out.chmod(0o777 if what == "in a sticky folder" else 0o755)
        with nobody(), pytest.raises((PlanError, OSError), match="cannot be overwritten"):
            submerge.merge(scene.recipe, scene.out)
        assert names(scene.out) == []
        assert names(scene.folder) == [scene.out.name]


@pytest.mark.parametrize("plain", [False, True])
def test_whatever_fails_it_is_empty_still_or_full(
    scene: Scene, faulty: Faulty, *, plain: bool
) -> None:
    how: dict[str, Any] = {"plain": plain, "act": errno.EIO}
    total = faulty.merge(scene.recipe, scene.out, **how)["count"]
    assert total > 10
    outcomes = set()
    for at in range(total):
        empty(scene)
        done = faulty.merge(scene.recipe, scene.out, at=at, **how)
        outcomes.add("ok" in done)
        assert scene.content() == (scene.new if "ok" in done else {}), (at, done)
        assert names(scene.folder) == [scene.out.name], (at, done)
    assert outcomes == {False, True}


@pytest.mark.parametrize("plain", [False, True])
def test_whenever_it_is_killed_it_is_empty_still_or_full(
    scene: Scene, faulty: Faulty, *, plain: bool
) -> None:
    total = faulty.merge(scene.recipe, scene.out, plain=plain)["count"]
    found = set()
    for at in range(total):
        empty(scene)
        faulty.merge(scene.recipe, scene.out, at=at, act=-signal.SIGKILL, plain=plain)
        content = scene.content()
        assert content in ({}, scene.new), at
        found.add(bool(content))
        again = faulty.merge(scene.recipe, scene.out, plain=plain)
        assert ("ok" in again) != bool(content), (at, again)
        assert scene.content() == scene.new
        assert names(scene.folder) == [scene.out.name], at
    assert found == {False, True}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("other", ["a job", "a file"])
@pytest.mark.parametrize(
    ("only", "at"), [("mkdir", 0), ("fsync", 0), ("rename", 0), ("rename", -1)]
)
def test_what_others_put_there_meanwhile_stays(
    scene: Scene, faulty: Faulty, only: str, at: int, other: str, *, plain: bool
) -> None:
    # Where there is no rename that replaces nothing, the first is the only one.
    at = (0 if plain else 1) if at < 0 else at
    first = faulty.start(
        scene.recipe, scene.out, only=only, at=at, act=-signal.SIGSTOP, plain=plain
    )
    try:
        limit = time.monotonic() + 30
        while not stopped(first):
            assert time.monotonic() < limit
            time.sleep(0.01)
        if other == "a job":
            submerge.merge(scene.recipe | {"alpha": 0.9}, scene.out)
        else:
            (scene.out / "mine.txt").write_text("mine")
        before = scene.content()
    finally:
        os.kill(first, signal.SIGCONT)
    done = faulty.answer()
    assert TAKEN in done["error"]
    assert before
    assert scene.content() == before
    assert names(scene.folder) == [scene.out.name]
