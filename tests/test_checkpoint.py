"""Opening checkpoints: every form, what the headers say, and every refusal with its hint."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from factory import KREA, SCHNELL, WEIGHTS
from submerge import _core
from submerge.checkpoint import DTYPES, FLOATS, TensorInfo, open_checkpoint
from submerge.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INDEX = f"{WEIGHTS}.safetensors.index.json"
ONE = {"a": np.ones((2, 3), np.float32)}


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the index of a folder in place."""
    content = json.loads((folder / INDEX).read_text())
    change(content)
    factory.write_json(folder / INDEX, content)
    return folder


def shard(number: int, of: int = 2) -> str:
    return f"{WEIGHTS}-{number:05d}-of-{of:05d}.safetensors"


def test_a_file_is_described_as_its_header_says(tmp_path: Path) -> None:
    path = factory.save_comfy(tmp_path / "all.safetensors", KREA)
    opened = open_checkpoint(path)
    header = factory.header(path)
    assert opened.form == "file"
    assert opened.config is None
    assert opened.pipeline is None
    assert opened.warnings == ()
    assert opened.files[0].metadata == header.pop("__metadata__")
    assert opened.files[0].size == path.stat().st_size
    assert opened.files[0].path == path
    assert set(opened.tensors) == set(header)
    for name, entry in header.items():
        tensor = opened.tensors[name]
        assert [tensor.dtype, list(tensor.shape), tensor.file] == [
            entry["dtype"],
            entry["shape"],
            0,
        ]
        assert [tensor.start, tensor.end] == entry["data_offsets"]
    offsets = [tensor.start for tensor in opened.tensors.values()]
    assert offsets == sorted(offsets)


