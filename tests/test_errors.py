"""What a user is told when something is wrong, and that nothing was written by then."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, SCHNELL
from refusals import CORE, F32, ONES, Bench, Row, after, cut
from submerge import CheckpointError, LayoutError, RecipeError, SubmergeError
from submerge.cli import app
from submerge.recipe.importers.comfy import import_workflow
from submerge.recipe.template import template
from submerge.values import Value

if TYPE_CHECKING:
    from pathlib import Path

    from refusals import Act


PIPELINE = {"output": {"pipeline_from": "krea"}}
VERBS = {
    "threads": Row(
        lambda b: b.merge(run={"threads": 0}),
        RecipeError,
        "threads",
        "expected a whole number from 1 to 4096, got 0",
        None,
    ),
    "io": Row(
        lambda b: b.merge(run={"io": "fast"}),
        RecipeError,
        "io",
        "expected one of `auto`, `mmap`, `pread`, got the text `fast`",
        None,
    ),
    "chunk": Row(
        lambda b: b.merge(run={"chunk": "much"}),
        RecipeError,
        "chunk",
        "`much`",
        "64MiB",
    ),
    "output path": Row(
        lambda b: lambda: submerge.merge_flux_models(b.schnell, b.krea, {"output_path": 3}),
        RecipeError,
        "config.output_path",
        "expected a path, got 3",
        None,
    ),
    "a scheduler alone": Row(
        lambda b: b.merge(b.folder / "m", output={"scheduler_from": "krea"}),
        RecipeError,
        "recipe.output.scheduler_from",
        "without a pipeline",
        "pipeline_from",
    ),
    "a pipeline in a file": Row(
        lambda b: b.merge(**PIPELINE),
        RecipeError,
        "recipe.output.pipeline_from",
        "is one file",
        "leave `.safetensors` off",
    ),
    "a pipeline in another layout": Row(
        lambda b: b.merge(b.folder / "m", output={"pipeline_from": "krea", "layout": "bfl"}),
        RecipeError,
        "recipe.output.layout",
        "in a pipeline, expected `diffusers`",
        "leave",
    ),
    "shards of a file": Row(
        lambda b: b.merge(output={"shard_size": "1GB"}),
        RecipeError,
        "recipe.output.shard_size",
        "is one file",
        "leave `shard_size` out",
    ),
    "a licence loosened": Row(
        lambda b: b.merge(models={**b.models, "krea": {"path": str(b.krea), "license": "mit"}}),
        RecipeError,
        "recipe.models.krea.license",
        "less restrictive",
        "granted it",
    ),
    "a selector that matches nothing": Row(
        lambda b: b.merge(rules=[{"where": "dubble", "alpha": 0.5}]),
        RecipeError,
        "recipe.rules[0].where",
        "`dubble` matches nothing",
        "double",
    ),
    "floats and integers": Row(
        lambda b: b.generic({"x": np.ones(3, F32)}, {"x": np.ones(3, np.int8)}),
        LayoutError,
        "`x`",
        "in one sum, expected floats",
        "by a rule",
    ),
    "a part of an integer": Row(
        lambda b: b.generic(
            {"i": np.arange(3)}, method={"linear": {"weight": {"a": 0.5}, "normalize": False}}
        ),
        LayoutError,
        "`i`",
        "a weight of 0.5 on I64, expected 1",
        None,
    ),
    "a model that is not there": Row(
        lambda b: b.generic({"x": np.ones(3, F32)}, {"y": np.ones(3, F32)}),
        LayoutError,
        "`b`",
        "has no `x`",
        "take:",
    ),
    "a damaged model": Row(
        lambda b: after(b.merge(), lambda: cut(b.krea)),
        CheckpointError,
        "krea.safetensors",
        "expected",
        "",
    ),
    "a model of another family": Row(
        lambda b: after(b.merge(), lambda: factory.write(b.krea, ONES)),
        LayoutError,
        "krea.safetensors",
        "",
        "",
    ),
}


class Odd:
    """A path of bytes, which no recipe can hold."""

    def __fspath__(self) -> bytes:
        return b"x"


def command(*arguments: object) -> Act:
    return lambda: app.main([str(a) for a in arguments], standalone_mode=False)


def piped_index(bench: Bench) -> Act:
    """An index that is a pipe, which would be waited for without end."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes there")
    path = bench.root / "model.safetensors.index.json"
    os.mkfifo(path)
    return lambda: submerge.inspect(path)


