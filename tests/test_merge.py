"""Whole merges, byte for byte against numpy: layouts, dtypes, rules, guidance, forms of output."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import factory
import oracle
import submerge
from factory import FLOATS, KREA, SCHNELL
from submerge import LayoutError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

COMFY = "model.diffusion_model."
FORMS: dict[str, tuple[str, str]] = {
    "diffusers": ("diffusers", ""),
    "bfl": ("bfl", ""),
    "comfy": ("bfl", COMFY),
}
PARENTS = {"schnell": factory.tensors(SCHNELL), "krea": factory.tensors(KREA)}


def saved(tmp: Path, form: str = "diffusers") -> dict[str, str]:
    """Both parents as files in one form."""
    layout, prefix = FORMS[form]
    return {
        "schnell": str(factory.save_file(tmp / "schnell.safetensors", SCHNELL, layout, prefix)),
        "krea": str(factory.save_file(tmp / "krea.safetensors", KREA, layout, prefix)),
    }


def recipe(models: dict[str, str], **fields: Any) -> dict[str, Any]:
    return {"models": models, **fields}


def shares(arrays: dict[str, float], rest: float) -> Any:
    """The weights of each tensor: `arrays` holds patterns with the second model's share."""

    def weights(name: str) -> dict[str, float]:
        found = [share for pattern, share in arrays.items() if re.fullmatch(pattern, name)]
        return oracle.alpha(found[0] if found else rest)

    return weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_dtype_and_layout_out(tmp_path: Path, form: str, dtype: str) -> None:
    out = tmp_path / "out.safetensors"
    layout, prefix = FORMS[form]
    wanted = {"layout": form, "dtype": dtype.lower()}
    submerge.merge(recipe(saved(tmp_path), alpha=0.3, output=wanted), out)
    expected = oracle.merged(PARENTS, shares({}, 0.3), dtype)
    assert (
        oracle.differing(oracle.read(out), oracle.from_diffusers(expected, KREA, layout, prefix))
        == []
    )


@pytest.mark.parametrize("first", FLOATS)
@pytest.mark.parametrize("second", FLOATS)
def test_every_pair_of_dtypes_in(tmp_path: Path, first: str, second: str) -> None:
    a, b = replace(SCHNELL, dtype=first), replace(KREA, dtype=second)
    models = {
        "schnell": str(factory.save_file(tmp_path / "schnell.safetensors", a, "bfl")),
        "krea": str(factory.save_folder(tmp_path / "krea", b, shards=2)),
    }
    out = tmp_path / "out.safetensors"
    submerge.merge(recipe(models, alpha=0.7, output={"layout": "diffusers"}), out)
    # `same`: what the models agree on, else the wider, BF16 of two as wide, tensor by tensor.
    sizes = {name: factory.DTYPES[name][0].itemsize for name in (first, second)}
    wide = [name for name in sizes if sizes[name] == max(sizes.values())]
    same = wide[0] if len(wide) == 1 else "BF16"
    parents = {"schnell": factory.tensors(a), "krea": factory.tensors(b)}
    expected = oracle.merged(parents, shares({}, 0.7), same)
    lone = [name for name in parents["krea"] if name not in parents["schnell"]]
    expected |= {name: parents["krea"][name] for name in lone}
    assert oracle.differing(oracle.read(out), expected) == []


@pytest.mark.parametrize("share", [0.0, 1.0, 0.5, 1.5, -0.25, 1 / 3, 1e-8])
def test_any_share(tmp_path: Path, share: float) -> None:
    out = tmp_path / "out.safetensors"
    submerge.merge(recipe(saved(tmp_path), alpha=share), out)
    expected = oracle.merged(PARENTS, shares({}, share), "BF16")
    assert oracle.differing(oracle.read(out), expected) == []


