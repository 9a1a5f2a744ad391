"""Files, shards, dtypes and sizes of outputs, against published files and the package's writer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import factory
from factory import KREA, REAL, SCHNELL, Flux
from planning import check, interpret, planned
from submerge.errors import LayoutError, RecipeError
from submerge.plan.form import OutFile
from submerge.plan.sizes import bytes_in_words, header, split_shards

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.plan import Plan

SHARD = "diffusion_pytorch_model-0000{}-of-00003.safetensors"


def full_size(folder: Path, flux: Flux) -> Plan:
    """The plan that writes a model of FLUX.1's size as diffusers does, without our metadata."""
    source = factory.save_sparse(folder / "m.safetensors", flux)
    plan = planned(folder, {"m": source}, {"take": "m", "output": {"layout": "diffusers"}}, "out")
    plain = tuple(OutFile(file.path, {"format": "pt"}) for file in plan.files)
    return replace(plan, files=plain)


@pytest.mark.parametrize(
    ("flux", "sizes", "counts", "total"),
    [
        (
            replace(REAL, guidance=False),
            (9_962_580_296, 9_949_328_904, 3_870_584_832),
            (484, 476, 196),
            23_782_357_120,
        ),
        (REAL, (9_983_040_304, 9_949_328_904, 3_870_584_832), (488, 476, 196), 23_802_816_640),
    ],
)
def test_shards_are_those_of_the_published_models(
    tmp_path: Path, flux: Flux, sizes: tuple[int, ...], counts: tuple[int, ...], total: int
) -> None:
    plan = full_size(tmp_path, flux)
    assert plan.file_sizes == sizes
    files = [output.file for output in plan.outputs]
    assert tuple(files.count(i) for i in range(3)) == counts
    assert [file.path for file in plan.files] == [SHARD.format(i) for i in (1, 2, 3)]
    text = next(t.text for t in plan.texts if t.path.endswith(".index.json"))
    index = json.loads(text)
    assert index["metadata"] == {"total_size": total}
    assert text == json.dumps(index, indent=2, sort_keys=True) + "\n"
    where = index["weight_map"]
    assert list(where) == sorted(factory.diffusers_shapes(flux))
    assert where["transformer_blocks.14.attn.to_add_out.bias"] == SHARD.format(1)
    assert where["transformer_blocks.14.ff.net.0.proj.weight"] == SHARD.format(2)
    assert where["single_transformer_blocks.24.proj_mlp.bias"] == SHARD.format(2)
    assert where["single_transformer_blocks.24.proj_out.weight"] == SHARD.format(3)
    assert where["single_transformer_blocks.24.attn.norm_q.weight"] == SHARD.format(3)
    assert where["proj_out.weight"] == SHARD.format(3)


@pytest.mark.parametrize(
    ("sizes", "limit", "shards"),
    [
        # The example in huggingface_hub's own documentation.
        ([6, 6, 2, 6, 2, 2], 10, ["a", "bc", "def"]),
        # A tensor over the limit goes before the shard that is being filled.
        ([3, 20, 3], 10, ["b", "ac"]),
        ([20, 3], 10, ["a", "b"]),
        ([10, 10], 10, ["a", "b"]),
        ([5, 5], 10, ["ab"]),
        ([20], 10, ["a"]),
        ([0, 10, 0], 10, ["abc"]),
        ([], 10, []),
    ],
)
def test_shards_are_cut_as_the_hub_cuts_them(
    sizes: list[int], limit: int, shards: list[str]
) -> None:
    named = list(zip("abcdef", sizes, strict=False))
    assert ["".join(shard) for shard in split_shards(named, limit)] == shards


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 3), max_size=3)


@given(
    tensors=st.dictionaries(NAMES, SHAPES, max_size=6),
    metadata=st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=30), max_size=4),
)
def test_headers_are_those_of_the_packages_writer(
    tensors: dict[str, list[int]], metadata: dict[str, str]
) -> None:
    import safetensors.numpy

    tensors.pop("__metadata__", None)
    arrays = {name: np.zeros(shape, np.float16) for name, shape in tensors.items()}
    written = safetensors.numpy.save(arrays, metadata or None)
    entries = [(name, "F16", a.shape, a.nbytes) for name, a in sorted(arrays.items())]
    made = header(entries, metadata)
    assert made[:8] == written[:8]
    # The package writes metadata in no order.
    assert json.loads(made[8:]) == json.loads(written[8 : len(made)])


