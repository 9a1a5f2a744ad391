"""Shards are cut, named and indexed as diffusers cuts, names and indexes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import submerge
from factory import KREA, WEIGHTS, save_file, save_folder
from oracles.models import loaded

if TYPE_CHECKING:
    from pathlib import Path


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a file's header without metadata, and its data."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header.pop("__metadata__", None)
    return header, content[end:]


# 30 KB is less than the largest tensors, which then stand alone.
@pytest.mark.parametrize("size", ["30KB", "100KB", "333KB", "500KB", "10GB"])
def test_folder_is_what_save_pretrained_writes(tmp_path: Path, size: str) -> None:
    single = save_file(tmp_path / "krea.safetensors", KREA)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    recipe = {"models": {"krea": single}, "output": {"shard_size": size}}
    submerge.merge(recipe, ours)
    loaded(save_folder(tmp_path / "in", KREA)).save_pretrained(theirs, max_shard_size=size)

    names = sorted(path.name for path in theirs.glob("*.safetensors*"))
    assert names == sorted(path.name for path in ours.glob("*.safetensors*"))
    assert (len(names) > 1) == (size != "10GB")
    for name in names:
        if name.endswith(".safetensors"):
            assert _parts(ours / name) == _parts(theirs / name)
    index = f"{WEIGHTS}.safetensors.index.json"
    if size != "10GB":
        assert json.loads((ours / index).read_text()) == json.loads((theirs / index).read_text())
