"""Files as trainers and people leave them: names wrapped, weights not gathered, company."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import oracle
import submerge
from factory import KREA, SCHNELL
from opened import headers
from submerge.errors import LayoutError, RecipeError
from submerge.layout import identify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BFL = factory.shapes_of(KREA, "bfl")
DIFFUSERS = factory.shapes_of(KREA)
COMFY = "model.diffusion_model."


def inside(name: str, word: str) -> str:
    """Put a word after the block number, as wrappers around blocks do."""
    head, dot, rest = name.partition(".")
    number, _, leaf = rest.partition(".")
    return f"{head}.{number}.{word}.{leaf}" if "blocks" in head else f"{head}.{word}{dot}{rest}"


WRAPPED: dict[str, Callable[[str], str]] = {
    "_orig_mod": lambda n: f"_orig_mod.{n}",
    "module": lambda n: f"module.{n}",
    "_orig_mod, module": lambda n: f"module._orig_mod.{n}",
    "_fsdp_wrapped_module": lambda n: inside(n, "_fsdp_wrapped_module"),
    "_checkpoint_wrapped_module": lambda n: inside(n, "_checkpoint_wrapped_module"),
    "base_layer": lambda n: f"{n.rpartition('.')[0]}.base_layer.{n.rpartition('.')[2]}",
    "_forward_module": lambda n: f"_forward_module.{n}",
    "_orig_mod in part": lambda n: inside(n, "_orig_mod") if "single" in n else n,
}


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_in_names_mean_nothing(tmp_path: Path, name: str, layout: str) -> None:
    wrap = WRAPPED[name]
    arrays = factory.tensors(KREA, layout)
    wrapped = {wrap(n): a for n, a in arrays.items()}
    assert wrapped.keys() != arrays.keys()
    path = factory.write(tmp_path / "wrapped.safetensors", wrapped)
    found = submerge.inspect(path)
    (warning,) = found.warnings
    assert all(f"`{word}`" in warning for word in name.removesuffix(" in part").split(", "))
    assert submerge.verify(path).remarks == found.warnings
    report = submerge.convert(path, tmp_path / "out.safetensors")
    assert oracle.differing(oracle.read(tmp_path / "out.safetensors"), arrays) == []
    assert warning in report.summary["notes"]


@pytest.mark.parametrize("prefix", [COMFY * 2, "transformer.transformer.", f"module.{COMFY}"])
def test_doubled_prefixes_are_one(prefix: str) -> None:
    model = identify(headers({prefix + name: shape for name, shape in BFL.items()}))
    assert model.prefix == prefix[len(prefix) // 2 :] if "module." not in prefix else COMFY
    assert {info.place.tensor for info in model.units.values()} == set(model.checkpoint.tensors)
    assert len(model.checkpoint.warnings) == 1


def test_a_merge_of_wrapped_and_plain_equals_that_of_plain_ones(tmp_path: Path) -> None:
    schnell = factory.save_file(tmp_path / "schnell.safetensors", SCHNELL, "bfl")
    plain = factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    wrapped = tmp_path / "compiled" / "krea.safetensors"
    factory.write(wrapped, factory.tensors(KREA, "bfl", "_orig_mod."))
    for krea, out in ((plain, "a"), (wrapped, "b")):
        recipe = {"models": {"schnell": str(schnell), "krea": str(krea)}, "alpha": 0.3}
        submerge.merge(recipe, tmp_path / f"{out}.safetensors")
    one, two = (oracle.read(tmp_path / f"{out}.safetensors") for out in "ab")
    assert oracle.differing(one, two) == []


def test_names_that_become_one_are_an_error() -> None:
    shapes = {**BFL, "_orig_mod.img_in.weight": BFL["img_in.weight"]}
    with pytest.raises(LayoutError, match="become one name without what wraps them") as caught:
        identify(headers(shapes))
    assert "`img_in.weight`" in caught.value.message
    assert "`_orig_mod.img_in.weight`" in caught.value.message


def test_what_is_left_must_still_be_the_whole_table() -> None:
    shapes = {f"_orig_mod.{name}": shape for name, shape in BFL.items() if name != "img_in.bias"}
    with pytest.raises(LayoutError, match="1 tensor of 84 missing"):
        identify(headers(shapes))


def test_a_base_layer_beside_an_adapter_is_named() -> None:
    shapes = dict(DIFFUSERS)
    for name in ("x_embedder.weight", "x_embedder.bias"):
        shapes[name.replace("x_embedder.", "x_embedder.base_layer.")] = shapes.pop(name)
    identify(headers(shapes))
    shapes |= {f"x_embedder.lora_{ab}.default.weight": (4, 4) for ab in "AB"}
    with pytest.raises(LayoutError, match=r"with an injected adapter \(2 tensors\)") as caught:
        identify(headers(shapes))
    assert "unload_lora_weights" in str(caught.value.hint)


@pytest.mark.parametrize("layout", ["auto", "generic"])
def test_weights_that_were_not_gathered_are_named(layout: str) -> None:
    empty = {name: (0,) if name.endswith("bias") else shape for name, shape in DIFFUSERS.items()}
    number = sum(name.endswith("bias") for name in DIFFUSERS)
    with pytest.raises(LayoutError, match=f": {number} of 112 tensors empty") as caught:
        identify(headers(empty), layout=layout)
    assert "ZeRO-3" in caught.value.message
    assert "zero_to_fp32.py" in str(caught.value.hint)


@pytest.mark.parametrize("separate", [True, False])
def test_fused_projections_are_named(*, separate: bool) -> None:
    shapes = {
        name: shape
        for name, shape in DIFFUSERS.items()
        if separate or not name.startswith("transformer_blocks.0.attn.to_q.")
    }
    shapes |= {
        f"transformer_blocks.0.attn.to_{side}qkv.weight": (192, 64) for side in ("", "added_")
    }
    with pytest.raises(LayoutError, match="fused projections in 2 tensors") as caught:
        identify(headers(shapes))
    assert "unfuse" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([f"ema.{name}" for name in BFL], "holds 2 transformers"),
        ([f"second.{name}" for name in BFL], "holds 2 transformers"),
        (
            ["model_ema.diffusion_modeldouble_blocks0img_attnqkvweight", "model_ema.decay"],
            "2 tensors",
        ),
        (["ema_model.step"], "averaged copy"),
    ],
)
def test_a_second_transformer_is_no_company(names: list[str], words: str) -> None:
    shapes = {COMFY + name: shape for name, shape in BFL.items()}
    shapes |= {name: BFL.get(name.partition(".")[2], (4,)) for name in names}
    with pytest.raises(LayoutError, match=words) as caught:
        identify(headers(shapes))
    assert "a file of its own" in str(caught.value.hint)


def test_what_rides_along_and_is_of_no_model_known_is_named(tmp_path: Path) -> None:
    arrays = factory.tensors(KREA, "bfl", COMFY) | factory.extras()
    arrays["logit_scale"] = np.ones(1, np.float32)
    path = factory.write(tmp_path / "all.safetensors", arrays)
    (warning,) = submerge.inspect(path).warnings
    assert warning == f"{path}: 1 tensor: `logit_scale` outside `{COMFY}` and of no model known"
    submerge.convert(path, tmp_path / "out.safetensors")
    assert oracle.differing(oracle.read(tmp_path / "out.safetensors"), arrays) == []


@pytest.mark.parametrize("name", ["out.sft", "out.SFT", "out.SafeTensors"])
def test_every_ending_of_the_format_is_one_file(tmp_path: Path, name: str) -> None:
    path = factory.save_file(tmp_path / "krea.sft", KREA, "bfl")
    submerge.convert(path, tmp_path / name)
    assert oracle.differing(oracle.read(tmp_path / name), factory.tensors(KREA, "bfl")) == []
    submerge.export_merged_model(tmp_path / name, tmp_path / f"again-{name}", "f16")
    assert (tmp_path / f"again-{name}").is_file()


@pytest.mark.parametrize("ending", ["ckpt", "pt", "PTH", "bin", "onnx", "safetensor", "json"])
def test_endings_of_other_formats_are_refused(tmp_path: Path, ending: str) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    before = sorted(tmp_path.iterdir())
    for act in (submerge.convert, submerge.export_merged_model):
        with pytest.raises(RecipeError, match="the ending of another format") as caught:
            act(path, tmp_path / f"out.{ending}")
        assert "`out.safetensors`" in str(caught.value.hint)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["flux.v1.5", "merged-0.5", "a.b"])
def test_a_folder_may_have_a_dot(tmp_path: Path, name: str) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    submerge.convert(path, tmp_path / name, layout="diffusers")
    assert (tmp_path / name).is_dir()


def test_one_shard_alone_is_named(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", KREA, shards=2)
    shard = folder / f"{factory.WEIGHTS}-00001-of-00002.safetensors"
    with pytest.raises(LayoutError, match="is one shard of several by its name") as caught:
        submerge.verify(shard)
    assert "name the folder" in str(caught.value.hint)


def test_two_names_of_one_file_are_told(tmp_path: Path) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    (tmp_path / "link.safetensors").hardlink_to(path)
    other = factory.save_file(tmp_path / "other.safetensors", KREA, "bfl")
    models = {"a": str(path), "b": str(tmp_path / "link.safetensors"), "c": str(other)}
    plan = submerge.plan(
        {"models": models, "weight": dict.fromkeys("abc", 1)}, tmp_path / "out.safetensors"
    )
    assert "`a` and `b` are the same file" in plan.about.notes


def test_a_digest_of_names_and_shapes_says_so(tmp_path: Path) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    submerge.convert(path, tmp_path / "out.safetensors")
    (entry,) = json.loads(oracle.metadata(tmp_path / "out.safetensors")["submerge.inputs"])
    assert entry.keys() == {"name", "model", "units", "bytes", "names_and_shapes_sha256"}


def test_a_running_average_of_torch_is_read_without_its_counter(tmp_path: Path) -> None:
    arrays = factory.tensors(KREA, "diffusers", "module.")
    path = factory.write(tmp_path / "a.safetensors", arrays | {"n_averaged": np.ones((), np.int64)})
    report = submerge.convert(path, tmp_path / "out.safetensors")
    assert any("`n_averaged`" in note for note in report.summary["notes"])
    written = oracle.read(tmp_path / "out.safetensors")
    assert written.pop("n_averaged") == 1
    assert oracle.differing(written, factory.tensors(KREA)) == []


@pytest.mark.parametrize("layout", ["auto", "generic"])
def test_flat_parameters_are_named(layout: str) -> None:
    shapes = {f"transformer_blocks.{i}._fsdp_wrapped_module._flat_param": (999,) for i in range(2)}
    with pytest.raises(LayoutError, match=r"2 tensors: .* of several weights laid end to end"):
        identify(headers({**DIFFUSERS, **shapes}), layout=layout)
