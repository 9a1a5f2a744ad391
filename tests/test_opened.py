"""A plan opened: its tensors in memory are those of the file that it would write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

import adapter_files as files
import factory
from factory import KREA, SCHNELL
from submerge import AdapterError, Cancelled, CancelToken, PlanError
from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.reading import Reading
from submerge.merge import merge, plan
from submerge.opened import Opened
from submerge.run import RunOptions

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.plan import Plan

RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"alpha": 0.3, "output": {"layout": "diffusers", "dtype": "f16"}},
    "ties": {"method": {"ties": {"base": "schnell", "density": 0.4}}},
    "whole matrices": {"method": {"iso_c": {"base": "schnell"}}},
    "taken": {"take": "krea", "output": {"layout": "bfl"}},
}


def prepared(folder: Path, fields: dict[str, Any]) -> tuple[dict[str, Any], Plan]:
    schnell = factory.save_file(folder / "schnell.safetensors", SCHNELL, "bfl")
    krea = factory.save_file(folder / "krea.safetensors", KREA, "diffusers")
    recipe = {"models": {"schnell": str(schnell), "krea": str(krea)}, "guidance": "keep", **fields}
    return recipe, plan(recipe, folder / "never.safetensors")


def data(path: Path) -> dict[str, bytes]:
    checkpoint = open_checkpoint(path)
    with Reading(checkpoint) as reading:
        return {n: reading.sample(t, 0, t.nbytes) for n, t in checkpoint.tensors.items()}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("how", [{}, {"threads": 3, "chunk": 1000, "io": "mmap"}])
def test_every_tensor_is_that_of_the_file(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    recipe, made = prepared(tmp_path, RECIPES[name])
    merge(recipe, tmp_path / "file.safetensors")
    opened, written = Opened(made, RunOptions(**how)), data(tmp_path / "file.safetensors")
    assert list(opened.tensors) == list(written)
    for tensor, output in opened.tensors.items():
        memory = bytearray(output.nbytes)
        opened.into(tensor, memory)
        assert memory == written[tensor], tensor
    assert not made.target.exists()
    copied = {n for n in written if name == "taken" or "guidance" in n}  # krea alone has it
    assert opened.computed == written.keys() - copied


def test_memory_of_another_size_or_read_only_is_refused(tmp_path: Path) -> None:
    _, made = prepared(tmp_path, RECIPES["linear"])
    opened = Opened(made)
    name, output = next(iter(opened.tensors.items()))
    for size in (0, output.nbytes - 1, output.nbytes + 1):
        expected = rf"into: memory of \[{size}\] bytes, expected \[{output.nbytes}\]"
        with pytest.raises(PlanError, match=expected):
            opened.into(name, bytearray(size))
    with pytest.raises(BufferError):
        opened.into(name, memoryview(bytes(output.nbytes)))
    with pytest.raises(KeyError):
        opened.into("no such tensor", bytearray(1))


def test_a_file_that_changed_is_an_error_and_so_is_a_cancelled_run(tmp_path: Path) -> None:
    recipe, made = prepared(tmp_path, RECIPES["linear"])
    token = CancelToken()
    opened = Opened(made, RunOptions(cancel=token))
    name, output = next(iter(opened.tensors.items()))
    memory = bytearray(output.nbytes)
    opened.into(name, memory)
    factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    with pytest.raises(PlanError, match=re.escape("krea.safetensors")):
        opened.into(name, memory)
    other = Opened(plan(recipe, tmp_path / "never.safetensors"), RunOptions(cancel=token))
    other.into(name, memory)
    token.cancel()
    with pytest.raises(Cancelled):
        other.into(name, memory)


def test_an_adapter_that_is_not_finite_is_refused_before_any_tensor(tmp_path: Path) -> None:
    pair = files.pairs(KREA, ["double_blocks.0.img_attn.qkv"], layout="bfl")
    arrays = files.kohya(pair, None)
    next(iter(arrays.values())).flat[0] = float("nan")
    style = files.save(tmp_path / "style.safetensors", arrays)
    _, made = prepared(tmp_path, {"alpha": 0.3, "adapters": [{"path": str(style), "onto": "krea"}]})
    with pytest.raises(AdapterError, match="NaN"):
        Opened(made)
