"""Folders as systems, tools and half downloads leave them, and what in them cannot be reached."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import factory
from factory import KREA
from submerge.checkpoint import open_checkpoint
from submerge.errors import CheckpointError
from test_checkpoint import INDEX, ONE, edit_index, shard

LITTER = (
    "._model.safetensors",
    ".model.safetensors.icloud",
    ".syncthing.model.safetensors.tmp",
    ".goutputstream-X7.safetensors",
    "~$model.safetensors",
    "~syncthing~x.safetensors.tmp",
    "model.safetensors.part",
    "model.safetensors.crdownload",
    "model.safetensors.incomplete",
    "Thumbs.db",
)


def test_what_systems_and_tools_leave_is_no_candidate(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", KREA, shards=2)
    for name in (*LITTER, f"._{INDEX}", f"._{shard(1)}"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.safetensors").write_bytes(b"")
    assert len(open_checkpoint(folder).files) == 2


def test_a_download_that_goes_on_is_no_candidate(tmp_path: Path) -> None:
    factory.write(tmp_path / "a.safetensors", ONE)
    factory.write(tmp_path / "b.safetensors", ONE)
    (tmp_path / "b.safetensors.aria2").write_bytes(b"")
    assert open_checkpoint(tmp_path).files[0].path.name == "a.safetensors"
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 file: `b.safetensors` still being downloaded"):
        open_checkpoint(tmp_path)


def test_shards_may_be_named_from_here_and_in_capitals(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", KREA, shards=2)
    for number in (1, 2):
        (folder / shard(number)).rename(
            folder / shard(number).replace("safetensors", "SAFETENSORS")
        )

    def rename(content: dict[str, Any]) -> None:
        for name, found in content["weight_map"].items():
            content["weight_map"][name] = "./" + found.replace("safetensors", "SAFETENSORS")

    edit_index(folder, rename)
    assert len(open_checkpoint(folder).files) == 2
    edit_index(folder, lambda c: c["weight_map"].update({"a": "./../a.safetensors"}))
    with pytest.raises(CheckpointError, match="without separators"):
        open_checkpoint(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
@pytest.mark.parametrize("name", ["config.json", "model_index.json"])
def test_a_side_file_that_leads_nowhere_is_not_taken_for_absent(tmp_path: Path, name: str) -> None:
    pipeline = factory.save_pipeline(tmp_path / "pipeline", KREA)
    path = pipeline / ("transformer" if name == "config.json" else "") / name
    path.unlink()
    path.symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(FileNotFoundError) as caught:
        open_checkpoint(pipeline)
    assert caught.value.filename == str(path)
    assert "the download may be incomplete" in caught.value.__notes__[0]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_config_that_cannot_be_reached_is_not_taken_for_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder = factory.save_folder(tmp_path / "model", KREA)
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.name == "config.json":
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.bin", "a pickle"),
        ("__0_0.distcp", "a part of a distributed checkpoint"),
        ("x.DDUF", "a DDUF archive"),
        ("x.onnx", "an ONNX model"),
        ("x.npz", "a NumPy archive"),
    ],
)
def test_other_formats_are_named_alone_and_in_folders(
    tmp_path: Path, name: str, words: str
) -> None:
    path = tmp_path / "model" / name
    path.parent.mkdir()
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"is {words}, expected .safetensors"):
        open_checkpoint(path)
    with pytest.raises(CheckpointError, match=f"holds no .safetensors file but {words}"):
        open_checkpoint(path.parent)
