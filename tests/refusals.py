"""Scenes of what a user can do wrong with whole models on disk.

Each function prepares one and returns the act that must fail; `CORE` says what must come of those
that only the core can see.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest

import boundary
import factory
import submerge
from boundary import blended, linear, place
from factory import KREA, SCHNELL
from submerge import CheckpointError, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Act: TypeAlias = "Callable[[], object]"


class Bench:
    """A folder with two models, and the folder of the output."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "out"
        self.folder.mkdir()
        self.out = self.folder / "out.safetensors"
        self.schnell = factory.save_file(root / "schnell.safetensors", SCHNELL)
        self.krea = factory.save_file(root / "krea.safetensors", KREA, "bfl")

    @property
    def models(self) -> dict[str, str]:
        return {"schnell": str(self.schnell), "krea": str(self.krea)}

    def merge(self, out: Path | None = None, /, run: Any = None, **fields: Any) -> Act:
        recipe = {"models": self.models, **fields}
        return lambda: submerge.merge(recipe, out or self.out, **(run or {}))

    def arrays(self, *files: dict[str, Any]) -> list[Path]:
        """Files with any tensors, called a, b, ..."""
        return [
            factory.write(self.root / f"{name}.safetensors", arrays)
            for name, arrays in zip("abc", files, strict=False)
        ]

    def generic(self, *files: dict[str, Any], **fields: Any) -> Act:
        """Merge tensors by name."""
        paths = {path.stem: str(path) for path in self.arrays(*files)}
        models = {name: {"path": path, "layout": "generic"} for name, path in paths.items()}
        return lambda: submerge.merge({"models": models, **fields}, self.out)

    def plan(self, *files: dict[str, Any]) -> dict[str, Any]:
        """The sum of two files of any tensors, as a plan by hand."""
        return blended(self.out, self.arrays(*files), [0.5] * len(files))


@dataclass(frozen=True)
class Row:
    """What must come of an act: class, where it went wrong, what is said, a part of the hint."""

    make: Callable[[Bench], Act]
    error: type[submerge.SubmergeError]
    where: str
    message: str
    hint: str | None
    leaves: tuple[str, ...] = ()


F32 = np.float32
ONES = {"x": np.ones((4, 3), F32), "v": np.ones(4, F32)}


def after(act: Act, change: Callable[[], object]) -> Act:
    """Do something on the way, which must not fail, and then act."""
    change()
    return act


def network(bench: Bench, **changes: Any) -> Act:
    """A plan with a network whose weight is `x` and whose bias is `v`."""
    held = {"x": np.ones((4, 3), F32), "v": np.ones(4, F32), "i": np.ones((4, 3), np.int8)}
    wide = changes.pop("wide", False)
    if wide:
        held["x"] = np.zeros((4, 2_000_000), F32)
    plan = bench.plan(held)
    name = changes.pop("name", "x")
    weight = {"operands": [place(0, name, 0, 4)], "weights": [1.0]}
    bias = {"operands": [place(0, "v", 0, 4)], "weights": [1.0]}
    layers = [{"weight": weight, "bias": bias, "activation": "none"}]
    inputs = [1.0] * changes.pop("inputs", 3)
    plan["outputs"] = [{"file": 0, "name": "y", "dtype": "F32", "shape": [4]}]
    unit = {"name": "y", "output": 0, "start": 0, "end": 4, "op": linear(1.0)}
    plan["units"] = [unit | {"operands": [[{"network": {"input": inputs, "layers": layers}}]]}]
    return partial(boundary.execute, plan)


def op(bench: Bench, held: dict[str, Any], op: dict[str, Any], dtype: str) -> Act:
    plan = bench.plan(held)
    for unit in plan["units"]:
        unit["op"] = op
    plan["outputs"][0]["dtype"] = dtype
    return partial(boundary.execute, plan)