def integers(bench: Bench, part: str) -> None:
    """Give the second model one module of integers."""
    arrays = factory.tensors(KREA)
    for name in arrays:
        if part in name:
            arrays[name] = np.ones(arrays[name].shape, np.int8)
    factory.write(bench.krea, arrays)


def vector(bench: Bench, content: bytes) -> Act:
    path = bench.root / "vector.txt"
    path.write_bytes(content)
    return command("recipe", "import", path)


WORKFLOW = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors"}},
    "2": {"class_type": "UNETLoader", "inputs": {"unet_name": "b.safetensors"}},
    "3": {
        "class_type": "ModelMergeSimple",
        "inputs": {"model1": ["1", 0], "model2": ["2", 0], "ratio": 0.5},
    },
}


def infinite(bench: Bench) -> Act:
    arrays = factory.tensors(SCHNELL)
    arrays["proj_out.bias"][3] = np.inf
    factory.write(bench.schnell, arrays)
    return lambda: submerge.verify(bench.schnell).require()


# What needs no merge, or a model made for it.
OTHERS = {
    "an index that is a pipe": Row(
        piped_index, CheckpointError, "index.json", "is not a regular file, expected JSON", None
    ),
    "a vector of two": Row(
        lambda b: vector(b, b"0,0.5"),
        RecipeError,
        "vector.txt",
        "expected 61 numbers, got 2",
        "the order is CLIP, T5, IN",
    ),
    "a vector of bytes": Row(
        lambda b: vector(b, b"\xff\xfe"), RecipeError, "vector.txt", "byte 0 is not UTF-8", None
    ),
    "a node that is no merge": Row(
        lambda _: lambda: import_workflow(WORKFLOW, "w.json", "1"),
        RecipeError,
        "w.json",
        "node `1` is no merge, expected one of node 3",
        None,
    ),
    "a node without inputs": Row(
        lambda _: lambda: import_workflow({"1": {"class_type": "X", "inputs": []}}, "w.json", None),
        RecipeError,
        "w.json",
        "node 1.inputs: expected a mapping, got a list of 0 items",
        None,
    ),
    "a path of bytes": Row(
        lambda b: b.merge(models={"a": Odd()}),
        RecipeError,
        "recipe.models.a",
        "expected text",
        None,
    ),
    "a template unknown": Row(
        lambda _: lambda: template("evn"),
        RecipeError,
        "`evn`",
        "expected one of `blocks`, `even`",
        "did you mean `even`?",
    ),
    "a selector that is a number": Row(
        lambda _: lambda: Value.parse({3: 0.5}, "alpha"),
        RecipeError,
        "alpha",
        "the key 3 is not text, expected names as keys",
        None,
    ),
    "a model that does not pass": Row(
        infinite,
        CheckpointError,
        "schnell.safetensors",
        "1 of 469,888 elements are infinite or NaN, 1 of them in `final.linear.bias`",
        None,
    ),
    "baking integers": Row(
        lambda b: after(b.merge(guidance={"bake": 3.5}), lambda: integers(b, "guidance_embedder")),
        LayoutError,
        "guidance",
        "expected floats to bake",
        None,
    ),
    "integers and floats in one tensor": Row(
        lambda b: after(
            lambda: submerge.convert(b.krea, b.out, layout="bfl"),
            lambda: integers(b, "attn.to_k.weight"),
        ),
        LayoutError,
        "qkv.weight",
        "would share one tensor, expected floats or one dtype",
        "another layout",
    ),
}
REFUSALS = CORE | VERBS | OTHERS


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_said_where_and_what_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    row = REFUSALS[name]
    bench = Bench(tmp_path)
    act = row.make(bench)
    before = sorted(bench.folder.rglob("*"))
    with pytest.raises(SubmergeError) as caught:
        act()
    error = caught.value
    assert type(error) is row.error
    assert row.where in error.message
    assert row.message in error.message[error.message.index(row.where) :]
    if row.hint is not None:
        assert error.hint
        assert row.hint in error.hint
        assert str(error) == f"{error.message}\nhint: {error.hint}"
    assert not error.message[0].isupper()
    added = [path.name for path in sorted(bench.folder.rglob("*")) if path not in before]
    assert added == list(row.leaves)
