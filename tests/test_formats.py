"""Number formats of outputs: one table, what stands where, what is refused, what is told.

What the numbers are is compared with the libraries' in tests/oracles/test_formats.py.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import factory
import submerge
from factory import Flux
from submerge import RecipeError
from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.codecs import CODECS
from submerge.cli import options
from submerge.export import QUANTIZATIONS
from submerge.formats import FORMATS, READERS
from submerge.layout import identify

# Every block of every format divides its rows.
A = Flux(1, 1, 256, 64, 64, 32)
B = dataclasses.replace(A, guidance=True, seed=1)
CODED = [form for form in FORMATS.values() if form.codec]
SUFFIX = {"file": ".safetensors", "folder": "", "gguf": ".gguf"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    a = factory.save_file(folder / "a.safetensors", A)
    b = factory.save_file(folder / "b.safetensors", B, layout="bfl")
    return {"a": str(a), "b": str(b)}


def recipe(models: dict[str, str], **output: Any) -> dict[str, Any]:
    return {"models": models, "alpha": 0.3, "output": {"card": False, **output}}


def target(folder: Path, name: str) -> Path:
    (container, *_) = sorted(FORMATS[name].containers, key=list(SUFFIX).index)
    return folder / f"{name}{SUFFIX[container]}"


def raw(path: Path) -> dict[str, bytes]:
    """Every tensor of a safetensors file as bytes."""
    header = factory.header(path)
    header.pop("__metadata__", None)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return {
        name: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        for name, entry in header.items()
    }


# The table.


def test_there_is_one_set_of_names() -> None:
    assert tuple(FORMATS) == options.FORMATS
    assert tuple(READERS) == options.READERS
    assert set(QUANTIZATIONS.values()) == set(FORMATS)


@pytest.mark.parametrize("form", CODED, ids=lambda form: form.name)
def test_a_format_is_of_a_codec(form: Any) -> None:
    codec = CODECS[form.codec]
    assert form.dtype in codec.payload
    assert len(form.sides) == codec.sides
    assert form.grain[1] % codec.elements == 0
    assert form.readers <= set(READERS)
    assert (form.marker is not None) == ("comfyui" in form.readers and form.sides != ())


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    told: dict[str, tuple[str, str]] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`(\w+)`", cells[0]) if line.startswith("| `") else []
        bits = cells[1].split(", ") if names else []
        told |= {name: (size, cells[3]) for name, size in zip(names, bits, strict=True)}
    assert told.keys() == FORMATS.keys() - {"same"}
    words = {"file": "one file", "folder": "folder", "gguf": "GGUF"}
    for name, (size, container) in told.items():
        form = FORMATS[name]
        assert float(size) == pytest.approx(form.bits, abs=0.005), name
        if form.codec:
            assert {container} == {words[c] for c in form.containers}


# What is written.


@pytest.mark.parametrize("form", CODED, ids=lambda form: form.name)
def test_a_merge_into_a_format(tmp_path: Path, models: dict[str, str], form: Any) -> None:
    out = target(tmp_path, form.name)
    wanted = recipe(models, dtype=form.name)
    plan = submerge.plan(wanted, out)
    report = submerge.merge(wanted, out)
    assert form.name in plan.about.dtype
    assert form.name in report.summary["dtype"]
    written = sum(f.stat().st_size for f in ([out] if out.is_file() else out.iterdir()))
    assert written == plan.output_bytes
    assert submerge.verify(out, recipe=wanted).passed
    found = report.findings.quantisation
    assert found is not None
    assert found.formats == (form.name,)
    most = 0.12 if "4" in form.name else 0.05
    assert 0.002 < found.error < most
    # The file holds what the report says: numbers that far from the merge in f32.
    exact, back = tmp_path / "exact.safetensors", tmp_path / "back.safetensors"
    submerge.merge(recipe(models, dtype="f32", layout="bfl"), exact)
    submerge.convert(out, back, dtype="f32", layout="bfl")
    expected, got = factory.read(exact), factory.read(back)
    lost = value = 0.0
    for name in expected:
        if expected[name].ndim == 2 and name.split("_blocks")[0] in ("double", "single"):
            lost += float(((got[name] - expected[name]).astype(np.float64) ** 2).sum())
            value += float((expected[name].astype(np.float64) ** 2).sum())
    kept = 0.02 if form.kept else 0.0
    assert found.error == pytest.approx((lost / value) ** 0.5, rel=0.02 + kept)


@pytest.mark.parametrize("name", ["fp8_scaled", "nvfp4", "sdnq_int8"])
def test_every_tensor_lies_at_a_multiple_of_its_size(
    tmp_path: Path, models: dict[str, str], name: str
) -> None:
    out = target(tmp_path, name)
    submerge.merge(recipe(models, dtype=name), out)
    for file in [out] if out.is_file() else out.glob("*.safetensors"):
        header = factory.header(file)
        header.pop("__metadata__")
        for tensor, entry in header.items():
            bits = {"F32": 32, "BF16": 16}.get(entry["dtype"], 8)
            assert entry["data_offsets"][0] % (bits // 8) == 0, tensor


@pytest.mark.parametrize("name", ["fp8_scaled", "int8_convrot", "nvfp4", "mxfp8", "fp8_row"])
def test_bytes_depend_on_no_thread_and_no_chunk(
    tmp_path: Path, models: dict[str, str], name: str
) -> None:
    wanted = recipe(models, dtype=name)
    bytes_ = set()
    for i, run in enumerate(({"threads": 1}, {"threads": 3, "chunk": 1}, {"isa": "scalar"})):
        out = tmp_path / f"{i}.safetensors"
        submerge.merge(wanted, out, **run)  # type: ignore[arg-type]  # one of several keywords
        bytes_.add(out.read_bytes())
    assert len(bytes_) == 1


def test_formats_by_selector(tmp_path: Path, models: dict[str, str]) -> None:
    dtype = {"double[*].img.attn": "nvfp4", "single[*].mod": "bf16", "default": "fp8_scaled"}
    out = tmp_path / "out.safetensors"
    report = submerge.merge(recipe(models, dtype=dtype), out)
    tensors = raw(out)
    header = factory.header(out)
    said = {n: json.loads(t)["format"] for n, t in tensors.items() if n.endswith(".comfy_quant")}
    assert said["double_blocks.0.img_attn.qkv.comfy_quant"] == "nvfp4"
    assert said["double_blocks.0.img_attn.proj.comfy_quant"] == "nvfp4"
    assert said["double_blocks.0.txt_attn.qkv.comfy_quant"] == "float8_e4m3fn"
    assert "single_blocks.0.modulation.lin.comfy_quant" not in said
    assert header["single_blocks.0.modulation.lin.weight"]["dtype"] == "BF16"
    assert report.summary["dtype"] == "BF16, fp8_scaled, nvfp4"
    assert report.recipe["output"]["dtype"] == dtype


def test_what_a_convention_keeps_is_written_if_it_is_asked_for(
    tmp_path: Path, models: dict[str, str]
) -> None:
    out = tmp_path / "out.safetensors"
    submerge.merge(recipe(models, dtype={"embed.img": "fp8_scaled", "default": "bf16"}), out)
    coded = {n for n, e in factory.header(out).items() if e.get("dtype") == "F8_E4M3"}
    assert coded == {"img_in.weight"}


def test_what_does_not_fit_stays_and_is_told(tmp_path: Path) -> None:
    narrow = {"a": str(factory.save_file(tmp_path / "a.safetensors", factory.SCHNELL))}
    out = tmp_path / "out.safetensors"
    wanted = {"models": narrow, "output": {"dtype": "int8_convrot"}}
    report = submerge.merge(wanted, out)
    # Of a width of 64 only rows of 256 are whole groups: the second layers of the MLPs.
    coded = {n for n, e in factory.header(out).items() if e.get("dtype") == "I8"}
    assert coded == {f"double_blocks.{i}.{s}_mlp.2.weight" for i in (0, 1) for s in ("img", "txt")}
    assert any(
        "in BF16: int8_convrot takes multiples of 256 columns" in note
        for note in report.summary["notes"]
    )


def test_a_format_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    tiny = factory.save_file(tmp_path / "a.safetensors", Flux(1, 1, 32, 16, 16, 16))
    wanted = {"models": {"a": str(tiny)}, "output": {"dtype": "q4_k"}}
    with pytest.raises(RecipeError, match=r"`q4_k` fits none of \d+ tensors, expected multiples"):
        submerge.plan(wanted, tmp_path / "out.gguf")


def test_shards_hold_codes_and_their_scales(tmp_path: Path, models: dict[str, str]) -> None:
    out = tmp_path / "out"
    submerge.merge(recipe(models, dtype="sdnq_int8", shard_size="1MB"), out)
    index = json.loads((out / "diffusion_pytorch_model.safetensors.index.json").read_text())
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2
    held = {name: file.name for file in files for name in raw(file)}
    assert index["weight_map"] == held
    for name, file in held.items():
        if name.endswith(".scale"):
            assert held[f"{name.removesuffix('scale')}weight"] == file
    assert index["metadata"]["total_size"] == sum(len(t) for f in files for t in raw(f).values())


def test_with_guidance_baked_and_another_method(tmp_path: Path, models: dict[str, str]) -> None:
    out, exact = tmp_path / "out.safetensors", tmp_path / "exact.safetensors"
    meant = {"models": models, "method": {"slerp": {"alpha": 0.3}}, "guidance": {"bake": 3.5}}
    submerge.merge(meant | {"output": {"dtype": "fp8_scaled"}}, out)
    submerge.merge(meant | {"output": {"dtype": "f32", "layout": "bfl"}}, exact)
    header, expected = factory.header(out), factory.read(exact)
    assert not any("guidance" in name for name in header)
    name = "single_blocks.0.linear1.weight"
    scale = np.frombuffer(raw(out)[f"{name}_scale"], np.float32)
    assert scale == np.abs(expected[name]).max() / np.float32(448)


# What is taken as it is.


@pytest.mark.parametrize("name", ["fp8_scaled", "int8_convrot", "nvfp4", "mxfp8", "fp8_row"])
def test_a_model_in_the_same_format_is_copied(
    tmp_path: Path, models: dict[str, str], name: str
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    submerge.merge(recipe(models, dtype=name), first)
    report = submerge.convert(first, second, dtype=name)
    assert raw(second) == raw(first)
    assert report.findings.quantisation is None
    # Beside another model it is written anew, and what is taken of one is not.
    third = tmp_path / "third.safetensors"
    both = {"models": {"one": str(first), "two": models["b"]}, "alpha": 0.5}
    rules = {"rules": [{"where": "double", "take": "one"}]}
    submerge.merge(both | rules | {"output": {"dtype": name}}, third)
    a, b = raw(first), raw(third)
    double = {n for n in a if n.startswith("double_blocks.")}
    assert {n: a[n] for n in double} == {n: b[n] for n in double}
    assert a["single_blocks.0.linear1.weight"] != b["single_blocks.0.linear1.weight"]


# Rounding at random.


def test_rounding_at_random_follows_its_seed(tmp_path: Path, models: dict[str, str]) -> None:
    made = []
    for i, seed in enumerate((5, 5, 6)):
        out = tmp_path / f"{i}.safetensors"
        wanted = recipe(models, dtype="fp8_scaled", rounding={"stochastic": seed})
        submerge.merge(wanted, out, threads=1 + i)
        made.append(raw(out))
    assert made[0] == made[1] != made[2]
    nearest = tmp_path / "nearest.safetensors"
    submerge.merge(recipe(models, dtype="fp8_scaled"), nearest)
    name = "single_blocks.0.linear1.weight"
    # The scale is the same, and about as many codes go up as down.
    assert made[0][f"{name}_scale"] == raw(nearest)[f"{name}_scale"]
    assert made[0][name] != raw(nearest)[name]


@pytest.mark.parametrize("dtype", ["bf16", "nvfp4", {"double": "nvfp4", "default": "fp8_scaled"}])
def test_rounding_at_random_is_of_fp8_and_int8_alone(
    tmp_path: Path, models: dict[str, str], dtype: Any
) -> None:
    wanted = recipe(models, dtype=dtype, rounding={"stochastic": 0})
    with pytest.raises(RecipeError, match=r"recipe\.output\.rounding: `stochastic` of `"):
        submerge.plan(wanted, tmp_path / "out.safetensors")


# For whom.


@pytest.mark.parametrize(
    ("reader", "name", "layout", "dtype"),
    [
        ("comfyui", "out.safetensors", "bfl", "BF16"),
        ("comfyui", "out.gguf", "bfl", "q8_0"),
        ("diffusers", "out", "diffusers", "BF16"),
        ("diffusers", "out.safetensors", "bfl", "BF16"),
        ("diffusers", "out.gguf", "bfl", "q8_0"),
        ("sdcpp", "out.gguf", "bfl", "q8_0"),
        ("sdcpp", "out.safetensors", "bfl", "BF16"),
        ("gguf", "out.gguf", "bfl", "q8_0"),
    ],
)
def test_a_reader_chooses(
    tmp_path: Path, models: dict[str, str], reader: str, name: str, layout: str, dtype: str
) -> None:
    plan = submerge.plan(recipe(models, **{"for": reader}), tmp_path / name)
    assert plan.about.layout == layout
    assert dtype in plan.about.dtype
    note = f"for {READERS[reader].title}: layout {layout}"
    assert any(line.startswith(note) for line in plan.about.notes), plan.about.notes


# (what is written of the output, its name, what is said)
REFUSED = [
    ({"dtype": "fp8_row", "for": "comfyui"}, "o.safetensors", "`fp8_row` for ComfyUI"),
    ({"dtype": "nvfp4", "for": "diffusers"}, "o.safetensors", "`nvfp4` for diffusers"),
    ({"dtype": "fp8_scaled", "for": "sdcpp"}, "o.safetensors", "for stable-diffusion.cpp"),
    ({"for": "comfyui"}, "o", "a folder for ComfyUI, expected one safetensors file"),
    ({"for": "gguf"}, "o.safetensors", "one safetensors file for readers of GGUF"),
    ({"dtype": "q8_0"}, "o.safetensors", "`q8_0` in one safetensors file, expected a GGUF"),
    ({"dtype": "fp8_scaled"}, "o", "`fp8_scaled` in a folder, expected one safetensors file"),
    ({"dtype": "sdnq_int8"}, "o.safetensors", "`sdnq_int8` in one safetensors file"),
    ({"dtype": "fp8_scaled"}, "o.gguf", "`fp8_scaled` in a GGUF"),
    ({"dtype": "fp8_scaled", "layout": "diffusers"}, "o.safetensors", "expected `bfl` for"),
    ({"dtype": "fp8_scaled", "layout": "comfy"}, "o.safetensors", "expected `bfl` for"),
    ({"dtype": "sdnq_int8", "layout": "bfl"}, "o", "expected `diffusers` for `sdnq_int8`"),
    ({"layout": "comfy"}, "o.gguf", "expected `bfl` or `diffusers` for a GGUF"),
    ({"dtype": {"double": "fp8_row", "default": "fp8_scaled"}}, "o.safetensors", "one program"),
    (
        {"dtype": {"double[0].img.attn.q": "nvfp4", "default": "fp8_scaled"}},
        "o.safetensors",
        "holds units in fp8_scaled and nvfp4",
    ),
    ({"dtype": {"triple": "nvfp4"}}, "o.safetensors", "matches nothing"),
    ({"dtype": "q8"}, "o.gguf", "recipe.output.dtype: expected one of"),
    ({"dtype": {}}, "o.safetensors", "expected at least one selector"),
    ({"rounding": "stochastic"}, "o.safetensors", "`stochastic` needs a seed"),
    ({"rounding": {"stochastic": -1}}, "o.safetensors", "recipe.output.rounding.stochastic"),
    ({"rounding": "up"}, "o.safetensors", "expected `nearest` or"),
]


@pytest.mark.parametrize(("output", "name", "said"), REFUSED)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, models: dict[str, str], output: dict[str, Any], name: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        submerge.plan(recipe(models, **output), tmp_path / name)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_generic_model_has_no_blocks(tmp_path: Path, models: dict[str, str]) -> None:
    source = {"a": {"path": models["a"], "layout": "generic"}}
    wanted = {"models": source, "output": {"dtype": "fp8_scaled"}}
    with pytest.raises(RecipeError, match="of a generic model, whose blocks are not known"):
        submerge.plan(wanted, tmp_path / "o.safetensors")


# What is told.


def test_the_error_is_told_by_block_and_drawn(tmp_path: Path, models: dict[str, str]) -> None:
    out = tmp_path / "out.safetensors"
    report = submerge.merge(recipe(models, dtype="nvfp4"), out)
    text = report.table("block")
    assert "error" in text.splitlines()[0]
    assert "SQNR" in text.splitlines()[0]
    rows = {(r["block"], r["part"]): r for r in report.to_dict()["rows"]}
    assert 0.05 < rows["double.0", "mlp"]["error"] < 0.15
    assert 15 < rows["double.0", "mlp"]["sqnr"] < 26
    assert rows["embed", "embed"]["error"] is None
    assert any(line.startswith("nvfp4: relative error 0.0") for line in report.remarks)
    report.heatmap(tmp_path / "lost.svg")
    assert "relative error of writing" in (tmp_path / "lost.svg").read_text()
    wide = submerge.merge(recipe(models, dtype="bf16"), tmp_path / "wide.safetensors")
    assert "SQNR" not in wide.table()
    with pytest.raises(RecipeError, match="nothing to draw"):
        wide.heatmap(tmp_path / "none.svg")


@pytest.mark.parametrize("name", ["fp8_scaled", "sdnq_int8", "q8_0"])
def test_an_export_is_read_back(tmp_path: Path, models: dict[str, str], name: str) -> None:
    out = target(tmp_path, name)
    report = submerge.export_merged_model(models["b"], out, name)
    assert name in report.summary["dtype"]
    found = identify(open_checkpoint(out))
    assert FORMATS[name].codec in {unit.dtype for unit in found.units.values()}