def test_the_identity_is_what_the_system_says(tmp_path: Path) -> None:
    path = factory.write(tmp_path / "one.safetensors", ONE)
    found = path.stat()
    assert open_checkpoint(path).files[0].identity == {
        "dev": found.st_dev,
        "ino": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


@pytest.mark.parametrize(
    ("shape", "rows", "row_elements"),
    [((), 1, 1), ((5,), 5, 1), ((4, 3), 4, 3), ((2, 3, 4), 2, 12), ((0, 7), 0, 7)],
)
def test_rows_of_a_tensor(shape: tuple[int, ...], rows: int, row_elements: int) -> None:
    tensor = TensorInfo("t", "BF16", shape, 0, 10, 10 + 2 * rows * row_elements)
    assert (tensor.rows, tensor.row_elements) == (rows, row_elements)
    assert tensor.elements == rows * row_elements
    assert tensor.nbytes == 2 * rows * row_elements


def test_the_element_types_are_those_of_the_core() -> None:
    assert set(DTYPES) == set(json.loads(_core.build_info())["dtypes"])
    assert set(FLOATS) == {*factory.FLOATS, "F64"}
    assert all(DTYPES[name].bits == 8 * factory.DTYPES[name][0].itemsize for name in FLOATS)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_folder_is_its_shards_and_config(tmp_path: Path, shards: int) -> None:
    folder = factory.save_folder(tmp_path / "model", SCHNELL, shards)
    opened = open_checkpoint(folder)
    assert opened.form == ("file" if shards == 1 else "sharded")
    assert len(opened.files) == shards
    assert opened.config == factory.config(SCHNELL)
    assert {name: tensor.shape for name, tensor in opened.tensors.items()} == factory.shapes_of(
        SCHNELL
    )
    for name, tensor in opened.tensors.items():
        held = factory.header(opened.files[tensor.file].path)
        assert name in held


def test_a_pipeline_opens_its_transformer(tmp_path: Path) -> None:
    folder = factory.save_pipeline(tmp_path / "pipe", KREA, shards=3)
    for path in (folder, folder / "model_index.json"):
        opened = open_checkpoint(path)
        assert (opened.form, opened.pipeline) == ("pipeline", folder)
        assert set(opened.tensors) == set(factory.shapes_of(KREA))
    for inner in ("transformer", f"transformer/{WEIGHTS}.safetensors.index.json"):
        opened = open_checkpoint(folder / inner)
        assert (opened.form, opened.pipeline) == ("sharded", folder)
        assert opened.config == factory.config(KREA)


def test_a_folder_with_only_a_transformer_inside(tmp_path: Path) -> None:
    factory.save_folder(tmp_path / "krea" / "transformer", KREA, shards=2)
    opened = open_checkpoint(tmp_path / "krea")
    assert (opened.form, opened.pipeline) == ("sharded", None)
    assert opened.config == factory.config(KREA)


def test_an_index_of_a_variant_can_be_named(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", SCHNELL, shards=2)
    variant = folder / f"{WEIGHTS}.safetensors.index.fp16.json"
    (folder / INDEX).rename(variant)
    assert set(open_checkpoint(variant).tensors) == set(factory.shapes_of(SCHNELL))
    assert set(open_checkpoint(folder).tensors) == set(factory.shapes_of(SCHNELL))


def test_a_config_belongs_to_a_file_only_under_its_diffusers_name(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", SCHNELL)
    path = folder / f"{WEIGHTS}.safetensors"
    assert open_checkpoint(path).config == factory.config(SCHNELL)
    other = path.rename(folder / "flux1-schnell.safetensors")
    assert open_checkpoint(other).config is None


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_shards_may_be_links_into_a_cache(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "snapshot", SCHNELL, shards=2)
    (tmp_path / "blobs").mkdir()
    for number in (1, 2):
        blob = (folder / shard(number)).rename(tmp_path / "blobs" / f"{number:064x}")
        (folder / shard(number)).symlink_to(blob)
    assert set(open_checkpoint(folder).tensors) == set(factory.shapes_of(SCHNELL))


def test_the_old_suffix_is_safetensors_too(tmp_path: Path) -> None:
    assert set(open_checkpoint(factory.write(tmp_path / "flux1-dev.sft", ONE)).tensors) == {"a"}


def test_a_wrong_total_size_is_told_and_no_more(tmp_path: Path) -> None:
    folder = factory.save_folder(tmp_path / "model", SCHNELL, shards=2)
    true = json.loads((folder / INDEX).read_text())["metadata"]["total_size"]
    edit_index(folder, lambda index: index["metadata"].update(total_size=true + 1))
    (warning,) = open_checkpoint(folder).warnings
    assert f"`total_size` is {true + 1}, expected {true}" in warning
    edit_index(folder, lambda index: index.pop("metadata"))
    assert open_checkpoint(folder).warnings == ()


def test_a_leftover_shard_does_not_matter_when_the_index_is_named(tmp_path: Path) -> None:
    folder = leftover_shard(tmp_path)
    assert set(open_checkpoint(folder / INDEX).tensors) == set(factory.shapes_of(SCHNELL))


def sharded(tmp: Path) -> Path:
    return factory.save_folder(tmp / "model", SCHNELL, shards=2)


def leftover_shard(tmp: Path) -> Path:
    folder = sharded(tmp)
    factory.write(folder / shard(3, 3), ONE)
    return folder


def missing_shard(tmp: Path) -> Path:
    folder = sharded(tmp)
    (folder / shard(2)).unlink()
    return folder


def no_index(tmp: Path) -> Path:
    folder = sharded(tmp)
    (folder / INDEX).unlink()
    return folder


def two_candidates(tmp: Path) -> Path:
    folder = factory.save_folder(tmp / "model", SCHNELL)
    factory.write(folder / f"{WEIGHTS}.fp16.safetensors", ONE)
    return folder


def index_and_single(tmp: Path) -> Path:
    folder = sharded(tmp)
    factory.write(folder / "flux1-schnell.safetensors", ONE)
    return folder


def lost_tensor(tmp: Path) -> Path:
    return edit_index(sharded(tmp), lambda i: i["weight_map"].update({"ghost.weight": shard(2)}))


def moved_tensor(tmp: Path) -> Path:
    return edit_index(sharded(tmp), lambda i: i["weight_map"].update({"x_embedder.bias": shard(2)}))


def unlisted_tensor(tmp: Path) -> Path:
    return edit_index(sharded(tmp), lambda i: i["weight_map"].pop("proj_out.bias"))


def tensor_twice(tmp: Path) -> Path:
    folder = sharded(tmp)
    held = factory.read(folder / shard(2))
    held["x_embedder.bias"] = factory.tensors(SCHNELL)["x_embedder.bias"]
    factory.write(folder / shard(2), held)
    return folder


def key_twice(tmp: Path) -> Path:
    folder = sharded(tmp)
    (folder / INDEX).write_text(f'{{"weight_map": {{"a": "{shard(1)}", "a": "{shard(2)}"}}}}')
    return folder


def text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Make a folder in which one side file of a whole model has this content."""

    def make(tmp: Path) -> Path:
        folder = sharded(tmp)
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
        return folder

    return make


def stranger(name: str) -> Callable[[Path], Path]:
    """Make a file with this name that is no safetensors file."""

    def make(tmp: Path) -> Path:
        path = tmp / "folder" / name
        path.parent.mkdir()
        path.write_bytes(b"\x80\x02}q\x00.")
        return path

    return make


def inside(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda tmp: make(tmp).parent


def unet_pipeline(tmp: Path) -> Path:
    factory.write_json(tmp / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    factory.write(tmp / "unet" / "x.safetensors", ONE)
    return tmp


def nothing(tmp: Path) -> Path:
    return factory.write(tmp / "empty.safetensors", {})


def truncated(tmp: Path) -> Path:
    path = factory.write(tmp / "cut.safetensors", ONE)
    os.truncate(path, path.stat().st_size - 1)
    return path


REFUSALS: list[tuple[Callable[[Path], Path], str, str]] = [
    (leftover_shard, "1 shard: `diffusion_pytorch_model-00003-of-00003", "left over"),
    (missing_shard, "1 shard: `diffusion_pytorch_model-00002-of-00002", "incomplete"),
    (no_index, "2 shards: `diffusion_pytorch_model-00001", "index.json` is missing"),
    (two_candidates, "2 candidates: `diffusion_pytorch_model.fp16.safetensors`", "name the file"),
    (index_and_single, "2 candidates: `diffusion_pytorch_model.safetensors.index", "name the file"),
    (lost_tensor, "the index lists 1 tensor: `ghost.weight`, not found", "different saves"),
    (moved_tensor, "the index lists 1 tensor: `x_embedder.bias`, not found", "different saves"),
    (unlisted_tensor, "the shards hold 1 tensor: `proj_out.bias`, not listed", "different saves"),
    (tensor_twice, "1 tensor: `x_embedder.bias` in two shards", "different saves"),
    (key_twice, "the key `a` occurs twice", "damaged"),
    (text(INDEX, "[1]"), "expected a JSON object, got a list", ""),
    (text(INDEX, "{}"), "`weight_map` expected an object, got nothing", ""),
    (text(INDEX, '{"weight_map": ["a"]}'), "`weight_map` expected an object, got a list", ""),
    (text(INDEX, '{"weight_map": {}}'), "`weight_map` is empty", ""),
    (text(INDEX, '{"weight_map": {"a": 3}}'), "got a number", "not to be trusted"),
    (text(INDEX, b"\xff\xfe"), "cannot be read as JSON", "damaged"),
    (text(INDEX, "{"), "cannot be read as JSON", "damaged"),
    (text(INDEX, "[" * 100_000), "cannot be read as JSON", "damaged"),
    (text("config.json", "[]"), "config.json: expected a JSON object, got a list", ""),
    (text("config.json", '{"a": NaN}'), "`NaN` is not a JSON number", "damaged"),
    (text("config.json", " " * (1 << 20) + "{}"), "too large, expected at most 1048576", ""),
    (stranger("model.ckpt"), "is a pickle", "run code"),
    (stranger("model.PT"), "is a pickle", "run code"),
    (stranger("model.gguf"), "model.gguf", "run code"),
    (stranger("model.safetensors"), "model.safetensors", "run code"),
    (
        inside(stranger("pytorch_model.bin")),
        "no .safetensors file but a pickle (1 file",
        "run code",
    ),
    (inside(stranger("flux-Q8_0.gguf")), "flux-Q8_0.gguf", "run code"),
    (inside(stranger("notes.txt")), "holds no .safetensors or .gguf file, expected", "name a"),
    (unet_pipeline, "`StableDiffusionXLPipeline` has no `transformer` folder", "another family"),
    (nothing, "holds no tensors", "download it again"),
    (truncated, "cut.safetensors", ""),
]


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    REFUSALS,
    ids=[f"{i}-{row[1][:30]}" for i, row in enumerate(REFUSALS)],
)
def test_refusals(tmp_path: Path, make: Callable[[Path], Path], message: str, hint: str) -> None:
    path = make(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(tmp_path) in caught.value.message
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "sub\\x.safetensors",
        "C:x.safetensors", "x.safetensors:s.safetensors", "..\\x.safetensors", "\0.safetensors",
        "x\n.safetensors", "..safetensors", ".safetensors", "x.bin", "", "\u202ex.safetensors",
        "x" * 300 + ".safetensors", "\ud800.safetensors",
    ],
)  # fmt: skip
def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path, name: str) -> None:
    factory.write(tmp_path / "other.safetensors", ONE)
    folder = sharded(tmp_path)
    edit_index(folder, lambda index: index["weight_map"].update({"proj_out.bias": name}))
    with pytest.raises(CheckpointError, match="expected the name of a") as caught:
        open_checkpoint(folder)
    assert "\0" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_a_missing_path_stays_an_oserror_with_a_hint(tmp_path: Path) -> None:
    factory.write(tmp_path / "flux1-schnell.safetensors", ONE)
    with pytest.raises(FileNotFoundError) as caught:
        open_checkpoint(tmp_path / "flux1-schnel.safetensors")
    assert caught.value.filename == str(tmp_path / "flux1-schnel.safetensors")
    assert caught.value.__notes__ == ["hint: the folder holds `flux1-schnell.safetensors`"]
    with pytest.raises(FileNotFoundError) as caught:
        open_checkpoint("black-forest-labs/FLUX.1-schnell")
    assert "not downloaded by name" in caught.value.__notes__[0]


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(RecipeError, match="NUL"):
        open_checkpoint("a\0b.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes there")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe.safetensors")


def test_a_header_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = factory.save_file(tmp_path / "model.safetensors", SCHNELL)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert open_checkpoint(path, max_header_bytes=length).form == "file"
    with pytest.raises(CheckpointError):
        open_checkpoint(path, max_header_bytes=length - 1)


def test_a_checkpoint_cannot_be_changed(tmp_path: Path) -> None:
    opened = open_checkpoint(factory.write(tmp_path / "one.safetensors", ONE))
    with pytest.raises(AttributeError):
        opened.form = "pipeline"  # type: ignore[misc]
    with pytest.raises(TypeError):
        opened.tensors["b"] = opened.tensors["a"]  # type: ignore[index]
