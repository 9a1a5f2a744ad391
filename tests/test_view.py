"""A view is the model that would be written: the same tensors, read as those of a file are."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import safe_open

import adapter_files as files
import factory
import submerge as sm
from factory import KREA, SCHNELL
from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.reading import Reading

if TYPE_CHECKING:
    from pathlib import Path

F32: dict[str, Any] = {"layout": "diffusers", "dtype": "f32"}
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"alpha": 0.3, "output": F32},
    "one other block": {"alpha": 0.3, "rules": [{"where": "single[0]", "alpha": 0.9}]},
    "ties": {"method": {"ties": {"base": "schnell", "density": 0.4}}, "output": {"dtype": "f32"}},
    "whole matrices": {"method": {"iso_c": {"base": "schnell"}}},
    "taken": {"take": "krea", "output": {"layout": "bfl"}},
    "scaled fp8": {"alpha": 0.3, "output": {"layout": "bfl", "dtype": "fp8_scaled"}},
}


@pytest.fixture
def parents(tmp_path: Path) -> dict[str, str]:
    schnell = factory.save_file(tmp_path / "schnell.safetensors", SCHNELL, "bfl")
    krea = factory.save_file(tmp_path / "krea.safetensors", KREA, "diffusers")
    return {"schnell": str(schnell), "krea": str(krea)}


def recipe_of(parents: dict[str, str], name: str) -> dict[str, Any]:
    return {"models": parents, "guidance": "keep", **RECIPES[name]}


def data(path: Path) -> dict[str, bytes]:
    checkpoint = open_checkpoint(path)
    with Reading(checkpoint) as reading:
        return {n: reading.sample(t, 0, t.nbytes) for n, t in checkpoint.tensors.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_bytes_and_header_are_those_of_the_file(
    tmp_path: Path, parents: dict[str, str], name: str
) -> None:
    file = tmp_path / "file.safetensors"
    sm.merge(recipe_of(parents, name), file)
    view = sm.open(recipe_of(parents, name))
    written = data(file)
    assert list(view) == view.offset_keys() == list(written)
    assert {n: view.bytes(n) for n in view} == written
    with safe_open(file, "np") as theirs:
        assert view.metadata() == theirs.metadata()
        for tensor in view:
            part = theirs.get_slice(tensor)
            ours = view.get_slice(tensor)
            assert (ours.get_shape(), ours.get_dtype()) == (part.get_shape(), part.get_dtype())


def test_arrays_are_those_safe_open_gives_to_code_written_for_it(
    tmp_path: Path, parents: dict[str, str]
) -> None:
    file = tmp_path / "file.safetensors"
    sm.merge(recipe_of(parents, "linear"), file)

    def read(opened: Any) -> dict[str, Any]:  # as loaders do
        with opened as f:
            return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118

    view = sm.open(recipe_of(parents, "linear"))
    found, expected = read(view), read(safe_open(file, framework="np"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[k], expected[k]) for k in expected)
    assert all(found[k].dtype == expected[k].dtype for k in expected)
    with pytest.raises(sm.PlanError, match="view: was closed"):
        view.get_tensor(next(iter(expected)))


INDICES = [
    slice(None), slice(3, 7), slice(0, 0), slice(5, None, 2), slice(-2, None), slice(3, 0, -1),
    0, -1, ..., (slice(1, 3), slice(2, 5)), (2, 3), (..., 0), (slice(None), 1),
]  # fmt: skip


@pytest.mark.parametrize("name", ["linear", "ties", "one other block"])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_part_is_that_of_the_whole(parents: dict[str, str], name: str, index: Any) -> None:
    view = sm.open(recipe_of(parents, name), dtype="f32")
    for tensor in (
        "transformer_blocks.0.attn.to_q.weight",
        "single_transformer_blocks.0.proj_out.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "final_layer.linear.weight",
    ):
        if tensor in view:
            assert np.array_equal(view.get_slice(tensor)[index], view[tensor][index])
    with pytest.raises(IndexError):
        view.get_slice(next(iter(view)))[10**6]


def test_rows_of_a_fused_tensor_cross_its_units(parents: dict[str, str]) -> None:
    view = sm.open(recipe_of(parents, "one other block"), layout="bfl", dtype="f32")
    for name in ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"):
        whole = view[name]
        for start in range(0, len(whole), 7):
            for end in (start, start + 1, start + 9, len(whole)):
                assert np.array_equal(view.get_slice(name)[start:end], whole[start:end])


def test_dtypes_that_numpy_lacks_are_refused_with_what_works(
    parents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = sm.open(recipe_of(parents, "linear"), dtype="bf16")
    name = next(iter(view))
    assert str(view[name].dtype) == "bfloat16"
    import sys

    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(sm.SubmergeError, match=r"BF16 of 16 bits.*numpy") as caught:
        view[name]
    assert "f32" in str(caught.value.hint)
    for wrong, message in (
        ({"framework": "tf"}, "framework: expected"),
        ({"device": "cuda"}, "on the CPU"),
    ):
        with pytest.raises(sm.RecipeError, match=message):
            sm.open(recipe_of(parents, "linear"), **wrong)  # type: ignore[arg-type]


def test_all_at_once_and_into_memory_of_the_caller(parents: dict[str, str]) -> None:
    calls: list[tuple[int, int]] = []
    view = sm.open(recipe_of(parents, "linear"), progress=lambda d, t: calls.append((d, t)))
    every = view.load()
    assert calls[-1] == (view.nbytes, view.nbytes)
    assert list(every) == list(view)
    assert all(np.array_equal(every[name], view[name]) for name in view)
    name = "transformer_blocks.0.attn.to_q.weight"
    assert view.load([name]).keys() == {name}
    array = np.zeros(every[name].shape, np.float32)
    view.into(name, array)
    assert np.array_equal(array, every[name])
    with pytest.raises(sm.PlanError, match="expected"):
        view.into(name, np.zeros(3, np.float32))
    with pytest.raises(BufferError):
        view.into(name, np.zeros((4, *array.shape), np.float32)[..., ::2])
    with pytest.raises(KeyError, match=r"did you mean `transformer_blocks\.0\.attn\.to_q\.weight`"):
        view["transformer_blocks.0.attn.to_q.weigth"]


def test_other_shares_change_only_their_tensors(parents: dict[str, str]) -> None:
    view = sm.open(recipe_of(parents, "linear"))
    other = view.with_(set={"single[0]": 0.7})
    changed = other.changed(view)
    assert changed == [n for n in view if n.startswith("single_transformer_blocks.0.")]
    really = [n for n in view if view.bytes(n) != other.bytes(n)]
    assert set(really) <= set(changed)
    assert len(really) > len(changed) / 2
    assert view.with_(alpha=0.3).changed(view) == []
    everything = view.with_(alpha=0.31).changed(view)
    assert {n for n in view if view.bytes(n) != view.with_(alpha=0.31).bytes(n)} <= set(everything)
    assert view.as_(dtype="f16").changed(view) == list(view)
    fresh = sm.open(view.with_(set={"single[0]": 0.7}).recipe)
    assert {n: fresh.bytes(n) for n in fresh} == {n: other.bytes(n) for n in other}


def test_an_adapter_changes_what_it_reaches(tmp_path: Path, parents: dict[str, str]) -> None:
    path = tmp_path / "style.safetensors"
    module = "transformer_blocks.0.attn.to_q"
    rank, hidden = 2, KREA.hidden
    rng = np.random.default_rng(0)
    files.save(
        path,
        {
            f"transformer.{module}.lora_A.weight": rng.standard_normal((rank, hidden)),
            f"transformer.{module}.lora_B.weight": rng.standard_normal((hidden, rank)),
        },
    )
    view = sm.open(recipe_of(parents, "linear"))
    styled = view.with_(adapters=[str(path)])
    assert styled.changed(view) == [f"{module}.weight"]
    assert sm.open(recipe_of(parents, "linear"), adapters=[str(path)]).bytes(
        f"{module}.weight"
    ) == styled.bytes(f"{module}.weight")


def test_what_was_found_out_is_shared(
    parents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("submerge.run.doubt", lambda _: None)
    view = sm.open(recipe_of(parents, "ties"))
    shared = view._shared.statistics
    assert shared == {}
    first = {name: view.bytes(name) for name in view}
    known = dict(shared)
    assert known
    again = view.with_(alpha=None)
    assert {name: again.bytes(name) for name in again} == first
    assert shared == known


def test_eight_threads_read_at_once(parents: dict[str, str]) -> None:
    view = sm.open(recipe_of(parents, "ties"), threads=2)
    alone = {name: view.bytes(name) for name in view}
    wrong: list[str] = []

    def read(names: list[str]) -> None:
        wrong.extend(name for name in names if view.bytes(name) != alone[name])

    names = list(view)
    threads = [threading.Thread(target=read, args=(names[i:] + names[:i],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_changes_is_an_error_never_other_numbers(
    tmp_path: Path, parents: dict[str, str]
) -> None:
    view = sm.open(recipe_of(parents, "linear"))
    name = next(iter(view))
    view.bytes(name)
    factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    for read in (view.bytes, view.get_tensor, lambda n: view.get_slice(n)[:1]):
        with pytest.raises(sm.PlanError, match=re.escape("krea.safetensors")):
            read(name)
    # A view that shares the headers read before knows it as well.
    with pytest.raises(sm.PlanError, match=re.escape("krea.safetensors")):
        view.with_(alpha=0.1).bytes(name)


def test_a_cancelled_view_stops(parents: dict[str, str]) -> None:
    token = sm.CancelToken()
    view = sm.open(recipe_of(parents, "linear"), cancel=token)
    token.cancel()
    with pytest.raises(sm.Cancelled):
        view.bytes(next(iter(view)))


def test_what_may_be_opened(tmp_path: Path, parents: dict[str, str]) -> None:
    schnell, krea = parents.values()
    pair = sm.open(schnell, krea, alpha=0.3, layout="diffusers")
    assert pair.recipe.models.keys() == {"schnell", "krea"}
    plain = sm.open(krea)
    assert {n: plain.bytes(n) for n in plain} == data(tmp_path / "krea.safetensors")
    text = tmp_path / "recipe.yaml"
    text.write_text(sm.Recipe.load(recipe_of(parents, "ties")).to_yaml(), encoding="utf-8")
    assert list(sm.open(text)) == list(sm.open(recipe_of(parents, "ties")))
    merged = sm.merge_flux_models(
        schnell, krea, {"alpha": 0.2, "output_path": tmp_path / "m.safetensors"}
    )
    assert sm.open(merged).bytes("img_in.weight") == data(merged.path)["img_in.weight"]
    with pytest.raises(sm.RecipeError, match="an adapter"):
        sm.open(
            {
                "models": parents,
                "output": {"adapter": {"onto": "schnell", "rank": 2}},
                "take": "krea",
            }
        )
    with pytest.raises(TypeError):
        sm.open(schnell, krea, shard_size=3)  # type: ignore[call-arg]


def test_config_and_architecture_are_those_of_the_result(parents: dict[str, str]) -> None:
    view = sm.open(recipe_of(parents, "linear"))
    assert view.config is not None
    assert view.config["guidance_embeds"] is True
    assert view.model.layout == "diffusers"
    dropped = sm.open({**recipe_of(parents, "linear"), "guidance": "drop"})
    assert dropped.config is not None
    assert dropped.config["guidance_embeds"] is False
    coded = sm.open(recipe_of(parents, "scaled fp8"))
    assert coded.config == view.config
    with pytest.raises(sm.LayoutError, match="expected a dtype of numbers"):
        _ = coded.model
