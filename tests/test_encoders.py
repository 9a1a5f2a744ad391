"""Parts of adapters for text encoders: added where a pipeline is written, against numpy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import KREA, SCHNELL, Array
from submerge.errors import AdapterError, RecipeError
from submerge.lora import bake
from submerge.merge import plan

if TYPE_CHECKING:
    from pathlib import Path

CLIP = "text encoder (CLIP)"
ATTN, FC = "encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1"
SELF, DENSE = "encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.1.DenseReluDense.wo"
TO_Q = "transformer.transformer_blocks.0.attn.to_q"
SIZES = {ATTN: (24, 24), FC: (48, 24), SELF: (32, 16), DENSE: (16, 40)}


def clip(before: str = "text_model.") -> dict[str, Array]:
    """CLIP in F16, as diffusers keeps it: with biases, and positions that are no floats."""
    found: dict[str, Array] = {
        f"{before}embeddings.position_ids": np.arange(7, dtype=np.int64)[None],
        f"{before}embeddings.token_embedding.weight": files.draw("t", 11, 24, dtype=np.float16),
        f"{before}final_layer_norm.weight": files.draw("n", 24, dtype=np.float16),
    }
    for name in (ATTN, FC):
        found[f"{before}{name}.weight"] = files.draw(name, *SIZES[name], dtype=np.float16)
        found[f"{before}{name}.bias"] = files.draw(f"{name}b", SIZES[name][0], dtype=np.float16)
    return found


def t5() -> list[dict[str, Array]]:
    """T5 in two shards."""
    first = {
        "shared.weight": files.draw("s", 9, 16),
        f"{SELF}.weight": files.draw(SELF, *SIZES[SELF]),
    }
    return [first, {f"{DENSE}.weight": files.draw(DENSE, *SIZES[DENSE])}]


def pipeline(folder: Path, flux: factory.Flux = KREA, before: str = "text_model.") -> Path:
    factory.save_pipeline(folder, flux)
    factory.write(folder / "text_encoder/model.safetensors", clip(before), {"format": "pt"})
    second = folder / "text_encoder_2"
    (second / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, shard in zip(names, t5(), strict=True):
        factory.write(second / name, shard, {"format": "pt"})
    listed = {t: n for n, shard in zip(names, t5(), strict=True) for t in shard}
    index = {"metadata": {"total_size": 1}, "weight_map": listed}
    (second / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def factors(*modules: str) -> dict[str, tuple[Array, Array]]:
    return {
        m: (files.draw(f"u{m}", SIZES[m][0], 4), files.draw(f"d{m}", 4, SIZES[m][1]))
        for m in modules
    }


def kohya(prefix: str, *modules: str, alpha: float | None = 2.0) -> dict[str, Array]:
    return files.kohya(factors(*modules), alpha, prefix)


def dotted(prefix: str, *modules: str) -> dict[str, Array]:
    return files.diffusers(factors(*modules), prefix)


def written(folder: Path, component: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for path in sorted((folder / component).glob("*.safetensors")):
        found |= factory.read(path)
    return found


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def assert_baked(
    out: Path, source: Path, added: dict[str, Array], before: str = "text_model."
) -> None:
    """Every tensor is the sum in its own dtype, or the same bytes; files and headers are equal."""
    for component in ("text_encoder", "text_encoder_2"):
        names = {p.name for p in (source / component).iterdir()}
        assert {p.name for p in (out / component).iterdir()} == names
        for name in names:
            if name.endswith(".safetensors"):
                assert header(out / component / name) == header(source / component / name)
        theirs, ours = written(source, component), written(out, component)
        assert set(ours) == set(theirs)
        for name, array in theirs.items():
            delta = added.get(name.removeprefix(before))
            assert ours[name].dtype == array.dtype
            if delta is None:
                assert ours[name].tobytes() == array.tobytes()
                continue
            wanted = files.wide(array) + delta
            unit = 2.0**-10 if array.dtype == np.float16 else 2.0**-22
            limit = unit * np.abs(wanted) + 1e-6
            assert (np.abs(files.wide(ours[name]) - wanted) <= limit).all(), name
            assert not np.array_equal(ours[name], array), name


def deltas(*modules: str, scale: float = 1.0) -> dict[str, Array]:
    return {f"{m}.weight": files.product(p, scale) for m, p in factors(*modules).items()}


NAMES: dict[str, tuple[dict[str, Array], float]] = {
    "kohya": (
        kohya("lora_te1_text_model_", ATTN, FC) | kohya("lora_te3_", SELF, DENSE),
        0.5,
    ),
    "kohya, CLIP alone": (kohya("lora_te_text_model_", ATTN, FC), 0.5),
    "onetrainer": (
        kohya("lora_te1_text_model_", ATTN, FC) | kohya("lora_te2_", SELF, DENSE),
        0.5,
    ),
    "comfyui": (
        files.comfyui(factors(ATTN, FC), "text_encoders.clip_l.transformer.text_model.")
        | files.comfyui(factors(SELF, DENSE), "text_encoders.t5xxl.transformer."),
        1.0,
    ),
    "diffusers": (
        dotted("text_encoder.text_model.", ATTN, FC) | dotted("text_encoder_2.", SELF, DENSE),
        1.0,
    ),
    "diffusers of transformers 5": (
        dotted("text_encoder.", ATTN, FC) | dotted("text_encoder_2.", SELF, DENSE),
        1.0,
    ),
    "peft": (
        dotted("base_model.model.text_encoder.text_model.", ATTN, FC)
        | dotted("base_model.model.text_encoder_2.", SELF, DENSE),
        1.0,
    ),
    "peft, CLIP alone": (dotted("base_model.model.text_model.", ATTN, FC), 1.0),
}


@pytest.mark.parametrize("before", ["text_model.", ""])
@pytest.mark.parametrize("names", NAMES)
def test_parts_in_every_format_are_added_to_the_encoders(
    tmp_path: Path, names: str, before: str
) -> None:
    arrays, scale = NAMES[names]
    source = pipeline(tmp_path / "krea", before=before)
    style = files.save(tmp_path / "style.safetensors", arrays)
    report = bake(source, [{"path": str(style), "scale": 0.5}], tmp_path / "out")
    modules = (ATTN, FC) if "alone" in names else (ATTN, FC, SELF, DENSE)
    assert_baked(tmp_path / "out", source, deltas(*modules, scale=0.5 * scale), before)
    assert "text_encoder: `style` in 2 tensors" in report.summary["notes"]
    assert not any(gone["model"] == "style" for gone in report.summary["unused"])
    assert not any("not applied" in note for note in report.summary["notes"])
    # The transformer has no part: its bytes are those of a conversion.
    theirs = factory.read(source / "transformer/diffusion_pytorch_model.safetensors")
    ours = factory.read(tmp_path / "out/transformer/diffusion_pytorch_model.safetensors")
    assert all(ours[name].tobytes() == array.tobytes() for name, array in theirs.items())


def test_only_the_files_that_change_are_made_anew(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = kohya("lora_te3_", DENSE) | {f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64)}
    arrays[f"{TO_Q}.lora_B.weight"] = files.draw(2, 64, 4)
    style = files.save(tmp_path / "style.safetensors", arrays)
    recipe = {
        "models": {"krea": str(source)},
        "adapters": [str(style)],
        "output": {"pipeline_from": "krea"},
    }
    made = plan(recipe, tmp_path / "out")
    shard = "text_encoder_2/model-00002-of-00002.safetensors"
    assert [file.path for file in made.files][1:] == [shard]
    assert {"text_encoder/model.safetensors", "text_encoder_2/config.json"} <= {
        copy.path for copy in made.copies
    }
    assert shard not in {copy.path for copy in made.copies}
    submerge.merge(recipe, tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(DENSE, scale=0.5))
    index = "text_encoder_2/model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_bytes() == (source / index).read_bytes()


def test_kinds_and_biases_are_those_of_the_transformer(tmp_path: Path) -> None:
    """DoRA, a difference of a bias and one of a norm; the magnitude's formula in numpy."""
    source = pipeline(tmp_path / "krea")
    te = "lora_te1_text_model_"
    q = te + ATTN.replace(".", "_")
    arrays = kohya(te, ATTN)
    arrays[f"{q}.dora_scale"] = 1 + np.abs(files.draw("m", SIZES[ATTN][0], 1))
    arrays[f"{q}.diff_b"] = files.draw("b", SIZES[ATTN][0])
    arrays[f"{te}final_layer_norm.diff"] = files.draw("f", 24)
    style = files.save(tmp_path / "style.safetensors", arrays)
    bake(source, [str(style)], tmp_path / "out")
    weight = files.wide(clip()[f"text_model.{ATTN}.weight"])
    summed = weight + deltas(ATTN, scale=0.5)[f"{ATTN}.weight"]
    norm = np.linalg.norm(summed, axis=1, keepdims=True) + 2.0**-23
    added = {
        f"{ATTN}.weight": summed * (files.wide(arrays[f"{q}.dora_scale"]) / norm) - weight,
        f"{ATTN}.bias": files.wide(arrays[f"{q}.diff_b"]),
        "final_layer_norm.weight": files.wide(arrays[f"{te}final_layer_norm.diff"]),
    }
    assert_baked(tmp_path / "out", source, added)