def test_rules_lists_gradients_and_maps(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    rules = [
        {"where": "double[0].img.attn", "alpha": 0.2},
        {"where": "single[*].mlp", "alpha": {"from": 0.1, "to": 0.9}},
        {"where": "double[*].txt.mod", "alpha": [0.25, 0.75]},
        {"where": "final", "take": "krea"},
        {"where": "double[*].img.norm", "take": "schnell"},
        {"where": "embed.**", "alpha": {"embed.img": 0.6, "default": 0.4}},
    ]
    submerge.merge(recipe(saved(tmp_path), alpha=0.5, rules=rules), out)
    block = r"transformer_blocks\.{}\."
    weights = {
        block.format(0) + r"attn\.to_([qkv]|out\.0)\..*": 0.2,
        r"single_" + block.format(0) + r"proj_mlp\..*": 0.1,
        r"single_" + block.format(1) + r"proj_mlp\..*": 0.9,
        block.format(0) + r"norm1_context\.linear\..*": 0.25,
        block.format(1) + r"norm1_context\.linear\..*": 0.75,
        r"(norm_out|proj_out)\..*": 1.0,
        block.format(r"\d") + r"attn\.norm_[qk]\.weight": 0.0,
        r"x_embedder\..*": 0.6,
        r"(context_embedder|time_text_embed\.(timestep|text)_embedder)\..*": 0.4,
    }
    expected = oracle.merged(PARENTS, shares(weights, 0.5), "BF16")
    assert oracle.differing(oracle.read(out), expected) == []


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_any_number_of_models(tmp_path: Path, count: int, normalize: bool) -> None:  # noqa: FBT001
    random = np.random.default_rng(count)
    fluxes = {f"m{i}": replace(SCHNELL, double=1, single=1, seed=i) for i in range(count)}
    weights = {name: float(random.uniform(-0.2, 1.0)) for name in fluxes}
    models = {
        name: str(factory.save_file(tmp_path / f"{name}.safetensors", flux))
        for name, flux in fluxes.items()
    }
    out = tmp_path / "out.safetensors"
    method = {"linear": {"weight": weights, "normalize": normalize}}
    submerge.merge(recipe(models, method=method), out)
    final = oracle.normalised(weights) if normalize else weights
    parents = {name: factory.tensors(flux) for name, flux in fluxes.items()}
    expected = oracle.merged(parents, lambda _: final, "BF16")
    assert oracle.differing(oracle.read(out), expected) == []


def test_include_and_exclude_leave_the_rest_to_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    submerge.merge(
        recipe(
            saved(tmp_path, "bfl"), alpha=0.5, include=["double"], exclude=["double[1].img.attn.q"]
        ),
        out,
    )
    weights = {
        r"transformer_blocks\.1\.attn\.to_q\..*": 0.0,
        r"transformer_blocks\..*": 0.5,
    }
    expected = oracle.merged(
        {
            "schnell": PARENTS["schnell"],
            "krea": {k: PARENTS["krea"][k] for k in PARENTS["schnell"]},
        },
        shares(weights, 0.0),
        "BF16",
    )
    assert oracle.differing(oracle.read(out), oracle.from_diffusers(expected, SCHNELL)) == []


GUIDANCE_OUT = "time_text_embed.guidance_embedder.linear_2."
BAKED_INTO = "time_text_embed.timestep_embedder.linear_2.bias"


@pytest.mark.parametrize(
    ("policy", "scaled"), [("keep", 1.0), ("scale", 0.3), ({"scale": 0.125}, 0.125)]
)
def test_guidance_kept_and_scaled(tmp_path: Path, policy: Any, scaled: float) -> None:
    out = tmp_path / "out"
    submerge.merge(recipe(saved(tmp_path), alpha=0.3, guidance=policy), out)
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    for name in (GUIDANCE_OUT + "weight", GUIDANCE_OUT + "bias"):
        expected[name] = oracle.mixed(
            {"krea": PARENTS["krea"][name]}, {"krea": scaled}, "BF16", "saturate"
        )
    assert oracle.differing(oracle.read_folder(out), expected) == []
    assert json.loads((out / "config.json").read_text()) == factory.config(KREA)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5, 30.0])
def test_guidance_baked_into_a_bias(tmp_path: Path, guidance: float) -> None:
    out = tmp_path / "out.safetensors"
    fields = {"guidance": {"bake": guidance}, "output": {"dtype": "f32"}}
    submerge.merge(recipe(saved(tmp_path, "bfl"), alpha=0.3, **fields), out)
    expected = oracle.merged(PARENTS, shares({}, 0.3), "F32")
    expected = {name: expected[name] for name in PARENTS["schnell"]}
    bias = [PARENTS["krea"][BAKED_INTO], PARENTS["schnell"][BAKED_INTO]]
    expected[BAKED_INTO] = oracle.weighted(
        [*bias, oracle.baked(PARENTS["krea"], guidance)], [0.3, 0.7, 1.0], "F32"
    )
    assert oracle.differing(oracle.read(out), oracle.from_diffusers(expected, SCHNELL)) == []


def test_guidance_dropped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = submerge.merge(recipe(saved(tmp_path), alpha=0.3, guidance="drop"), out)
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    expected = {name: expected[name] for name in PARENTS["schnell"]}
    assert oracle.differing(oracle.read_folder(out), expected) == []
    assert json.loads((out / "config.json").read_text()) == factory.config(SCHNELL)
    unused = {name for entry in report.to_dict()["unused"] for name in entry["tensors"]}
    assert unused == {name for name in PARENTS["krea"] if "guidance" in name}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("to", FORMS)