@pytest.mark.parametrize("source", ["diffusers", "bfl"])
@pytest.mark.parametrize(
    ("layout", "target", "files"),
    [
        ("diffusers", "o.safetensors", [""]),
        ("bfl", "o.safetensors", [""]),
        ("comfy", "o.safetensors", [""]),
        ("same", "o.safetensors", [""]),
        ("diffusers", "o", ["diffusion_pytorch_model.safetensors"]),
        ("bfl", "o", ["o.safetensors"]),
        ("comfy", "o", ["o.safetensors"]),
    ],
)
def test_any_layout_becomes_any_layout_by_addressing_alone(
    tmp_path: Path, source: str, layout: str, target: str, files: list[str]
) -> None:
    model = factory.save_file(tmp_path / "m.safetensors", KREA, source)
    plan = planned(tmp_path, {"m": model}, {"take": "m", "output": {"layout": layout}}, target)
    assert {unit.op for unit in plan.units} == {"copy"}
    assert [file.path for file in plan.files] == files
    texts = {text.path for text in plan.texts}
    wanted = {"README.md", "NOTICE"} if target == "o" else set()
    assert texts == wanted | ({"config.json"} if (layout, target) == ("diffusers", "o") else set())
    prefix = "model.diffusion_model." if layout == "comfy" else ""
    kind = {"same": source, "comfy": "bfl"}.get(layout, layout)
    expected = factory.tensors(KREA, kind, prefix)
    found = interpret(plan)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert plan.read_bytes == sum(array.nbytes for array in expected.values())


def test_the_first_models_prefix_stays_in_a_file_and_goes_in_a_folder(tmp_path: Path) -> None:
    model = factory.save_file(tmp_path / "m.safetensors", KREA, prefix="transformer.")
    for target, prefix in (("o.safetensors", "transformer."), ("o", "")):
        plan = planned(tmp_path, {"m": model}, {"take": "m"}, target)
        assert {o.name for o in plan.outputs} == set(factory.shapes_of(KREA, prefix=prefix))


@pytest.mark.parametrize(
    ("a", "b", "alpha", "dtype", "expected"),
    [
        ("BF16", "BF16", 0.5, "same", "BF16"),
        ("F16", "F16", 0.5, "same", "F16"),
        ("F16", "F32", 0.5, "same", "F32"),
        ("F16", "BF16", 0.5, "same", "BF16"),
        ("F8_E4M3", "F16", 0.5, "same", "F16"),
        ("F8_E4M3", "F8_E5M2", 0.5, "same", "BF16"),
        ("F64", "F16", 0.5, "same", "F32"),
        ("F64", "F64", 0.5, "same", "F32"),
        ("F64", "F64", 1, "same", "F64"),
        ("F64", "F64", 1, "bf16", "BF16"),
        ("F16", "F32", 1, "same", "F32"),
        ("F16", "F32", 0, "same", "F16"),
        ("BF16", "BF16", 0.5, "f32", "F32"),
        ("BF16", "BF16", 0.5, "f8_e4m3", "F8_E4M3"),
        ("F8_E5M2", "F8_E5M2", 0.5, "same", "F8_E5M2"),
        ("F8_E4M3", "F8_E5M2", 0.5, "f16", "F16"),
        ("F32", "F32", 0.5, "f8_e5m2", "F8_E5M2"),
        ("F32", "F32", 0.5, "bf16", "BF16"),
    ],
)
def test_dtypes(tmp_path: Path, a: str, b: str, alpha: float, dtype: str, expected: str) -> None:
    models = {"a": replace(SCHNELL, dtype=a), "b": replace(SCHNELL, dtype=b, seed=1)}
    plan = planned(tmp_path, models, {"alpha": alpha, "output": {"dtype": dtype}})
    assert {output.dtype for output in plan.outputs} == {expected}


def test_a_fused_tensor_has_one_dtype(tmp_path: Path) -> None:
    arrays = factory.tensors(SCHNELL)
    name = "transformer_blocks.0.attn.to_k.weight"
    arrays[name] = arrays[name].astype(np.float32)
    model = factory.write(tmp_path / "m.safetensors", arrays)
    plan = planned(tmp_path, {"m": model}, {"take": "m", "output": {"layout": "bfl"}})
    dtypes = {output.name: output.dtype for output in plan.outputs}
    assert dtypes["double_blocks.0.img_attn.qkv.weight"] == "F32"
    assert any("1 tensor of BF16 and F32 written in F32" in note for note in plan.about.notes)
    plan = planned(tmp_path, {"m": model}, {"take": "m"})
    assert {o.name: o.dtype for o in plan.outputs}[name] == "F32"
    order = [(o.dtype, o.name) for o in plan.outputs]
    assert order == sorted(order, key=lambda pair: (pair[0] != "F32", pair[1]))