def test_ranks_and_alphas_are_those_the_metadata_has_for_the_encoder(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    config = {"r": 4, "lora_alpha": 12, "alpha_pattern": {"fc1": 2}}
    named = {f"text_encoder.{key}": value for key, value in config.items()}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 99, **named})}
    arrays = dotted("text_encoder.text_model.", ATTN, FC)
    style = files.save(tmp_path / "style.safetensors", arrays, metadata)
    bake(source, [str(style)], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=3.0) | deltas(FC, scale=0.5))


@pytest.mark.parametrize(
    ("scale", "first"),
    [
        ({"text_encoder": 0.25, "default": 1}, 0.25),
        ({"text_encoder.text_model.encoder": 0.5, "default": 0}, 0.5),
        ({"from": 0.75, "to": 0}, 0.75),
        ([0.125, 1, 1, 1], 0.125),
    ],
)
def test_strengths_may_name_encoders(tmp_path: Path, scale: Any, first: float) -> None:
    """A list or a gradient gives them its first number: they run before the blocks."""
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", kohya("lora_te1_text_model_", ATTN))
    bake(source, [{"path": str(style), "scale": scale}], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5 * first))


def test_at_strength_0_files_are_taken_over(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", kohya("lora_te1_text_model_", ATTN))
    bake(source, [{"path": str(style), "scale": 0}], tmp_path / "out")
    name = "text_encoder/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize(("onto", "baked"), [(None, True), ("krea", True), ("schnell", False)])
def test_a_merge_adds_them_to_the_encoders_it_writes(
    tmp_path: Path, onto: str | None, *, baked: bool
) -> None:
    """What is put onto another model than the one that gives the encoders has no place there."""
    source = pipeline(tmp_path / "krea")
    pipeline(tmp_path / "schnell", SCHNELL)
    arrays = kohya("lora_te1_text_model_", ATTN)
    arrays |= files.kohya(files.pairs(KREA, ["double_blocks.0.img_mlp.0"], layout="bfl"), None)
    style = files.save(tmp_path / "style.safetensors", arrays)
    adapter = {"path": str(style), **({} if onto is None else {"onto": onto})}
    recipe = {
        "models": {"schnell": str(tmp_path / "schnell"), "krea": str(source)},
        "adapters": [adapter],
        "output": {"pipeline_from": "krea"},
    }
    report = submerge.merge(recipe, tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5) if baked else {})
    left = [gone["reason"] for gone in report.summary["unused"] if gone["model"] == "style"]
    assert left == ([] if baked else [f"for {CLIP}"])
    assert submerge.verify(tmp_path / "out", recipe=recipe).passed


