"""Any tensors with equal names: what files hold beside floats, and names of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from submerge.errors import LayoutError, PlanError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAMES = (
    "*", ".", ".a", "0", "7.x", "a", "a..b", "a.", "a[0].weight", "ä/β 0 x", "new\nline",
    "double.0.img", "double.x", "single.3", "guidance.w", "guidance.in.weight", "final.linear",
    "embed.img.weight", "same", "default",
)  # fmt: skip
METHODS: tuple[Any, ...] = (
    "linear",
    "karcher",
    "nearswap",
    {"slerp": {"rowwise": True}},
    {"ties": {"base": "a", "density": 0.5}},
    {"dare_ties": {"base": "a", "density": 0.5}},
)


def arrays(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return tensors of every shape and of dtypes that are merged and that are not."""
    random = np.random.default_rng(seed)
    shapes = {
        "scalar": (),
        "one": (1,),
        "conv": (4, 3, 3, 3),
        "column": (5, 1),
        **dict.fromkeys(NAMES, (3, 2)),
    }
    made = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    return made | {
        "empty": np.zeros(0, np.float32),
        "no rows": np.zeros((0, 3), np.float32),
        "no columns": np.zeros((3, 0), np.float32),
        "half": random.standard_normal((4, 4)).astype(np.float16),
        "count": np.array(7, np.int64),
        "flags": np.array([True, False]),
        "bytes": np.arange(4, dtype=np.uint8),
        "double": np.arange(3, dtype=np.float64),
    }


def write(folder: Path, **models: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    return {
        name: {
            "path": str(factory.write(folder / f"{name}.safetensors", found)),
            "layout": "generic",
        }
        for name, found in models.items()
    }


def merged(x: np.ndarray) -> np.ndarray:
    """Sums are formed in f32, so a merged F64 tensor is written as F32."""
    return x.astype(np.float32) if x.dtype == np.float64 else x


LEAVES = {f"{part}.{leaf}": (3, 2) for part in ("in", "blocks.0", "blocks.1") for leaf in "wb"}
WRAPPED: dict[str, Callable[[str], str]] = {
    "_orig_mod": lambda n: f"_orig_mod.{n}",
    "module": lambda n: f"module.{n}",
    "_orig_mod, module": lambda n: f"module._orig_mod.{n}",
    "_fsdp_wrapped_module": lambda n: f"_fsdp_wrapped_module.{n}".replace(
        "blocks.0.", "blocks.0._fsdp_wrapped_module."
    ),
    "_checkpoint_wrapped_module": lambda n: n.replace(".0.", ".0._checkpoint_wrapped_module."),
    "_forward_module": lambda n: f"_forward_module.{n}",
    "base_layer": lambda n: n.replace(".0.", ".0.base_layer."),
}


def noise(seed: int, names: Iterable[str] = LEAVES) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((3, 2)).astype(np.float32) for name in names}


@pytest.mark.parametrize("first", ["wrapped", "plain"])
@pytest.mark.parametrize("word", WRAPPED)
def test_wrappers_in_names_mean_nothing(tmp_path: Path, word: str, first: str) -> None:
    a, b = noise(1), noise(2)
    wrapped = {WRAPPED[word](n): x for n, x in a.items()}
    models = write(tmp_path, wrapped=wrapped, plain=b)
    order = {n: models[n] for n in (first, *models)}
    out = tmp_path / "out.safetensors"
    shares = {"wrapped": 0.25, "plain": 0.75}
    report = submerge.merge({"models": order, "weight": shares}, out)
    got = factory.read(out)
    assert got.keys() == a.keys()
    f = np.float32
    for name, x in got.items():
        parts = {"wrapped": a[name] * f(0.25), "plain": b[name] * f(0.75)}
        assert (x == parts.pop(first) + next(iter(parts.values()))).all(), name
    (note,) = [n for n in report.summary["notes"] if "read without" in n]
    changed = sum(n != WRAPPED[word](n) for n in a)
    words = ", ".join(f"`{w}`" for w in word.split(", "))
    assert note == f"{tmp_path}/wrapped.safetensors: {changed} tensor names read without {words}"
    path = models["wrapped"]["path"]
    assert submerge.inspect(path, layout="generic").warnings == (note,)
    assert submerge.verify(out, recipe={"models": order, "weight": shares}, layout="generic").passed
    assert submerge.diff(path, models["plain"]["path"], layout="generic").rows


NAMED_SO = {
    "a part called module": ["module.a", "other.b"],
    "a part called module within": ["module.a.module.x", "module.b"],
    "a prefix that comes twice": ["transformer.transformer.x", "transformer.transformer.y"],
    "an adapter": ["x.base_layer.w", "x.lora_A.w"],
}


@pytest.mark.parametrize("case", NAMED_SO)
def test_names_that_may_be_meant_so_are_kept(tmp_path: Path, case: str) -> None:
    models = write(tmp_path, a=noise(1, NAMED_SO[case]), b=noise(2, NAMED_SO[case]))
    out = tmp_path / "out.safetensors"
    report = submerge.merge({"models": models}, out)
    assert set(factory.read(out)) == set(NAMED_SO[case])
    assert not any("read without" in note for note in report.summary["notes"])


def test_a_running_average_is_read_without_its_module(tmp_path: Path) -> None:
    one = {f"module.{n}": x for n, x in noise(1).items()} | {"n_averaged": np.ones((), np.int64)}
    out = tmp_path / "out.safetensors"
    models = write(tmp_path, a=one)
    submerge.merge({"models": models, "take": "a"}, out)
    assert set(factory.read(out)) == {*LEAVES, "n_averaged"}


