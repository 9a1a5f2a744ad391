"""Disks that are full, fill up, or may not be written: an error, no output, nothing left behind."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import submerge
from jobs import NARROWER, Scene, mounted, names

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")

SIZE = 400 << 20


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, NARROWER)


def test_too_little_space_is_refused_at_once(scene: Scene) -> None:
    with mounted(scene.folder, "size=1m"):
        with pytest.raises(OSError, match="not enough space") as caught:
            submerge.merge(scene.recipe(), scene.output)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(scene.output)
        assert any("free some space" in note for note in caught.value.__notes__)
        assert scene.left() == []


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_disk_that_fills_up_meanwhile(scene: Scene, io: Any) -> None:
    ballast = scene.folder / "ballast"

    def fill(_done: int, _total: int) -> None:
        if not ballast.exists():
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(b"\1" * (1 << 20)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - what the loop waits for

    with mounted(scene.folder, f"size={SIZE}"):
        with pytest.raises(OSError, match=r"out.*merged\.safetensors|No space left") as caught:
            submerge.merge(
                scene.recipe(),
                scene.output,
                io=io,
                threads=1,
                isa="scalar",
                chunk=1,
                progress=fill,
            )
        assert caught.value.errno == errno.ENOSPC
        assert any("the disk is full" in note for note in caught.value.__notes__)
        assert scene.left() == ["ballast"]


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_a_folder_that_may_not_be_written(scene: Scene, layout: str) -> None:
    out = scene.output if layout == "bfl" else scene.folder / "model"
    with mounted(scene.folder, f"ro,size={SIZE}"):
        with pytest.raises(OSError, match="Read-only") as caught:
            submerge.merge(scene.recipe() | {"output": {"layout": layout}}, out)
        assert caught.value.errno == errno.EROFS
        assert str(scene.folder) in str(caught.value.filename)
        assert scene.left() == []


def test_a_limit_on_file_sizes_is_an_error_and_not_a_signal(scene: Scene) -> None:
    resource = pytest.importorskip("resource")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        scene.command(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "got 1048576" in done.stderr
    assert "hint: raise it with `ulimit -f unlimited`" in done.stderr
    assert names(scene.folder) == []