def reflink(bench: Bench) -> Act:
    """Take a file over from a filesystem that shares no extents."""
    plan = bench.plan(ONES)
    plan["target"] = {"folder": {"path": str(bench.folder / "model")}}
    plan["files"][0]["path"] = "model.safetensors"
    plan["copies"] = [{"path": "version", "from": "/proc/version", "how": "reflink"}]
    return partial(boundary.execute, plan)


def verify_other(bench: Bench, *, header: bool) -> Act:
    """Check an output that another recipe made."""
    submerge.merge({"models": bench.models, "alpha": 0.25}, bench.out)
    plan = submerge.plan({"models": bench.models, "alpha": 0.25 if header else 0.75}, bench.out)
    content = bytearray(bench.out.read_bytes())
    if header:  # a letter of the title
        at = content.index(b"schnell + krea")
        content[at] = ord("S")
    else:
        content += bytes(8)
    bench.out.write_bytes(content)
    return partial(boundary.execute, plan.plain(), mode="check")


def limited(act: Act) -> Act:
    """Act while this process may write files of a kilobyte."""

    def limited() -> None:
        resource: Any = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        try:
            act()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def written_elsewhere(bench: Bench) -> Act:
    def act() -> None:
        with bench.krea.open("r+b"):
            bench.merge(run={"io": "mmap"})()

    return act


def changing(bench: Bench, change: Callable[[Path], object], *, large: bool) -> Act:
    """Merge models of which the second changes at the first report of progress."""
    flux = replace(KREA, hidden=1536, head_dim=128, double=1, single=1) if large else KREA
    for name in ("schnell", "krea"):
        factory.save_sparse(bench.root / f"{name}.safetensors", flux)
    slow = {"threads": 1, "isa": "scalar", "chunk": 1, "io": "pread"}
    return bench.merge(run={**slow, "progress": lambda *_: change(bench.krea)})


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def cut(path: Path) -> None:
    os.truncate(path, 4096)


def foreign_folder(bench: Bench) -> Act:
    out = bench.folder / "model"
    factory.write_json(out / "diary.json", {})
    return bench.merge(out, run={"overwrite": True}, output={"layout": "diffusers"})


def stale(bench: Bench) -> Act:
    plan = submerge.plan({"models": bench.models}, bench.out)
    return after(partial(boundary.execute, plan.plain()), lambda: touch(bench.krea))


def existing(bench: Bench, *, directory: bool, overwrite: bool) -> Act:
    bench.out.mkdir() if directory else bench.out.write_text("mine")
    return bench.merge(run={"overwrite": overwrite})


def in_the_way(bench: Bench) -> Act:
    """Another program makes the output while the job runs."""
    return changing(bench, lambda _: bench.out.write_text("mine") and None, large=True)


def nameless(bench: Bench) -> Act:
    plan = bench.plan(ONES)
    plan["target"] = {"file": {"path": "/"}}
    return partial(boundary.execute, plan)


def too_long(bench: Bench) -> Act:
    """A method that counts elements, on a tensor of 2^32 of them that takes no room."""
    header = b'{"x":{"dtype":"F8_E4M3","shape":[65536,65536],"data_offsets":[0,4294967296]}}   '
    models = {}
    for name in "ab":
        path = bench.root / f"{name}.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(path, 8 + len(header) + (1 << 32))
        models[name] = {"path": str(path), "layout": "generic"}
    recipe = {"models": models, "base": "a", "method": {"ties": {"density": 0.5}}}
    return lambda: submerge.merge(recipe, bench.out)


