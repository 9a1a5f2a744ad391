"""Bytes of an open file as the core gives them: those of one version of it, or an error."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import boundary
from submerge import CheckpointError, PlanError, _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = bytes(range(256)) * 20_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.file"
    path.write_bytes(CONTENT)
    return path


def opened(path: Path) -> _core.Reader:
    return _core.Reader(str(path), json.dumps(boundary.source(path)["identity"]))


def test_ranges_are_read_as_they_are(file: Path) -> None:
    reader = opened(file)
    for offset, size in ((0, len(CONTENT)), (255, 3_000_000), (len(CONTENT) - 1, 1), (7, 0)):
        assert reader.read(offset, size) == CONTENT[offset : offset + size]
    for offset, size in ((0, len(CONTENT) + 1), (len(CONTENT), 1), (2**63, 1)):
        with pytest.raises((CheckpointError, OSError)):
            reader.read(offset, size)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x" * 4096)


def cut_and_grow(path: Path) -> None:
    os.truncate(path, 100)
    os.truncate(path, len(CONTENT))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(CONTENT[::-1])
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, cut_and_grow, replace])
def test_a_file_that_changes_is_an_error(file: Path, change: Callable[[Path], None]) -> None:
    reader = opened(file)
    reader.read(0, 10)
    before = file.stat()
    identity = json.dumps(boundary.source(file)["identity"])
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CheckpointError, match=r"some\.file: changed while it was being read"):
        reader.read(0, 10)
    with pytest.raises(PlanError, match="is not the file the plan was made for"):
        _core.Reader(str(file), identity)
    assert opened(file).read(0, len(CONTENT)) == file.read_bytes()


def test_a_file_cut_short_is_an_error(file: Path) -> None:
    reader = opened(file)
    os.truncate(file, 100)
    with pytest.raises(CheckpointError, match=r"bytes 0\.\.200 can no longer be read"):
        reader.read(0, 200)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="expected a regular file"):
            opened(path)
        with pytest.raises(CheckpointError, match="expected a regular file"):
            boundary.read_header(path)