def test_tensors_that_are_no_floats_are_copied_whole(tmp_path: Path) -> None:
    def model(name: str, number: int, dtype: Any = np.int64) -> Path:
        arrays = {"w": np.full((2, 3), number, np.float32), "steps": np.full((), number, dtype)}
        return factory.write(tmp_path / f"{name}.safetensors", arrays)

    paths: dict[str, Flux | Path] = {"a": model("a", 1), "b": model("b", 2)}
    for alpha, op in ((0.5, "same"), (0, "copy"), (1, "copy")):
        recipe = {"alpha": alpha, "output": {"dtype": "bf16"}}
        plan = planned(tmp_path, paths, recipe, layout="generic")
        assert {u.name: u.op for u in plan.units}["steps"] == op
        assert {o.name: o.dtype for o in plan.outputs} == {"steps": "I64", "w": "BF16"}
    with pytest.raises(LayoutError, match="`steps`: dtypes F32, I64 in one sum"):
        planned(tmp_path, paths | {"b": model("c", 2, np.float32)}, layout="generic")
    weights = {"linear": {"weight": {"a": 0.5}, "normalize": False}}
    with pytest.raises(LayoutError, match=r"`steps`: a weight of 0\.5 on I64"):
        planned(tmp_path, paths, {"method": weights}, layout="generic")


def test_generic_models_in_a_folder_are_sharded_by_name(tmp_path: Path) -> None:
    arrays = {name: np.zeros(100, np.float32) for name in ("b", "a", "c")}
    model = factory.write(tmp_path / "m.safetensors", arrays)
    recipe = {"take": "m", "output": {"shard_size": 800}}
    plan = planned(tmp_path, {"m": model}, recipe, "out", layout="generic")
    assert [f.path for f in plan.files] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert [(o.file, o.name) for o in plan.outputs] == [(0, "a"), (0, "b"), (1, "c")]
    assert "model.safetensors.index.json" in {text.path for text in plan.texts}
    assert not any(key.startswith("modelspec.") for key in plan.files[0].metadata)


def test_config_and_tensors_agree_on_what_was_taken(tmp_path: Path) -> None:
    models: dict[str, Flux | Path] = {"fill": replace(KREA, channels=384), "dev": KREA}
    for taken, channels in (("fill", 384), ("dev", 64)):
        recipe = {
            "alpha": 0.5,
            "rules": [{"where": "embed.img", "take": taken}],
            "output": {"layout": "diffusers"},
        }
        plan = planned(tmp_path, models, recipe, "out")
        config = json.loads(next(t.text for t in plan.texts if t.path == "config.json"))
        shapes = {output.name: output.shape for output in plan.outputs}
        assert shapes["x_embedder.weight"] == (64, channels)
        assert config["in_channels"] == channels
        assert config["out_channels"] == (None if channels == 64 else 64)
        assert any(f"{channels} input channels" in note for note in plan.about.notes)


def test_sizes_add_up(tmp_path: Path) -> None:
    models: dict[str, Flux | Path] = {"a": SCHNELL, "b": KREA}
    output = {"layout": "diffusers", "shard_size": 400_000}
    plan = planned(tmp_path, models, {"output": output}, "out")
    made = check(plan)
    for i, file in enumerate(made["files"]):
        inside = [o for o in made["outputs"] if o["file"] == i]
        bf16 = factory.DTYPES["BF16"][0]
        arrays = {o["name"]: np.zeros(o["shape"], bf16) for o in inside}
        path = factory.write(tmp_path / "measured.safetensors", arrays, file["metadata"])
        assert plan.file_sizes[i] == path.stat().st_size
        assert sum(array.nbytes for array in arrays.values()) <= 400_000
    total = sum(plan.file_sizes) + sum(len(text["text"].encode()) for text in made["texts"])
    assert plan.output_bytes == total == plan.disk_bytes


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (999_999, "1.0 MB"),
        (23_802_816_640, "23.8 GB"),
    ],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert bytes_in_words(size) == words


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        ({"shard_size": "1MB"}, "o.safetensors", "shard_size: the output `o.safetensors` is one"),
        ({"shard_size": "1MB", "layout": "bfl"}, "o", "shard_size: the output `o` is one file"),
        ({"pipeline_from": "m"}, "o.safetensors", "pipeline_from: `o.safetensors` is one file"),
        ({"pipeline_from": "m", "layout": "bfl"}, "o", "layout: `bfl` in a pipeline"),
        ({"scheduler_from": "m"}, "o", "scheduler_from: a scheduler without a pipeline"),
        ({"pipeline_from": "m"}, "o", "pipeline_from: `m` is not part of a diffusers pipeline"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, output: dict[str, Any], target: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, {"m": SCHNELL}, {"take": "m", "output": output}, target)
    assert f"recipe.output.{message}" in caught.value.message
    assert caught.value.hint


def test_generic_models_have_no_other_layout(tmp_path: Path) -> None:
    recipe = {"take": "m", "output": {"layout": "bfl"}}
    with pytest.raises(LayoutError, match="has no layouts"):
        planned(tmp_path, {"m": SCHNELL}, recipe, layout="generic")