# What the core refuses.
CORE = {
    "dtype that cannot be merged": Row(
        lambda b: b.generic({"i": np.arange(3)}, {"i": np.arange(3) + 1}),
        PlanError,
        "`i`",
        "differs between the models, expected equal values",
        "take the tensor",
    ),
    "a plan gone stale": Row(
        stale,
        PlanError,
        "krea.safetensors",
        "is not the file the plan was made for",
        "again",
    ),
    "an output that exists": Row(
        partial(existing, directory=False, overwrite=False),
        PlanError,
        "out.safetensors",
        "exists, expected a path that is free",
        "`overwrite=True`",
    ),
    "an output that is a folder": Row(
        partial(existing, directory=True, overwrite=True),
        PlanError,
        "out.safetensors",
        "expected a regular file, got something else",
        "remove it",
    ),
    "a folder of others": Row(
        foreign_folder,
        PlanError,
        "model",
        "got 1 others: `diary.json`",
        "another output folder",
    ),
    "an input as output": Row(
        lambda b: b.merge(b.schnell, run={"overwrite": True}),
        PlanError,
        "schnell.safetensors",
        "is an input",
        "never overwritten",
    ),
    "an output without a name": Row(
        nameless,
        PlanError,
        "/",
        "not a name an output can have",
        "file or folder name",
    ),
    "a file size limit": Row(
        lambda b: limited(b.merge()),
        PlanError,
        "out.safetensors",
        "larger than this process may write",
        "ulimit",
    ),
    "a file others write": Row(
        written_elsewhere,
        PlanError,
        "krea.safetensors",
        "cannot be mapped, expected a local file",
        "io='pread'",
    ),
    "an output made by another meanwhile": Row(
        in_the_way,
        PlanError,
        "out.safetensors",
        "exists, expected a path that is free",
        "`overwrite=True`",
        leaves=("out.safetensors",),
    ),
    "an input that changes": Row(
        lambda b: changing(b, touch, large=True),
        CheckpointError,
        "krea.safetensors",
        "changed while it was being read",
        "run again",
    ),
    "an input that shrinks": Row(
        lambda b: changing(b, cut, large=True),
        CheckpointError,
        "krea.safetensors",
        "can no longer be read",
        "truncated",
    ),
    "no room for a link": Row(
        reflink,
        PlanError,
        "/proc/version",
        "cannot be reflinked",
        "`copy`",
    ),
    "a check of another size": Row(
        partial(verify_other, header=False),
        PlanError,
        "out.safetensors",
        "bytes, expected",
        "another recipe",
    ),
    "a check of another header": Row(
        partial(verify_other, header=True),
        PlanError,
        "out.safetensors",
        "its header differs",
        "another recipe",
    ),
    "too small a budget": Row(
        lambda b: b.merge(run={"memory_budget": 1000}),
        PlanError,
        "memory_budget: 1000 bytes of working memory",
        "expected at least",
        "`memory_budget`",
    ),
    "a copy of what differs in dtype": Row(
        lambda b: op(b, {"x": np.ones(3, F32)}, {"same": {}}, "F16"),
        PlanError,
        "plan unit `x`",
        "`same` needs operands of dtype F16",
        None,
    ),
    "a sum of integers": Row(
        lambda b: op(b, {"x": np.ones(3, np.int8)}, linear(0.5), "I8"),
        PlanError,
        "plan unit `x`",
        "I8 cannot be computed with, expected F64",
        None,
    ),
    "a network of integers": Row(
        lambda b: network(b, name="i"),
        PlanError,
        "plan unit `y`",
        "I8 cannot be computed",
        None,
    ),
    "a network that does not fit": Row(
        lambda b: network(b, inputs=4),
        PlanError,
        "plan unit `y`",
        "a layer does not fit",
        None,
    ),
    "a network too wide": Row(
        lambda b: network(b, wide=True, inputs=2_000_000),
        PlanError,
        "plan unit `y`",
        "columns in a layer, expected at most",
        None,
    ),
    "a tensor too long to count": Row(
        too_long,
        PlanError,
        "plan unit `x`",
        "4294967296 elements, expected at most 4294967295 for its op",
        None,
    ),
    "an unknown instruction set": Row(
        lambda b: b.merge(run={"isa": "neon"}),
        PlanError,
        "options",
        "isa `neon`, expected",
        None,
    ),
}