def test_two_adapters_are_one_sum(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    one = files.save(tmp_path / "one.safetensors", kohya("lora_te1_text_model_", ATTN))
    other = files.save(tmp_path / "other.safetensors", dotted("text_encoder.", ATTN))
    bake(source, [str(one), {"path": str(other), "scale": -0.25}], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5 - 0.25))


def test_what_is_no_pipeline_lists_them(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = kohya("lora_te1_text_model_", ATTN)
    alone = files.save(tmp_path / "alone.safetensors", arrays)
    with pytest.raises(AdapterError, match="changes nothing in the transformer") as refused:
        bake(source, [str(alone)], tmp_path / "out.safetensors")
    assert "`pipeline_from`" in str(refused.value.hint)
    both = arrays | {
        f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64),
        f"{TO_Q}.lora_B.weight": files.draw(2, 64, 4),
    }
    style = files.save(tmp_path / "style.safetensors", both)
    report = bake(source, [str(style)], tmp_path / "out.safetensors")
    assert [gone["reason"] for gone in report.summary["unused"]] == [f"for {CLIP}"]


def wrong_shape() -> dict[str, Array]:
    return {
        k: a[:, :-1] if "down" in k else a for k, a in kohya("lora_te1_text_model_", ATTN).items()
    }


def partnerless() -> dict[str, Array]:
    return {k: a for k, a in kohya("lora_te1_text_model_", ATTN).items() if "up" not in k}


