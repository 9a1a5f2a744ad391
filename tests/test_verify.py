"""What `verify` says: what it looked at, what it did not, and what is only a remark."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, SCHNELL
from submerge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from submerge.verify import Check, Verification


def check(found: Verification, name: str) -> Check:
    return next(check for check in found.checks if check.name == name)


def failed(found: Verification) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def changed(path: Path, arrays: dict[str, Any]) -> Path:
    return factory.write(path, factory.tensors(KREA) | arrays)


def test_numbers_that_cannot_be_decoded_are_counted_apart(tmp_path: Path) -> None:
    path = factory.write(
        tmp_path / "all.safetensors",
        factory.tensors(KREA, "bfl", "model.diffusion_model.")
        | factory.extras()
        | {"vae.steps": np.arange(5), "vae.flag": np.ones(3, bool)},
    )
    found = check(submerge.verify(path), "finite")
    seen = sum(a.size for a in (factory.tensors(KREA) | factory.extras()).values())
    assert found.passed
    assert found.found == (
        f"{seen:,} elements, all finite; not looked at: 5 elements of I64 in 1 tensor: "
        "`vae.steps`; not looked at: 3 elements of BOOL in 1 tensor: `vae.flag`"
    )


@pytest.mark.parametrize("dtype", factory.FLOATS)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_number_that_is_not_finite_is_found_in_every_float(
    tmp_path: Path, dtype: str, value: float
) -> None:
    if dtype == "F8_E4M3" and np.isinf(value):
        pytest.skip("the type has no infinity")
    name = "vae.decoder.conv_in.weight"
    arrays = factory.tensors(KREA, "bfl", "model.diffusion_model.") | factory.extras()
    arrays[name] = arrays[name].astype(factory.DTYPES[dtype][0])
    path = factory.write(tmp_path / "sound.safetensors", arrays)
    assert submerge.verify(path).passed
    arrays[name].flat[-1] = value
    found = submerge.verify(factory.write(tmp_path / "all.safetensors", arrays))
    assert failed(found) == ["finite"]
    assert f"1 of {sum(a.size for a in arrays.values()):,} elements" in check(found, "finite").found
    assert f"`{name}`" in check(found, "finite").found


def test_a_block_of_zeros_fails_and_a_tensor_of_zeros_is_a_remark(tmp_path: Path) -> None:
    arrays = factory.tensors(KREA)
    one = "transformer_blocks.0.attn.to_q.bias"
    found = submerge.verify(changed(tmp_path / "a.safetensors", {one: arrays[one] * 0}))
    assert found.passed
    assert found.remarks == ("all zeros: 1 unit: `double.0.img.attn.q.bias`",)
    block = {n: a * 0 for n, a in arrays.items() if n.startswith("single_transformer_blocks.1.")}
    found = submerge.verify(changed(tmp_path / "b.safetensors", block))
    assert failed(found) == ["zeros"]
    assert "1 block: `single.1` of 4 all zeros" in check(found, "zeros").found
    almost = dict(block)
    last = max(block)
    almost[last] = arrays[last]
    assert submerge.verify(changed(tmp_path / "c.safetensors", almost)).passed


def test_values_too_small_for_their_squares_are_not_called_zero(tmp_path: Path) -> None:
    arrays = factory.tensors(KREA)
    block = {n: a for n, a in arrays.items() if n.startswith("single_transformer_blocks.1.")}
    tiny = {n: np.full_like(a, 1e-30) for n, a in block.items()}
    found = submerge.verify(changed(tmp_path / "a.safetensors", tiny))
    assert found.passed
    assert not found.remarks
    for array in tiny.values():
        array[...] = 0
    one = next(iter(tiny.values()))
    one.flat[-1] = -1e-30
    assert submerge.verify(changed(tmp_path / "b.safetensors", tiny)).passed
    one.flat[-1] = -0.0
    assert failed(submerge.verify(changed(tmp_path / "c.safetensors", tiny))) == ["zeros"]


def test_a_part_of_nan_is_not_called_zero(tmp_path: Path) -> None:
    name = "transformer_blocks.0.attn.to_q.bias"
    found = submerge.verify(
        changed(tmp_path / "a.safetensors", {name: factory.values(KREA, name, (64,)) * np.nan})
    )
    assert failed(found) == ["finite"]
    assert found.remarks == ()


def test_a_wrong_total_is_a_remark_wherever_it_is_met(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", KREA, shards=2)
    index = folder / f"{factory.WEIGHTS}.safetensors.index.json"
    content = json.loads(index.read_text())
    content["metadata"]["total_size"] += 1
    index.write_text(json.dumps(content))
    found = submerge.verify(folder)
    assert found.passed
    (remark,) = found.remarks
    assert "`total_size`" in remark
    assert f"note  {remark}" in found.text()
    assert found.to_dict()["remarks"] == [remark]
    assert submerge.inspect(folder).warnings == found.remarks
    made = submerge.plan({"models": {"m": str(folder)}, "take": "m"}, tmp_path / "o.safetensors")
    assert remark in made.about.notes


def merged(folder: Path) -> tuple[dict[str, Any], Path]:
    models = {
        "schnell": str(factory.save_pipeline(folder / "schnell", SCHNELL)),
        "krea": str(factory.save_file(folder / "krea.safetensors", KREA, "bfl")),
    }
    (folder / "schnell" / "tokenizer" / "merges.txt").write_text("a b")
    recipe = {"models": models, "alpha": 0.3, "output": {"pipeline_from": "schnell"}}
    submerge.merge(recipe, folder / "out")
    return recipe, folder / "out"


def test_a_whole_pipeline_is_looked_at(tmp_path: Path) -> None:
    recipe, out = merged(tmp_path)
    found = submerge.verify(out, recipe=recipe)
    assert found.passed
    assert found.remarks == ()
    assert "numbers not looked at: scheduler (1 file), text_encoder (2 files)" in (
        check(found, "components").found
    )
    assert "1 weight file, 14 files beside" in check(found, "recipe").found
    alone = submerge.verify(out / "transformer")
    assert [check.name for check in alone.checks] == ["structure", "config", "finite", "zeros"]


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "checks", "words"),
    [
        (lambda o: flip(o / "vae/diffusion_pytorch_model.safetensors"), ["recipe"], "vae/diff"),
        (lambda o: flip(o / "scheduler/scheduler_config.json"), ["recipe"], "scheduler/sch"),
        (lambda o: flip(o / "tokenizer/merges.txt"), ["recipe"], "tokenizer/merges.txt"),
        (
            lambda o: (o / "text_encoder/model.safetensors").unlink(),
            ["components", "recipe"],
            "enc",
        ),
        (lambda o: shutil.rmtree(o / "vae"), ["components", "recipe"], "vae"),
        (
            lambda o: (o / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"version htt"),
            ["components", "recipe"],
            "vae/diff",
        ),
        (
            lambda o: flip(o / "text_encoder_2/config.json"),
            ["recipe"],
            "text_encoder_2/config.json",
        ),
    ],
)
def test_what_stands_around_the_transformer_is_compared(
    tmp_path: Path, damage: Callable[[Path], None], checks: list[str], words: str
) -> None:
    recipe, out = merged(tmp_path)
    damage(out)
    found = submerge.verify(out, recipe=recipe)
    assert failed(found) == checks
    assert all(words in check(found, name).found for name in checks)


def test_a_card_that_was_written_on_is_a_remark(tmp_path: Path) -> None:
    recipe, out = merged(tmp_path)
    (out / "README.md").write_text("mine")
    found = submerge.verify(out, recipe=recipe)
    assert found.passed
    assert found.remarks == ("changed since it was written: 1 file: `README.md`",)


def test_an_export_says_what_is_not_finite_before_it_writes(tmp_path: Path) -> None:
    name = "transformer_blocks.0.attn.to_q.bias"
    bias = factory.tensors(KREA)[name].copy()
    bias[3] = np.nan
    path = changed(tmp_path / "nan.safetensors", {name: bias})
    with pytest.raises(CheckpointError) as caught:
        submerge.export_merged_model(path, tmp_path / "out.safetensors", "f16")
    assert "1 infinite or NaN in `double.0.img.attn.q.bias`" in caught.value.message
    assert "disk" not in str(caught.value.hint)
    assert not (tmp_path / "out.safetensors").exists()


def test_an_export_says_what_does_not_fit_before_it_writes(tmp_path: Path) -> None:
    name = "transformer_blocks.0.attn.to_q.bias"
    bias = factory.tensors(KREA)[name].copy()
    bias[3:5] = 1e5
    path = changed(tmp_path / "large.safetensors", {name: bias})
    with pytest.raises(CheckpointError, match="2 elements too large for F16") as caught:
        submerge.export_merged_model(path, tmp_path / "out.safetensors", "f16")
    assert "`double.0.img.attn.q.bias`" in caught.value.message
    assert not (tmp_path / "out.safetensors").exists()
    for fits in ("bf16", "f32", "f8_e4m3"):
        submerge.export_merged_model(path, tmp_path / f"{fits}.safetensors", fits)


def test_a_block_of_zeros_is_exported_as_it_is(tmp_path: Path) -> None:
    block = {
        n: a * 0
        for n, a in factory.tensors(KREA).items()
        if n.startswith("single_transformer_blocks.1.")
    }
    path = changed(tmp_path / "zeros.safetensors", block)
    submerge.export_merged_model(path, tmp_path / "out.safetensors", "f16")