def test_names_that_become_one_are_an_error(tmp_path: Path) -> None:
    models = write(tmp_path, a=noise(1) | noise(2, ["_orig_mod.in.w"]))
    with pytest.raises(LayoutError, match="become one name without what wraps them"):
        submerge.plan({"models": models, "take": "a"}, tmp_path / "out.safetensors")


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_everything_is_written_under_its_name(tmp_path: Path, method: object) -> None:
    a, b = arrays(1), arrays(2)
    out = tmp_path / "out.safetensors"
    submerge.merge({"models": write(tmp_path, a=a, b=b), "method": method}, out)
    got = factory.read(out)
    assert {n: (x.shape, x.dtype) for n, x in got.items()} == {
        n: (x.shape, merged(x).dtype) for n, x in a.items()
    }
    for name, x in a.items():
        if merged(x).dtype == np.float32 and method == "linear":
            np.testing.assert_allclose(got[name], (x + b[name]) / 2, atol=1e-6, err_msg=name)
        elif x.dtype not in (np.float64, np.float32, np.float16):
            np.testing.assert_array_equal(got[name], x, err_msg=name)


def test_a_model_with_itself_is_the_model(tmp_path: Path) -> None:
    a = arrays(1)
    models = write(tmp_path, a=a, b=a)
    first = Path(models["a"]["path"]).read_bytes()
    for method in ("linear", "slerp", {"ties": {"base": "a"}}, {"task_arithmetic": {"base": "a"}}):
        out = tmp_path / "out.safetensors"
        submerge.merge({"models": models, "method": method}, out, overwrite=True)
        got = factory.read(out)
        for name, x in factory.read(tmp_path / "a.safetensors").items():
            assert got[name].tobytes() == merged(x).tobytes(), (method, name)
    assert Path(models["a"]["path"]).read_bytes() == first


def test_shards_diff_verify_and_inspect(tmp_path: Path) -> None:
    models = write(tmp_path, a=arrays(1), b=arrays(2))
    folder = tmp_path / "shards"
    submerge.merge({"models": models, "output": {"shard_size": "200B"}}, folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    submerge.verify(folder, layout="generic").require()
    found = submerge.diff(models["a"]["path"], models["b"]["path"], layout="generic")
    assert found.total().elements == sum(x.size for x in arrays(1).values() if x.dtype.kind == "f")
    assert any("not compared" in note and "`count`" in note for note in found.notes)
    told = submerge.inspect(models["a"]["path"], layout="generic")
    assert told.architecture is None
    assert "tensors by name" in told.text()
    assert "architecture" not in told.text()


def test_selectors_reach_names_with_spaces_dots_and_brackets(tmp_path: Path) -> None:
    a, b = arrays(1), arrays(2)
    models = write(tmp_path, a=a, b=b)
    out = tmp_path / "out.safetensors"
    chosen = {"ä/β 0 x": "ä/β 0 x", "a?0?.weight": "a[0].weight", "a.*.b": "a..b"}
    rules = [{"where": selector, "take": "b"} for selector in chosen]
    submerge.merge({"models": models, "take": "a", "rules": rules}, out)
    got = factory.read(out)
    for name, x in got.items():
        expected = b if name in chosen.values() else a
        np.testing.assert_array_equal(x, expected[name], err_msg=name)
    recipe = {"models": models, "rules": [{"where": "a[0].weight", "take": "b"}]}
    with pytest.raises(RecipeError, match=r"write `\?` for the brackets of a name: `a\?0\?"):
        submerge.merge(recipe, out, overwrite=True)


def test_integers_that_differ_need_a_rule(tmp_path: Path) -> None:
    b = arrays(2) | {"count": np.array(9, np.int64)}
    models = write(tmp_path, a=arrays(1), b=b)
    out = tmp_path / "out.safetensors"
    with pytest.raises(PlanError, match="`count`: differs between the models"):
        submerge.merge({"models": models}, out)
    assert not out.exists()
    submerge.merge({"models": models, "rules": [{"where": "count", "take": "b"}]}, out)
    assert factory.read(out)["count"] == 9


def test_all_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    b = arrays(2) | {"scalar": np.zeros(2, np.float32), "one": np.zeros(3, np.float32)}
    del b["conv"]
    with pytest.raises(LayoutError) as caught:
        submerge.plan({"models": write(tmp_path, a=arrays(1), b=b)}, tmp_path / "out.safetensors")
    message = str(caught.value)
    assert "`b` has no `conv`" in message
    assert "nor do 2 more units: `one`, `scalar` fit together" in message


def test_networks_trained_apart_are_told_from_relatives(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    a, b = ({"w": random.standard_normal((64, 64)).astype(np.float32)} for _ in range(2))
    near = {"w": a["w"] + np.float32(0.2) * b["w"]}
    models = write(tmp_path, a=a, apart=b, near=near)
    cosine = np.vdot(a["w"], b["w"]) / np.linalg.norm(a["w"]) / np.linalg.norm(b["w"])
    for other, said in (("apart", True), ("near", False)):
        pair = {name: models[name] for name in ("a", other)}
        report = submerge.merge({"models": pair}, tmp_path / f"{other}-out.safetensors")
        found = submerge.diff(pair["a"]["path"], pair[other]["path"], layout="generic")
        for notes in (report.to_dict()["notes"], found.notes):
            told = [note for note in notes if "trained apart" in note]
            assert bool(told) == said
            assert not told or f"a and apart have the cosine {cosine:.3f}" in told[0]