def test_conversion_moves_bytes_and_changes_none(tmp_path: Path, form: str, to: str) -> None:
    # Every bit pattern, NaN payloads included, survives: a conversion computes nothing.
    random = np.random.default_rng(3)
    arrays = {
        name: random.integers(0, 1 << 16, shape, np.uint16).view(ml_dtypes.bfloat16)
        for name, shape in factory.diffusers_shapes(KREA).items()
    }
    model = factory.write(
        tmp_path / "a.safetensors", oracle.from_diffusers(arrays, KREA, *FORMS[form])
    )
    out = tmp_path / "out.safetensors"
    report = submerge.convert(model, out, layout=to)
    expected = oracle.from_diffusers(arrays, KREA, *FORMS[to])
    assert oracle.differing(oracle.read(out), expected) == []
    assert report.run.bytes_read == sum(array.nbytes for array in expected.values())
    back = tmp_path / "back.safetensors"
    submerge.convert(out, back, layout=form)
    assert oracle.data(back) == oracle.data(submerge_same(model, tmp_path))


def submerge_same(model: Path, tmp: Path) -> Path:
    """The same model as submerge orders it in a file."""
    out = tmp / "same.safetensors"
    submerge.convert(model, out)
    return out


def test_an_all_in_one_file_keeps_its_other_models(tmp_path: Path) -> None:
    schnell = factory.save_comfy(tmp_path / "schnell.safetensors", SCHNELL)
    krea = factory.save_file(tmp_path / "krea.safetensors", KREA)
    out = tmp_path / "out.safetensors"
    report = submerge.merge(recipe({"schnell": str(schnell), "krea": str(krea)}, alpha=0.3), out)
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    expected = oracle.from_diffusers(expected, KREA, "bfl", COMFY) | factory.extras()
    note = (
        "carried along from `schnell` as they are: `text_encoders` (2 tensors), `vae` (2 tensors)"
    )
    assert note in report.summary["notes"]
    assert oracle.differing(oracle.read(out), expected) == []


def test_an_export_carries_the_other_models_of_the_file(tmp_path: Path) -> None:
    path = factory.save_comfy(tmp_path / "all.safetensors", KREA)
    out = tmp_path / "out.safetensors"
    report = submerge.export_merged_model(path, out, "f16")
    expected = factory.tensors(KREA, "bfl", COMFY)
    expected = {name: array.astype(np.float16) for name, array in expected.items()}
    assert oracle.differing(oracle.read(out), expected | factory.extras()) == []
    assert report.summary["unused"] == []
    for target, layout in (("bfl.safetensors", "bfl"), ("folder", "auto")):
        with pytest.raises(RecipeError, match="has 4 tensors outside the transformer") as caught:
            submerge.export_merged_model(path, tmp_path / target, layout=layout)
        assert "`extras: drop`" in str(caught.value.hint)
        dropped = submerge.export_merged_model(
            path, tmp_path / target, layout=layout, extras="drop"
        )
        (unused,) = dropped.summary["unused"]
        assert sorted(unused["tensors"]) == sorted(factory.extras())
    alone = submerge.export_merged_model(path, tmp_path / "alone.safetensors", extras="drop")
    assert alone.summary["layout"] == "bfl"


