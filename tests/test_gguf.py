"""GGUF files in and out: every name form, refusals, bytes, sizes, verifying and comparing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factory
import gguf_files
import submerge
from factory import KREA, SCHNELL
from submerge import CheckpointError, RecipeError
from submerge.checkpoint import open_checkpoint, read_header

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array, Flux

# As ComfyUI-GGUF writes it, and as stable-diffusion.cpp does: no key-values, vectors in BF16.
FORMS: dict[str, tuple[str, str, dict[str, str | int]]] = {
    "city96": ("", "F32", {"general.architecture": "flux", "general.file_type": 7}),
    "prefixed": ("model.diffusion_model.", "F32", {"general.architecture": "flux"}),
    "sd.cpp": ("", "BF16", {}),
}


def quantised(flux: Flux, layout: str, prefix: str, vectors: str) -> dict[str, gguf_files.Tensor]:
    """A model with its block matrices in Q8_0, its embedders in BF16."""
    made = {}
    for name, array in factory.tensors(flux, layout, prefix).items():
        kind = "Q8_0" if "blocks." in name else "BF16"
        made[name] = gguf_files.tensor(vectors if array.ndim < 2 else kind, array)
    return made


def differing(found: dict[str, Array], expected: dict[str, Array]) -> list[str]:
    assert found.keys() == expected.keys()
    return [n for n, a in found.items() if not np.array_equal(a.astype(np.float32), expected[n])]


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_as_the_numbers_it_stands_for(
    tmp_path: Path, form: str, layout: str
) -> None:
    prefix, vectors, pairs = FORMS[form]
    tensors = quantised(KREA, layout, prefix, vectors)
    path = gguf_files.write(tmp_path / "krea-Q8_0.gguf", tensors, pairs)
    checkpoint = open_checkpoint(path)
    assert checkpoint.files[0].container == "gguf"
    assert checkpoint.files[0].metadata == {key: str(value) for key, value in pairs.items()}
    for name, tensor in tensors.items():
        info = checkpoint.tensors[name]
        assert info.shape == tensor.shape
        assert info.dtype == ("q8_0" if tensor.kind == "Q8_0" else tensor.kind)
        assert info.nbytes == len(tensor.data)
    submerge.convert(path, tmp_path / "out.safetensors", dtype="f32", layout="same")
    found = factory.read(tmp_path / "out.safetensors")
    assert differing(found, {name: t.numbers for name, t in tensors.items()}) == []
    assert submerge.verify(path).passed
    assert submerge.inspect(path).layout == layout


def test_a_folder_of_one_gguf_is_that_model(tmp_path: Path) -> None:
    tensors = quantised(KREA, "bfl", "", "F32")
    folder = tmp_path / "krea"
    folder.mkdir()
    path = gguf_files.write(folder / "krea-Q8_0.gguf", tensors)
    assert open_checkpoint(folder).files[0].path == path
    gguf_files.write(folder / "krea-Q8_1.gguf", tensors)
    with pytest.raises(CheckpointError, match="2 candidates"):
        open_checkpoint(folder)
    # Beside the model itself they are copies.
    factory.save_file(folder / "krea.safetensors", KREA, "bfl")
    assert open_checkpoint(folder).files[0].path == folder / "krea.safetensors"


def test_blocks_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    tensors = {"v": gguf_files.tensor("Q8_0", np.ones(64))}
    path = gguf_files.write(tmp_path / "v.gguf", tensors)
    with pytest.raises(CheckpointError, match=r"`v` is q8_0 of the shape \[64\]") as caught:
        open_checkpoint(path)
    assert "vectors are F32" in (caught.value.hint or "")
    # IQ1_S has 256 elements in 50 bytes.
    path = gguf_files.write(tmp_path / "w.gguf", {"w": gguf_files.Tensor("Q8_0", (2, 256), b"")})
    data = path.read_bytes()
    at = data.index(b"w") + 1 + 4 + 16
    data = data[:at] + (19).to_bytes(4, "little") + data[at + 4 :] + bytes(100)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"`w` is iq1_s, expected a type") as caught:
        open_checkpoint(path)
    assert "Q4_K" in (caught.value.hint or "")


def kind_of(name: str, array: Array, written: str) -> str:
    """The type of a tensor of an output: blocks in matrices of blocks, F32 for what is small."""
    if written == "Q8_0":
        if "blocks." in name and array.ndim == 2:
            return written
        written = "BF16"
    return "F32" if array.ndim < 2 or array.size <= 1024 else written


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "same", "q8_0"])
@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_what_is_written_is_what_the_format_says(tmp_path: Path, dtype: str, layout: str) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, layout)
    output = tmp_path / "out.gguf"
    submerge.convert(path, output, dtype=dtype)
    pairs, tensors = gguf_files.read(output)
    written = {"same": "BF16"}.get(dtype, dtype.upper())
    for name, array in factory.tensors(KREA, "bfl").items():
        tensor = tensors.pop(name)
        assert tensor.shape == array.shape
        assert tensor.kind == kind_of(name, array, written), name
        if tensor.kind == "Q8_0":
            error = np.abs(tensor.numbers - array.astype(np.float32))
            assert error.max() <= np.abs(array.astype(np.float32)).max() / 127
        else:
            assert tensor.data == gguf_files.tensor(tensor.kind, array).data, name
    assert tensors == {}
    assert pairs["general.architecture"] == "flux"
    assert pairs["general.quantization_version"] == 2
    assert pairs["general.alignment"] == 32
    types = {"BF16": 32, "F16": 1, "F32": 0, "Q8_0": 7}
    assert pairs["general.file_type"] == types[written]
    assert pairs["general.name"] == "krea"
    assert "submerge.recipe" in pairs
    assert "format" not in pairs
    assert list(pairs) == sorted(pairs)


def recipe(tmp_path: Path, dtype: str = "q8_0") -> dict[str, object]:
    """Half and half of a GGUF and a safetensors file."""
    tensors = quantised(SCHNELL, "bfl", "", "F32")
    first = gguf_files.write(tmp_path / "schnell.gguf", tensors)
    second = factory.save_file(tmp_path / "krea.safetensors", factory.Flux(seed=1), "diffusers")
    return {
        "models": {"schnell": str(first), "krea": str(second)},
        "alpha": 0.5,
        "output": {"dtype": dtype},
    }


def test_a_merge_of_both_is_that_of_the_numbers(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "f32")
    submerge.merge(asked, tmp_path / "out.gguf")
    first = gguf_files.read(tmp_path / "schnell.gguf").tensors
    second = factory.tensors(factory.Flux(seed=1), "bfl")
    found = gguf_files.read(tmp_path / "out.gguf").tensors
    for name, tensor in found.items():
        half = np.float32(0.5)
        expected = half * first[name].numbers + half * second[name].astype(np.float32)
        assert np.array_equal(tensor.numbers, expected), name


def test_bytes_depend_on_nothing_but_the_recipe(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    made = []
    for threads, chunk in ((1, "4 KiB"), (2, "1 MiB"), (3, "64 KiB")):
        output = tmp_path / f"{threads}" / "out.gguf"
        output.parent.mkdir()
        submerge.merge(asked, output, threads=threads, chunk=chunk)
        made.append(output.read_bytes())
    assert made[0] == made[1] == made[2]


def test_what_a_parent_says_of_its_file_is_no_loss(tmp_path: Path) -> None:
    pairs: dict[str, str | int] = {"general.file_type": 7, "author": "somebody"}
    tensors = quantised(KREA, "bfl", "", "F32")
    path = gguf_files.write(tmp_path / "krea.gguf", tensors, pairs)
    plan = submerge.plan({"models": {"krea": str(path)}, "take": "krea"}, tmp_path / "out.gguf")
    notes = [note for note in plan.about.notes if "not carried over" in note]
    assert notes == ["`krea`: not carried over, 1 metadata entry: `author`"]


def test_sizes_are_known_before(tmp_path: Path) -> None:
    plan = submerge.plan(recipe(tmp_path), tmp_path / "out.gguf")
    submerge.merge(recipe(tmp_path), tmp_path / "out.gguf")
    assert plan.file_sizes == ((tmp_path / "out.gguf").stat().st_size,)


def ragged(tmp_path: Path) -> dict[str, object]:
    """Two models by name whose tensors end anywhere but at a multiple of 32 bytes."""
    paths = {}
    for seed, name in enumerate("ab"):
        random = np.random.default_rng(seed)
        shapes = {"v": (5,), "m": (7, 301), "s": (), "deep": (3, 5, 7, 11), "last": (1, 1)}
        arrays = {n: random.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}
        path = factory.write(tmp_path / f"{name}.safetensors", arrays)
        paths[name] = {"path": str(path), "layout": "generic"}
    return {"models": paths, "alpha": 0.25}


def test_tensors_begin_at_multiples_of_32_whatever_the_chunks(tmp_path: Path) -> None:
    asked = ragged(tmp_path)
    made = set()
    for threads, chunk in ((1, "4 KiB"), (3, "1 MiB"), (2, "1 KiB")):
        output = tmp_path / f"{threads}.gguf"
        assert submerge.plan(asked, output).file_sizes[0] > 0
        submerge.merge(asked, output, threads=threads, chunk=chunk)
        made.add(output.read_bytes())
        assert submerge.plan(asked, output).file_sizes == (output.stat().st_size,)
    assert len(made) == 1
    first, second = (factory.read(tmp_path / f"{name}.safetensors") for name in "ab")
    pairs, tensors = gguf_files.read(tmp_path / "1.gguf")
    assert "general.architecture" not in pairs
    for name, tensor in tensors.items():
        assert tensor.shape == first[name].shape
        expected = np.float32(0.75) * first[name] + np.float32(0.25) * second[name]
        assert np.array_equal(tensor.numbers, expected), name
    assert tensors.keys() == first.keys()


def test_an_output_is_made_again_and_compared(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    asked = ragged(tmp_path)
    submerge.merge(asked, output)

    def failed() -> list[tuple[str, str]]:
        found = submerge.verify(output, recipe=asked, layout="generic")
        return [(check.name, check.found) for check in found.checks if not check.passed]

    assert failed() == []
    whole = output.read_bytes()
    checkpoint = open_checkpoint(output)
    start = checkpoint.files[0].data_start
    ends = [start + tensor.end for tensor in checkpoint.tensors.values()]
    assert any(end % 32 for end in ends)
    # The key-values, a number, the padding behind it, the padding at the end.
    for at in (40, ends[0] - 1, *(end for end in ends if end % 32), len(whole) - 1):
        output.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        ((name, found),) = failed()
        assert name == "recipe"
        assert f"differs at byte {at}," in found or (at < start and "its header differs" in found)
    output.write_bytes(whole)
    assert failed() == []


def test_the_recipe_in_a_gguf_is_found(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    submerge.merge(recipe(tmp_path), output)
    assert submerge.verify(output, recipe=str(output)).passed
    submerge.merge(str(output), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == output.read_bytes()


REFUSED = [
    ({"dtype": "fp8"}, "`fp8` in a GGUF", "q8_0"),
    ({"dtype": "f8_e5m2"}, "`f8_e5m2` in a GGUF", "q8_0"),
    ({"layout": "comfy"}, "`comfy`, expected `bfl` or `diffusers` for a GGUF", "layout"),
]


@pytest.mark.parametrize(("wanted", "message", "hint"), REFUSED)
def test_wishes_that_a_gguf_cannot_have(
    tmp_path: Path, wanted: dict[str, Any], message: str, hint: str
) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        submerge.convert(path, tmp_path / "out.gguf", **wanted)
    assert hint in (caught.value.hint or "")
    assert not (tmp_path / "out.gguf").exists()


def test_fp8_parents_become_what_ggml_has(tmp_path: Path) -> None:
    flux = factory.Flux(dtype="F8_E4M3")
    path = factory.save_file(tmp_path / "fp8.safetensors", flux, "bfl")
    submerge.convert(path, tmp_path / "out.gguf")
    found = gguf_files.read(tmp_path / "out.gguf").tensors
    assert {tensor.kind for tensor in found.values()} == {"F32", "BF16"}
    expected = {n: a.astype(np.float32) for n, a in factory.tensors(flux, "bfl").items()}
    assert differing({n: t.numbers for n, t in found.items()}, expected) == []


def test_an_all_in_one_file_needs_a_word_about_the_rest(tmp_path: Path) -> None:
    path = factory.save_comfy(tmp_path / "all.safetensors", KREA)
    with pytest.raises(RecipeError, match="for which the layout `bfl` has no place"):
        submerge.convert(path, tmp_path / "out.gguf")
    submerge.merge(
        {"models": {"all": str(path)}, "take": "all", "extras": "drop"}, tmp_path / "out.gguf"
    )
    found = gguf_files.read(tmp_path / "out.gguf").tensors
    assert found.keys() == factory.tensors(KREA, "bfl").keys()


def test_a_tensor_with_a_long_name_is_no_gguf(tmp_path: Path) -> None:
    for length, fits in ((127, True), (128, False)):
        path = factory.write(
            tmp_path / f"{length}.safetensors", {"n" * length: np.ones((4, 300), np.float32)}
        )
        asked = {"models": {"a": {"path": str(path), "layout": "generic"}}, "take": "a"}
        output = tmp_path / f"{length}.gguf"
        if fits:
            submerge.merge(asked, output)
            assert gguf_files.read(output).tensors.keys() == {"n" * length}
            continue
        with pytest.raises(submerge.PlanError, match="at most 127 bytes, got 128"):
            submerge.merge(asked, output)
        assert not output.exists()


def sample() -> bytes:
    """A small file with some of everything."""
    return b"".join(
        [
            b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
            b"\x01\0\0\0\0\0\0\0a\x08\0\0\0\x02\0\0\0\0\0\0\0xy",
            b"\x01\0\0\0\0\0\0\0b\x09\0\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0z",
            b"\x01\0\0\0\0\0\0\0w\x02\0\0\0\x20\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x08\0\0\0"
            + bytes(8),
            b"\x01\0\0\0\0\0\0\0v\x01\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\x60\0\0\0\0\0\0\0",
        ]
    )


def test_the_sample_is_a_file(tmp_path: Path) -> None:
    head = sample()
    path = tmp_path / "x.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(128))
    assert [t["name"] for t in read_header(path)["tensors"]] == ["w", "v"]


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=9)), max_size=4),
    length=st.integers(0, 340),
)
def test_a_damaged_header_is_a_located_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], length: int
) -> None:
    head = sample()
    data = bytearray(head + bytes(-len(head) % 32) + bytes(128))
    for at, piece in edits:
        data[at : at + len(piece)] = piece
    if length < 300:
        del data[length:]
    path = tmp_path_factory.mktemp("damaged") / "x.gguf"
    path.write_bytes(data)
    refused, header = None, None
    try:
        header = read_header(path)
    except CheckpointError as error:
        refused = error
    if refused is not None:
        assert str(path) in refused.message
        assert refused.hint
    if header is not None:
        ends = [header["data_start"] + tensor["end"] for tensor in header["tensors"]]
        assert max(ends, default=0) <= len(data)
