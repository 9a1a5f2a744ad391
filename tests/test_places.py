"""Where an output may go: long names, links, mounts, other users' folders, the inputs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, SCHNELL, Flux
from faulty import Faulty
from jobs import mounted, names, nobody

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names and mounts of Linux")


class Scene:
    """A pipeline and a file to merge, and an empty folder for the output."""

    def __init__(self, root: Path, flux: Flux = SCHNELL) -> None:
        self.pipeline = factory.save_pipeline(root / "schnell", flux)
        self.krea = factory.save_file(root / "krea.safetensors", KREA, "bfl")
        self.folder = root / "out"
        self.folder.mkdir()

    def merge(self, out: Path | str, *, overwrite: bool = False, **output: Any) -> None:
        models = {"schnell": str(self.pipeline), "krea": str(self.krea)}
        recipe = {"models": models, "alpha": 0.4, "output": output}
        submerge.merge(recipe, self.folder / out, overwrite=overwrite)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("letter", ["a", "é"])
@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_the_longest_name_is_a_name_and_a_longer_one_is_refused_at_once(
    scene: Scene, letter: str, suffix: str
) -> None:
    size = len(letter.encode())
    room = (255 - len(suffix)) // size
    output: dict[str, Any] = {"layout": "bfl" if suffix else "diffusers"}
    scene.merge(letter * room + suffix, **output)
    scene.merge(letter * room + suffix, overwrite=True, **output)
    assert names(scene.folder) == [letter * room + suffix]
    with pytest.raises(
        OSError, match="cannot be used for the output: File name too long"
    ) as caught:
        scene.merge(letter * (room + 1 + (256 - len(suffix)) % size) + suffix, **output)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert len(names(scene.folder)) == 1


def test_two_long_names_that_begin_alike_are_two_outputs(scene: Scene) -> None:
    for last in "xy":
        scene.merge("a" * 200 + last + ".safetensors", layout="bfl")
    assert len(names(scene.folder)) == 2


def test_a_link_to_a_folder_is_followed_and_stays(scene: Scene) -> None:
    (scene.folder / "there").mkdir()
    link = scene.folder / "link"
    link.symlink_to("there")
    (scene.folder / "there" / "config.json").write_text("{}")
    with pytest.raises(submerge.PlanError, match="exists"):
        scene.merge("link", layout="diffusers")
    for _ in range(2):
        scene.merge("link", overwrite=True, layout="diffusers")
        assert link.readlink() == Path("there")
        assert (scene.folder / "there" / "config.json").is_file()
        assert names(scene.folder) == ["link", "there"]


def test_a_limit_holds_for_each_file(scene: Scene) -> None:
    import resource

    scene.merge("whole", layout="diffusers", shard_size=200_000)
    sizes = [path.stat().st_size for path in (scene.folder / "whole").iterdir()]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert sum(sizes) > 2 * max(sizes)
    for limit in (max(sizes), max(sizes) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            if limit == max(sizes):
                scene.merge("limited", layout="diffusers", shard_size=200_000)
                continue
            with pytest.raises(submerge.PlanError, match="larger than this process may") as caught:
                scene.merge("refused", layout="diffusers", shard_size=200_000)
            assert f"expected a limit of {max(sizes)} bytes, got {limit}" in str(caught.value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(scene.folder / "limited") == names(scene.folder / "whole")
    assert names(scene.folder) == ["limited", "whole"]


@pytest.mark.parametrize("inside", ["", "part"])
def test_what_is_mounted_is_never_replaced_and_never_emptied(scene: Scene, inside: str) -> None:
    scene.merge("model", layout="diffusers")
    at = scene.folder / "model" / inside
    at.mkdir(exist_ok=True)
    with mounted(at, "size=1m"):
        (at / "theirs.safetensors").write_text("x")
        with pytest.raises(submerge.PlanError, match="is where a filesystem is mounted"):
            scene.merge("model", overwrite=True, layout="diffusers")
        assert names(at) == ["theirs.safetensors"]


def test_the_folder_a_pipeline_is_taken_from_is_never_replaced(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    other = factory.save_pipeline(scene.folder / "other", SCHNELL)
    before = tree(other)
    with pytest.raises(submerge.PlanError, match="is an input"):
        scene.merge("other", overwrite=True, pipeline_from=str(other))
    assert tree(other) == before
    scene.merge("new", pipeline_from=str(other), link="link")
    # What is only another name of a file elsewhere may go: nothing is lost.
    scene.merge("new", overwrite=True, pipeline_from=str(other), link="link")
    assert tree(other) == before


def test_an_input_seen_through_another_filesystem_is_not_overwritten(scene: Scene) -> None:
    root = scene.krea.parent
    seen = root / "seen"
    for name in ("seen", "upper", "work"):
        (root / name).mkdir()
    lower = root / "lower"
    lower.mkdir()
    scene.krea = scene.krea.rename(lower / scene.krea.name)
    options = f"lowerdir={lower},upperdir={root / 'upper'},workdir={root / 'work'}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(seen)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting an overlay is not permitted")
    try:
        through = seen / scene.krea.name
        assert through.stat().st_dev != scene.krea.stat().st_dev
        with pytest.raises(submerge.PlanError, match="is, or is a copy of, the input"):
            scene.merge(through, overwrite=True, layout="bfl")
        # Of the same size and with other bytes, it is another file.
        content = bytearray(through.read_bytes())
        content[-1] ^= 1
        through.write_bytes(content)
        scene.merge(through, overwrite=True, layout="bfl")
    finally:
        subprocess.run(["umount", str(seen)], check=True)


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="makes things that belong to another user"
)
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_what_belongs_to_another_user_is_refused_at_once(kind: str, mode: int) -> None:
    output: dict[str, Any] = {"layout": "bfl" if kind == "file" else "diffusers"}
    with tempfile.TemporaryDirectory() as there:
        scene = Scene(Path(there))
        out = scene.folder / ("model" if kind == "folder" else "model.safetensors")
        scene.merge(out, **output)
        before = out.read_bytes() if kind == "file" else tree(out)
        for path in (Path(there), *Path(there).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        scene.folder.chmod(mode)
        with nobody():
            if (kind, mode) == ("file", 0o777):  # whoever may write a folder may replace its files
                scene.merge(out, overwrite=True, **output)
            else:
                with pytest.raises((submerge.PlanError, PermissionError), match="cannot be overwr"):
                    scene.merge(out, overwrite=True, **output)
        assert names(scene.folder) == [out.name]
        assert before == (out.read_bytes() if kind == "file" else tree(out))


@pytest.mark.parametrize("change", ["rewritten", "cut", "grown"])
def test_a_component_that_changes_while_it_is_copied_is_an_error(
    tmp_path: Path, change: str
) -> None:
    scene = Scene(tmp_path)
    weights = scene.pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    factory.write(weights, {"x": np.ones(1 << 20, np.float32)})  # four steps of a copy
    models = {"schnell": str(scene.pipeline), "krea": str(scene.krea)}
    recipe = {
        "models": models,
        "alpha": 0.4,
        "output": {"pipeline_from": "schnell", "link": "copy"},
    }
    faulty = Faulty(tmp_path)
    try:
        how: dict[str, Any] = {"only": "write", "act": -signal.SIGSTOP}
        pid = None
        for at in range(40):  # until it stops in the middle of the component
            pid = faulty.start(recipe, scene.folder / "model", at=at, **how)
            limit = time.monotonic() + 30
            while ") T " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"):
                assert time.monotonic() < limit
                time.sleep(0.005)
            if copying(pid, weights):
                break
            os.kill(pid, signal.SIGKILL)
            assert faulty.answer() == {}
        assert pid is not None
        stat = weights.stat()
        with weights.open("r+b") as file:
            if change == "cut":
                file.truncate(stat.st_size - 100)
            else:
                file.seek(
                    0 if change == "grown" else stat.st_size - 100, 0 if change != "grown" else 2
                )
                file.write(bytes(100))
        os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.kill(pid, signal.SIGCONT)
        done = faulty.answer()
    finally:
        faulty.close()
    assert str(weights) in done["error"]
    assert "changed while it was being read" in done["error"] or change == "cut"
    assert names(scene.folder) == []


def copying(pid: int, path: Path) -> bool:
    """Whether more of a file has been copied than a step, and not all of it."""
    largest = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if "(deleted)" in str(fd.readlink()):
            largest = max(largest, fd.stat().st_size)
    return 1 << 20 <= largest < path.stat().st_size