REFUSED: dict[str, tuple[dict[str, Array], str]] = {
    "another model's shape": (
        wrong_shape(),
        r"lora_down\.weight`: expected \[4, 24\], got \[4, 23\]",
    ),
    "no partner": (partnerless(), "`up` missing beside"),
    "an unknown module": (
        files.kohya({"encoder.layers.7.mlp.fc1": factors(FC)[FC]}, None, "lora_te1_text_model_"),
        r"2 keys: .* without a place in the model \(no module of text_encoder\)",
    ),
    "twice": (
        kohya("lora_te1_text_model_", ATTN) | dotted("text_encoder.", ATTN),
        "are one module of text_encoder, expected it once",
    ),
    "of no floats": (
        {"lora_te1_text_model_embeddings_position_ids.diff": files.draw(1, 1, 7)},
        "no module of text_encoder",
    ),
    "a kind that is refused": (
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.oft_blocks": files.draw(1, 4, 4)},
        "OFT",
    ),
    "an alpha that is NaN": (
        kohya("lora_te1_text_model_", ATTN, alpha=np.nan),
        "alpha is nan, expected a finite number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    arrays, message = REFUSED[case]
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", arrays)
    with pytest.raises(AdapterError, match=message) as refused:
        bake(source, [str(style)], tmp_path / "out")
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_keys_of_encoders_are_allowed_by_name(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = kohya("lora_te1_text_model_", ATTN) | {
        "lora_te1_text_projection.diff": files.draw(1, 3)
    }
    style = files.save(tmp_path / "style.safetensors", arrays)
    adapter = {"path": str(style), "allow": ["lora_te1_text_projection"]}
    report = bake(source, [adapter], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5))
    (left,) = [gone for gone in report.summary["unused"] if gone["model"] == "style"]
    assert left["tensors"] == ("lora_te1_text_projection.diff",)


def test_encoders_that_are_no_safetensors_are_left(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    (source / "text_encoder/model.safetensors").rename(source / "text_encoder/pytorch_model.bin")
    arrays = kohya("lora_te1_text_model_", ATTN) | kohya("lora_te3_", SELF)
    style = files.save(tmp_path / "style.safetensors", arrays)
    report = bake(source, [str(style)], tmp_path / "out")
    assert [gone["reason"] for gone in report.summary["unused"]] == [f"for {CLIP}"]
    assert (tmp_path / "out/text_encoder/pytorch_model.bin").exists()


def test_an_encoder_in_integers_is_refused(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = clip()
    arrays[f"text_model.{ATTN}.weight"] = np.ones(SIZES[ATTN], dtype=np.int8)
    factory.write(source / "text_encoder/model.safetensors", arrays)
    style = files.save(tmp_path / "style.safetensors", kohya("lora_te1_text_model_", ATTN))
    with pytest.raises(AdapterError, match="which is I8, expected floats"):
        bake(source, [str(style)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_encoders_cannot_be_selected_where_none_is_written(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = {
        f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64),
        f"{TO_Q}.lora_B.weight": files.draw(2, 64, 4),
    }
    style = files.save(tmp_path / "style.safetensors", arrays)
    adapter = {"path": str(style), "scale": {"text_encoder": 0.5, "default": 1}}
    with pytest.raises(RecipeError, match="text_encoder"):
        bake(source, [adapter], tmp_path / "out.safetensors")


def test_the_bytes_do_not_depend_on_how_it_runs(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", NAMES["kohya"][0])
    found = set()
    for at, how in enumerate(({"threads": 1, "chunk": 64}, {"threads": 4, "io": "mmap"}, {})):
        bake(source, [str(style)], tmp_path / str(at), **how)  # type: ignore[arg-type]
        made = sorted((tmp_path / str(at)).glob("text_encoder*/*"))
        found.add(b"".join(path.read_bytes() for path in made))
    assert len(found) == 1