@pytest.mark.parametrize("limit", [300_000, 60_000_000])
def test_a_folder_is_what_diffusers_would_save(tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    fields = {"alpha": 0.3, "output": {"layout": "diffusers", "shard_size": limit}}
    report = submerge.merge(recipe(saved(tmp_path, "bfl"), **fields), out)
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    assert oracle.differing(oracle.read_folder(out), expected) == []
    assert json.loads((out / "config.json").read_text()) == factory.config(KREA)
    files = {path.name: path.stat().st_size for path in out.glob("*.safetensors")}
    assert report.files == files
    assert (len(files) > 1) == (limit < sum(array.nbytes for array in expected.values()))
    assert {path.suffix for path in out.iterdir()} <= {".safetensors", ".json", ".md", ""}


def test_a_pipeline_has_its_other_parts(tmp_path: Path) -> None:
    schnell = factory.save_pipeline(tmp_path / "schnell", SCHNELL)
    krea = factory.save_pipeline(tmp_path / "krea", KREA, shards=3)
    out = tmp_path / "out"
    output = {"pipeline_from": "krea", "scheduler_from": "schnell", "link": "link"}
    submerge.merge(
        recipe({"schnell": str(schnell), "krea": str(krea)}, alpha=0.3, output=output), out
    )
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    assert oracle.differing(oracle.read_folder(out / "transformer"), expected) == []
    for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        for path in (krea / part).iterdir():
            assert (out / part / path.name).read_bytes() == path.read_bytes()
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert (out / weights).samefile(krea / weights)
    scheduler = "scheduler/scheduler_config.json"
    assert (out / scheduler).read_bytes() == (schnell / scheduler).read_bytes()
    assert submerge.inspect(out) is not None


@pytest.mark.parametrize(("stream", "ff"), [("img", "ff"), ("txt", "ff_context")])
def test_the_report_agrees_with_numpy(tmp_path: Path, stream: str, ff: str) -> None:
    report = submerge.merge(recipe(saved(tmp_path), alpha=0.3), tmp_path / "out.safetensors")
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    names = [
        f"transformer_blocks.1.{ff}.net.{i}.{kind}"
        for i in ("0.proj", "2")
        for kind in ("weight", "bias")
    ]
    flat = {
        who: np.concatenate([arrays[n].astype(np.float64).ravel() for n in names])
        for who, arrays in {**PARENTS, "out": expected}.items()
    }
    (row,) = [r for r in report.rows if (r.block, r.stream, r.part) == ("double.1", stream, "mlp")]
    (pair,) = row.pairs
    assert row.formulas == ("0.70 * schnell + 0.30 * krea",)
    assert row.elements == flat["out"].size
    # The model that was named first is the one the others are measured against.
    assert (pair.first, pair.second) == ("schnell", "krea")
    assert row.changed == int((flat["out"] != flat["krea"]).sum())
    a, b = flat["schnell"], flat["krea"]
    cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    assert pair.cosine == pytest.approx(cosine, abs=1e-7)
    relative = math.sqrt(float((b - a) @ (b - a)) / float(a @ a))
    assert pair.relative_l2 == pytest.approx(relative, rel=1e-6)
    data = json.loads(report.to_json())
    assert data["run"]["bytes_written"] == (tmp_path / "out.safetensors").stat().st_size
    assert sum(row["elements"] for row in data["rows"]) == sum(a.size for a in expected.values())
    assert {row["stream"] for row in data["rows"] if "double" in row["block"]} == {"img", "txt"}
    assert {row["stream"] for row in data["rows"] if "double" not in row["block"]} == {""}


def test_an_output_verifies_and_says_where_it_came_from(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    made = recipe(saved(tmp_path), alpha=0.3)
    submerge.merge(made, out)
    facts = oracle.metadata(out)
    assert facts["format"] == "pt"
    assert json.loads(facts["submerge.recipe"])["models"] == {"schnell": "schnell", "krea": "krea"}
    assert str(tmp_path) not in json.dumps(facts)
    submerge.verify(out, recipe=made).require()
    changed = bytearray(out.read_bytes())
    changed[-1] ^= 1
    out.write_bytes(changed)
    found = submerge.verify(out, recipe=made)
    assert [check.name for check in found.checks if not check.passed] == ["recipe"]


def test_two_models_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    made = submerge.merge_flux_models(models["schnell"], models["krea"], {"alpha": 0.3})
    assert made.path.name == "schnell-krea"
    expected = oracle.merged(PARENTS, shares({}, 0.3), "BF16")
    assert oracle.differing(oracle.read_folder(tmp_path / made.path), expected) == []
    assert made.recipe.to_dict()["method"] == {"linear": {"alpha": 0.3}}
    named = submerge.merge_flux_models(
        models["schnell"], models["krea"], {"alpha": 0.3, "output_path": tmp_path / "o.safetensors"}
    )
    assert oracle.differing(oracle.read(named.path), expected) == []


def test_a_difference_counts_what_differs(tmp_path: Path) -> None:
    models = saved(tmp_path)
    arrays = dict(PARENTS["schnell"])
    changed = arrays["x_embedder.weight"].copy()
    changed[3, 5] += 1
    other = factory.write(tmp_path / "b.safetensors", {**arrays, "x_embedder.weight": changed})
    assert submerge.diff(models["schnell"], models["schnell"]).equal
    found = submerge.diff(models["schnell"], other)
    assert not found.equal
    assert [(row.part, row.changed) for row in found.rows if row.changed] == [("embed", 1)]
    assert found.total().elements == sum(array.size for array in arrays.values())


def test_models_of_two_architectures_are_no_pair(tmp_path: Path) -> None:
    models = saved(tmp_path)
    deeper = factory.save_file(tmp_path / "deep.safetensors", replace(KREA, double=3))
    with pytest.raises(LayoutError, match="double 2 and 3"):
        submerge.merge(recipe({**models, "krea": str(deeper)}), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
