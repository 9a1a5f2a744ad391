"""`submerge lora`, `--lora`, and what is said of adapters in plans, cards and documents."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click
import jsonschema
import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import KREA, SCHNELL, Array
from fusing import WIDE, assert_close, expected, weights
from submerge import documents, lora
from submerge.checkpoint import open_checkpoint
from submerge.cli import app
from submerge.documents import AdapterDocument
from submerge.lora import bake, info
from submerge.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

TRAINED_ON = "/home/somebody/flux1-dev.sft"
QKV, OUT = "double_blocks.0.img_attn.qkv", "single_blocks.1.linear2"


def run(*arguments: object) -> Any:
    return app.main(args=[str(a) for a in arguments], prog_name="submerge", standalone_mode=False)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    found = files.pairs(KREA, [QKV, OUT], layout="bfl")
    metadata = {
        "ss_network_module": "networks.lora_flux",
        "ss_sd_model_name": "/home/somebody/flux1-dev.sft",
    }
    return files.save(tmp_path / "style.safetensors", files.kohya(found, 2.0), metadata)


def deltas() -> dict[str, Array]:
    found = files.pairs(KREA, [QKV, OUT], layout="bfl")
    dense = weights({module: files.product(pair, 0.5) for module, pair in found.items()})
    return files.in_diffusers(KREA, dense)


def model(folder: Path, name: str = "krea", flux: factory.Flux = KREA) -> Path:
    return factory.save_file(folder / f"{name}.safetensors", flux)


@pytest.mark.parametrize("layout", [None, "diffusers", "bfl"])
def test_info_measures_every_part(tmp_path: Path, style: Path, layout: str | None) -> None:
    base = None
    if layout is not None:
        base = factory.save_file(tmp_path / "m.safetensors", KREA, layout)
    found = info(style, base)
    added = deltas()
    if base is None:
        # The sizes of FLUX.1 [dev] are not those of a tiny model.
        assert found.problem is not None
        assert "expected [4, 3072], got [4, 64]; and 3 more" in found.problem
        assert all(math.isnan(row.norm) for row in found.rows)
        return
    assert found.problem is None
    assert found.kind == "LoRA, kohya names, 2 modules, rank 4"
    assert (found.trainer, found.trained_on) == (
        "sd-scripts (networks.lora_flux)",
        "/home/somebody/flux1-dev.sft",
    )
    rows = {(row.block, row.stream, row.part): row for row in found.rows}
    assert set(rows) == {
        *(("double.0", "img", f"attn.{part}") for part in "qkv"),
        ("single.1", "", "out"),
    }
    tensors = factory.tensors(KREA)
    for key, name in (
        (("double.0", "img", "attn.k"), "transformer_blocks.0.attn.to_k.weight"),
        (("single.1", "", "out"), "single_transformer_blocks.1.proj_out.weight"),
    ):
        norm = float(np.linalg.norm(added[name]))
        of = float(np.linalg.norm(files.wide(tensors[name])))
        assert rows[key].norm == pytest.approx(norm, rel=1e-4)
        assert rows[key].relative == pytest.approx(norm / of, rel=1e-4)
        assert (rows[key].ranks, rows[key].alphas, rows[key].scales) == ((4,), (2.0,), (0.5,))
    whole = math.sqrt(sum(float((a * a).sum()) for a in added.values()))
    assert found.total().norm == pytest.approx(whole, rel=1e-4)


def test_norms_without_a_model_are_those_of_the_products(tmp_path: Path) -> None:
    module = "single_blocks.7.modulation.lin"
    up, down = files.draw("u", 9216, 2), files.draw("d", 2, 3072)
    path = files.save(tmp_path / "s.safetensors", files.kohya({module: (up, down)}, 1.0))
    (row,) = info(path).rows
    gram = (files.wide(up).T @ files.wide(up)) @ (files.wide(down) @ files.wide(down).T)
    assert row.norm == pytest.approx(0.5 * math.sqrt(np.trace(gram)), rel=1e-6)
    assert math.isnan(row.relative)


def test_where_the_shapes_do_not_fit_no_scale_is_told(tmp_path: Path, style: Path) -> None:
    alone = info(style)
    assert alone.problem is not None
    assert {(row.ranks, row.alphas, row.scales) for row in alone.rows} == {((4,), (2.0,), ())}
    assert {row.scales for row in info(style, model(tmp_path)).rows} == {(0.5,)}


def test_alphas_of_a_configuration_are_told(tmp_path: Path) -> None:
    modules = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_mlp"]
    arrays = files.diffusers(files.pairs(KREA, modules, 4))
    metadata = files.peft_metadata(r=4, lora_alpha=8, alpha_pattern={modules[1]: 2})
    path = files.save(tmp_path / "s.safetensors", arrays, metadata)
    double, single = info(path, model(tmp_path)).rows
    assert (double.alphas, double.scales, single.alphas, single.scales) == (
        (8,), (2.0,), (2,), (0.5,)
    )  # fmt: skip
    assert info(path).trainer == "peft"
    lora.resize(path, tmp_path / "r.safetensors", rank=2, base=model(tmp_path))
    assert info(tmp_path / "r.safetensors").trainer == "submerge"


def test_the_document_has_its_schema_and_is_read_back(tmp_path: Path, style: Path) -> None:
    found = info(style, model(tmp_path))
    schema = json.loads(documents.published("adapter"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(found.to_json()))
    (tmp_path / "a.json").write_text(found.to_json())
    held = documents.read(AdapterDocument, tmp_path / "a.json")
    assert held["rows"][0]["norm"] == pytest.approx(found.rows[0].norm)
    plain = json.loads(info(style).to_json())
    jsonschema.Draft202012Validator(schema).validate(plain)
    assert plain["norm"] is None


def test_what_does_not_fit_is_listed_by_info(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = files.pairs(KREA, [QKV, "guidance_in.in_layer"], layout="bfl")
    arrays = files.kohya(found, None) | {"lora_te1_x.alpha": np.ones((), dtype="f4")}
    path = files.save(tmp_path / "s.safetensors", arrays)
    assert run("lora", "info", path, "--base", model(tmp_path, "schnell", SCHNELL)) == 0
    said = capsys.readouterr().out
    assert "2 keys: `lora_unet_guidance_in_in_layer.lora_down.weight`" in said
    assert "(this model has no guidance embedder)" in said
    assert "elsewhere:  1 key for text encoder (CLIP)" in said
    picture = tmp_path / "s.svg"
    krea = model(tmp_path)
    assert run("lora", "info", path, "--base", krea, "--heatmap", picture, "--json") == 0
    assert json.loads(capsys.readouterr().out)["unmatched"] == {}
    assert picture.read_text().startswith("<svg")
    assert "relative" in picture.read_text()


def test_bake_on_the_command_line(tmp_path: Path, style: Path) -> None:
    krea, out = model(tmp_path, flux=WIDE), tmp_path / "out.safetensors"
    run("lora", "bake", krea, f"{style}=0.5", f"{style}=0..1", "-o", out, "-q")
    found = factory.read(out)
    added = deltas()
    both = {
        name: array * (0.5 + (1.0 if name.startswith("single") else 0.0))
        for name, array in added.items()
    }
    assert_close(found, expected(WIDE, both))
    run("convert", krea, "-o", tmp_path / "c.safetensors", "--lora", f"{style}=0.5", "-q")
    bake(krea, [{"path": str(style), "scale": 0.5}], tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_bake_of_a_pipeline_takes_the_rest_over(tmp_path: Path, style: Path) -> None:
    folder = factory.save_pipeline(tmp_path / "krea", KREA)
    bake(folder, [str(style)], tmp_path / "baked")
    for path in folder.rglob("*"):
        if path.is_file() and "transformer" not in path.parts:
            taken = tmp_path / "baked" / path.relative_to(folder)
            if path.name != "model_index.json":
                assert taken.read_bytes() == path.read_bytes()
    found = factory.read(tmp_path / "baked/transformer/diffusion_pytorch_model.safetensors")
    for name, array in expected(KREA, deltas()).items():
        limit = 2.0**-8 * (np.abs(array) + 1e-3)
        assert (np.abs(files.wide(found[name]) - array) <= limit).all(), name
    bake(folder, [str(style)], tmp_path / "one.safetensors")
    assert len(factory.read(tmp_path / "one.safetensors")) == len(found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", {}),
        ("{}=0.8", {"scale": 0.8}),
        ("{}=-1", {"scale": -1.0}),
        ("{}=0.1..0.9", {"scale": {"from": 0.1, "to": 0.9}}),
        ("{}@krea", {"onto": "krea"}),
        ("{}=0.8@schnell", {"onto": "schnell", "scale": 0.8}),
    ],
)
@pytest.mark.parametrize("name", ["s.safetensors", "a=1@krea.safetensors"])
def test_adapters_on_the_command_line(
    tmp_path: Path, text: str, wanted: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = files.pairs(KREA, [QKV], layout="bfl")
    files.save(tmp_path / name, files.kohya(found, None))
    model(tmp_path, "schnell", SCHNELL)
    model(tmp_path)
    monkeypatch.chdir(tmp_path)
    parents = ("schnell.safetensors", "krea.safetensors")
    run("merge", *parents, "--lora", text.format(name), "-o", "out.safetensors", "-q")
    metadata = open_checkpoint(tmp_path / "out.safetensors").files[0].metadata
    kept = json.loads(metadata["submerge.recipe"])["adapters"]
    label = name.removesuffix(".safetensors")
    assert kept == [{"path": label, **wanted} if wanted else label]


@pytest.mark.parametrize("text", ["s.safetensors=x", "s.safetensors=1..y"])
def test_a_strength_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"expected NUMBER or FROM\.\.TO after `=`"):
        run("lora", "bake", model(tmp_path), text, "-o", tmp_path / "out.safetensors")


def test_diff_and_analyze_see_adapters(tmp_path: Path, style: Path) -> None:
    krea = model(tmp_path, flux=WIDE)
    other = factory.save_file(tmp_path / "other.safetensors", WIDE, "bfl")
    found = submerge.diff(krea, other, adapters=[{"path": str(style), "scale": 0.5}])
    assert submerge.diff(krea, other).equal
    parts = {(row.block, row.stream, row.part): row for row in found.rows}
    added = deltas()
    tensors = factory.tensors(WIDE)
    name = "transformer_blocks.0.attn.to_q.weight"
    changed = parts["double.0", "img", "attn.q"]
    delta = float((added[name] ** 2).sum()) * 0.25
    whole = sum(
        float((files.wide(tensors[n]) ** 2).sum()) for n in (name, name.replace(".weight", ".bias"))
    )
    (pair,) = changed.pairs
    assert pair.relative_l2 == pytest.approx(math.sqrt(delta / whole), rel=1e-5)
    assert parts["double.1", "img", "attn.q"].changed == 0
    assert "`style` onto `other`: LoRA, kohya names, 2 modules, rank 4" in found.notes
    seen = submerge.analyze(krea, other, adapters=[{"path": str(style), "onto": "krea"}])
    rows = {(row.block, row.stream, row.part): row.sums for row in seen.rows}
    assert rows["single.1", "", "out"].delta2 == pytest.approx(
        float((added["single_transformer_blocks.1.proj_out.weight"] ** 2).sum()), rel=1e-5
    )
    with pytest.raises(submerge.RecipeError, match="no model is called `dev`"):
        submerge.diff(krea, other, adapters=[{"path": str(style), "onto": "dev"}])


def test_verbs_of_python_take_adapters(tmp_path: Path, style: Path) -> None:
    paths = model(tmp_path, "schnell", SCHNELL), model(tmp_path)
    source = {"path": str(style), "onto": "krea"}
    for name, config, more in (
        ("one", {"adapters": [source]}, []),
        ("two", {}, [source]),
    ):
        output = tmp_path / f"{name}.safetensors"
        submerge.merge_flux_models(*paths, {"output_path": str(output), **config}, adapters=more)
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()


def test_a_plan_a_card_and_metadata_name_the_adapters(tmp_path: Path, style: Path) -> None:
    schnell = factory.save_folder(tmp_path / "schnell", SCHNELL)
    recipe = {"models": {"schnell": str(schnell)}, "adapters": [{"path": str(style), "scale": 0.8}]}
    made = submerge.plan(recipe, tmp_path / "out")
    said = made.describe()
    kind = "LoRA, kohya names, 2 modules, rank 4"
    assert f"adapter   style: style, {kind}, onto schnell" in said
    assert "result = schnell + 0.80 * style" in said
    report = submerge.merge(recipe, tmp_path / "out")
    dev = "flux-1-dev-non-commercial-license"
    assert report.summary["adapters"] == [
        {
            "name": "style",
            "label": "style",
            "kind": kind,
            "onto": "schnell",
            "license": f"{dev} (trained on `flux1-dev`)",
            "contributes": True,
        }
    ]
    # The adapter's terms restrict what is made with it.
    assert report.summary["license"] == f"{dev} (from style)"
    card = (tmp_path / "out/README.md").read_text()
    assert f"| `style` | style | schnell | {kind} | {dev} (trained on `flux1-dev`) |" in card
    assert "schnell with style, made with submerge:" in card
    assert "style: flux-1-dev" in (tmp_path / "out/NOTICE").read_text()
    (weights_file,) = (tmp_path / "out").glob("*.safetensors")
    metadata = open_checkpoint(weights_file).files[0].metadata
    inputs = json.loads(metadata["submerge.inputs"])
    assert [entry["name"] for entry in inputs] == ["schnell", "style"]
    assert inputs[1]["adapter"] == "style"
    assert inputs[1]["tensors"] == 6
    assert len(inputs[1]["names_and_shapes_sha256"]) == 64
    assert metadata["modelspec.merged_from"] == "schnell, style"
    # No path of anybody's machine goes into what is passed on.
    assert all("somebody" not in text for text in (card, *metadata.values()))
    # The recipe in the output finds its adapter beside it again.
    again = Recipe.load(tmp_path / "out")
    assert again.adapters[0].path == str(style)
    assert submerge.verify(tmp_path / "out", recipe=again).passed


def test_a_stated_licence_cannot_loosen_what_is_known(tmp_path: Path, style: Path) -> None:
    source = {"path": str(style), "license": "apache-2.0"}
    recipe = {"models": {"m": str(model(tmp_path))}, "adapters": [source]}
    with pytest.raises(submerge.RecipeError, match=r"recipe\.adapters\[0\]\.license: `apache-2.0`"):
        submerge.plan(recipe, tmp_path / "out.safetensors")


def test_adapters_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = files.kohya(files.pairs(KREA, [QKV], layout="bfl"), None)
    paths = [files.save(tmp_path / n / "pytorch_lora_weights.safetensors", found) for n in "ab"]
    again = files.save(tmp_path / "krea.safetensors", found)
    base = model(tmp_path / "models")
    recipe = {
        "models": {"krea": str(base)},
        "adapters": [str(p) for p in (*paths, paths[0], again)],
    }
    made = submerge.plan(recipe, tmp_path / "out.safetensors")
    assert [a.name for a in made.about.adapters] == ["a", "b", "a-2", "krea-2"]
    assert "krea + a + b + a-2 + krea-2" in [words for words, _ in made.formulas]


def test_eight_adapters_on_a_full_model_are_all_in_the_plan(tmp_path: Path) -> None:
    """On the 1,160 tensors of a full model; what it takes is in benches/LORA.md."""
    base = factory.save_sparse(tmp_path / "dev.safetensors")
    modules = [
        name.removesuffix(".weight")
        for name, shape in factory.shapes_of(factory.REAL, "bfl").items()
        if len(shape) == 2
    ]
    paths = []
    for index in range(8):
        found = files.pairs(factory.REAL, modules, 1, "bfl") if index == 0 else {}
        paths.append(tmp_path / f"{index}.safetensors")
        if index == 0:
            files.save(paths[0], files.kohya(found, 8.0))
        else:
            paths[index].hardlink_to(paths[0])
    recipe = {"models": {"dev": str(base)}, "adapters": [str(path) for path in paths]}
    plan = submerge.plan(recipe, tmp_path / "out")
    adapted = [unit for unit in plan.units if len(unit.operands[0]) > 1]
    # The base and eight products, at every matrix; the final modulation is two units, its halves.
    assert {len(unit.operands[0]) for unit in adapted} == {9}
    shapes = factory.shapes_of(factory.REAL, "diffusers").values()
    assert len(adapted) == sum(len(shape) == 2 for shape in shapes) + 1


def test_pictures_need_something_measured_and_a_known_ending(tmp_path: Path, style: Path) -> None:
    with pytest.raises(submerge.AdapterError, match="nothing was measured"):
        info(style).heatmap(tmp_path / "s.svg")
    found = info(style, model(tmp_path))
    with pytest.raises(submerge.RecipeError, match=r"ending in \.svg or \.png, got `\.pdf`"):
        found.heatmap(tmp_path / "s.pdf")
    assert found.heatmap(tmp_path / "s.svg").read_text().startswith("<svg")
    with pytest.raises(click.BadParameter, match=r"ending in \.svg or \.png"):
        run("lora", "info", style, "--heatmap", "s.pdf")


@pytest.mark.parametrize("raw", [3, ["a"], None])
def test_an_adapter_is_a_path_or_a_mapping(raw: Any) -> None:
    models = {"a": "a.safetensors", "b": "b.safetensors"}
    with pytest.raises(submerge.RecipeError, match=r"recipe\.adapters\[0\]: expected a path or"):
        Recipe.load({"models": models, "adapters": [raw]})
