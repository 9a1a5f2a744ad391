"""ComfyUI workflows: which way ratios point, what is read and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flux_units import flux_units
from submerge.errors import RecipeError
from submerge.recipe import Recipe
from submerge.recipe.importers import import_recipe
from workflows import graph, loader, shares

DATA = Path(__file__).parent / "data" / "recipes"
KREA, SCHNELL = "flux1-krea-dev", "flux1-schnell"
MERGE = "ModelMergeSimple"


def node(kind: str, one: str, two: str, **numbers: object) -> dict[str, Any]:
    return {"class_type": kind, "inputs": {"model1": [one, 0], "model2": [two, 0], **numbers}}


@pytest.mark.parametrize("name", ["comfy-api.json", "comfy-workflow.json"])
def test_a_flux_merge_is_read_with_the_ratio_turned_round(name: str) -> None:
    recipe, notes = import_recipe(DATA / name)
    assert {found: source.path for found, source in recipe.models.items()} == {
        KREA: "flux1-krea-dev.safetensors",
        SCHNELL: "FLUX1/flux1-schnell.safetensors",
    }
    # ComfyUI: ratio * model1 + (1 - ratio) * model2, model1 being Krea.
    expected = {
        "embed.img.weight": 0.5,
        "embed.txt.bias": 0.5,
        "embed.time.out.weight": 0.75,
        "embed.vector.in.bias": 0.75,
        "guidance.in.weight": 0.0,
        "double.0.img.attn.q.weight": 0.3,
        "double.7.txt.norm.k.weight": 0.3,
        "double.8.img.mod.bias": 0.65,
        "double.18.txt.mlp.out.weight": 0.65,
        "single.0.attn.v.weight": 0.6,
        "single.11.out.bias": 0.6,
        "single.12.mod.weight": 0.95,
        "single.13.mod.weight": 0.6,
        "single.37.mlp.in.weight": 0.1,
        "final.linear.weight": 1.0,
        "final.mod.shift.bias": 1.0,
    }
    rows = shares(recipe)
    assert {unit: rows[unit][SCHNELL] for unit in expected} == expected
    assert {unit: rows[unit][KREA] for unit in expected} == {
        unit: 1.0 - share for unit, share in expected.items()
    }
    assert any(
        "alpha = 1 - ratio, so the ratio 0.7 of double block 0 became alpha 0.3" in n for n in notes
    )
    assert any("loads `FLUX1/flux1-schnell.safetensors` as fp8_e4m3fn" in note for note in notes)
    assert any("guidance" in note for note in notes)


def test_both_formats_are_one_recipe() -> None:
    api, workflow = (import_recipe(DATA / f"comfy-{name}.json")[0] for name in ("api", "workflow"))
    assert api == workflow


def test_runs_of_blocks_are_written_together() -> None:
    recipe, _ = import_recipe(DATA / "comfy-api.json")
    assert recipe.to_dict()["method"]["linear"]["alpha"] == {
        "embed.img": 0.5,
        "embed.time": 0.75,
        "embed.vector": 0.75,
        "embed.txt": 0.5,
        "double[0:8]": 0.3,
        "double[8:19]": 0.65,
        "single[0:12]": 0.6,
        "single[12]": 0.95,
        "single[13:37]": 0.6,
        "single[37]": 0.1,
        "final": 1.0,
        "default": 0.0,
    }


def test_an_import_applies_to_models_without_guidance() -> None:
    recipe, _ = import_recipe(DATA / "comfy-api.json")
    assert len(shares(recipe, flux_units(guidance=False))) == 1158


def test_a_simple_merge_is_one_number() -> None:
    recipe, notes = import_recipe(graph(m=node(MERGE, "a", "b", ratio=0.7)))
    assert recipe == Recipe.load(
        {"models": {"a": "a.safetensors", "b": "b.safetensors"}, "alpha": 0.3}
    )
    assert notes[0].startswith("direction: node m (`ModelMergeSimple`) gives model1's share")


def test_the_blocks_node_knows_only_its_first_slider_on_flux() -> None:
    text = graph(m=node("ModelMergeBlocks", "a", "b", input=0.25, middle=0.5, out=0.75))
    recipe, notes = import_recipe(text)
    assert {row["b"] for row in shares(recipe).values()} == {0.75}
    assert any("knows no FLUX blocks" in note for note in notes)


def test_chained_merges_are_one_weighted_sum() -> None:
    text = graph(
        c=loader("c.safetensors"),
        m=node(MERGE, "a", "b", ratio=0.4),
        n=node(MERGE, "m", "c", ratio=0.5),
    )
    recipe, _ = import_recipe(text)
    assert recipe.to_dict()["method"] == {"linear": {"weight": {"a": 0.2, "b": 0.3, "c": 0.5}}}


def test_differences_are_added() -> None:
    text = graph(
        c=loader("c.safetensors"),
        d=node("ModelSubtract", "b", "c", multiplier=0.8),
        s=node("ModelAdd", "a", "d"),
    )
    recipe, _ = import_recipe(text)
    row = shares(recipe)["single.3.out.weight"]
    assert row == {"a": 1.0, "b": 0.8, "c": -0.8}
    assert recipe.to_dict()["method"] == {"linear": {"weight": {"a": 1.0, "b": 0.8, "c": -0.8}}}


def test_sums_other_than_one_are_not_normalised() -> None:
    recipe, _ = import_recipe(graph(s=node("ModelAdd", "a", "b")))
    assert shares(recipe)["final.linear.bias"] == {"a": 1.0, "b": 1.0}


def test_one_file_loaded_twice_is_one_model() -> None:
    text = graph(
        c=loader("a.safetensors"),
        m=node(MERGE, "a", "b", ratio=0.5),
        n=node(MERGE, "m", "c", ratio=0.5),
    )
    recipe, _ = import_recipe(text)
    assert shares(recipe)["embed.img.bias"] == {"a": 0.75, "b": 0.25}


def test_equal_file_names_in_two_folders_get_two_names() -> None:
    text = json.dumps(
        {
            "1": loader("x/flux 1.safetensors"),
            "2": loader("y\\flux 1.safetensors"),
            "3": loader("9.safetensors"),
            "4": node(MERGE, "1", "2", ratio=0.5),
            "5": node(MERGE, "4", "3", ratio=0.5),
        }
    )
    assert list(import_recipe(text)[0].models) == ["flux-1", "flux-1-2", "model-9"]


def test_nodes_that_change_no_weights_are_passed_and_noted() -> None:
    sampling = {"class_type": "ModelSamplingFlux", "inputs": {"model": ["a", 0], "max_shift": 1.15}}
    recipe, notes = import_recipe(graph(s=sampling, m=node(MERGE, "s", "b", ratio=0.5)))
    assert list(recipe.models) == ["a", "b"]
    assert "not carried over: node s (`ModelSamplingFlux`) changes no weights" in notes


def test_a_bypassed_merge_hands_its_first_model_on() -> None:
    data = json.loads((DATA / "comfy-workflow.json").read_text())
    second = next(found for found in data["nodes"] if found["id"] == 12) | {"id": 20, "mode": 4}
    merge = {
        "id": 21,
        "type": MERGE,
        "mode": 0,
        "inputs": [{"name": "model1", "link": 30}, {"name": "model2", "link": 21}],
        "widgets_values": [0.5],
    }
    links = [*data["links"], {"id": 30, "origin_id": 20, "origin_slot": 0}]
    keep = [found for found in data["nodes"] if found["id"] != 12]
    recipe, notes = import_recipe(
        json.dumps(data | {"nodes": [*keep, second, merge], "links": links})
    )
    assert shares(recipe)["double.0.img.mod.bias"] == {KREA: 0.5, SCHNELL: 0.5}
    assert any("is bypassed" in note for note in notes)


def test_the_merge_to_read_can_be_named() -> None:
    text = graph(m=node(MERGE, "a", "b", ratio=1), n=node(MERGE, "a", "b", ratio=0))
    assert shares(import_recipe(text, node="n")[0])["embed.img.bias"] == {"a": 0.0, "b": 1.0}


LORA = {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["a", 0], "lora_name": "x"}}
SUM = {"class_type": "MathExpression", "inputs": {"expression": "1/3"}}
COMFY_REFUSED: dict[str, tuple[str, str]] = {
    "no workflow": ('{"a": 1}', "expected a ComfyUI workflow, got a mapping of 1 key"),
    "no JSON": ("{", "preset:1:2: not JSON"),
    "no merge": (graph(), "no merge of FLUX.1 models, expected one of `ModelMergeFlux1`"),
    "two merges": (
        graph(m=node(MERGE, "a", "b", ratio=1), n=node(MERGE, "b", "a", ratio=1)),
        "2 merges that no other merge uses, expected 1: node m (`ModelMergeSimple`), node n",
    ),
    "lora": (
        graph(l=LORA, m=node(MERGE, "l", "b", ratio=1)),
        "node l (`LoraLoaderModelOnly`) changes or makes a model, expected loaders and merges only",
    ),
    "missing slider": (
        graph(m=node("ModelMergeFlux1", "a", "b", **{"img_in.": 1})),
        "node m (`ModelMergeFlux1`): `time_in.` is missing, expected a number",
    ),
    "unknown slider": (
        graph(m=node("ModelMergeFlux1", "a", "b", **{"blocks.0.": 1})),
        "node m (`ModelMergeFlux1`) has unknown inputs: 1 input: `blocks.0.`",
    ),
    "computed": (
        graph(x=SUM, m=node(MERGE, "a", "b", ratio=["x", 0])),
        "`ratio` comes from node x (`MathExpression`), expected a number",
    ),
    "text": (
        graph(m=node(MERGE, "a", "b", ratio="0.5")),
        "`ratio`: expected a number, got the text `0.5`",
    ),
    "unconnected": (
        json.dumps({"m": {"class_type": MERGE, "inputs": {"ratio": 1}}}),
        "node m (`ModelMergeSimple`): `model1` is not connected, expected a model",
    ),
    "dangling": (
        graph(m=node(MERGE, "a", "z", ratio=1)),
        "a link leads to node `z`, which is not there",
    ),
    "circle": (
        graph(
            m=node(MERGE, "a", "n", ratio=1),
            n=node(MERGE, "m", "b", ratio=1),
            o=node(MERGE, "n", "b", ratio=1),
        ),
        "more than 100 nodes in a row, or a circle",
    ),
    "no file": (
        json.dumps({"a": loader(""), "m": node(MERGE, "a", "a", ratio=1)}),
        "node a (`UNETLoader`) names no file, expected `unet_name`",
    ),
    "widget count": (
        json.dumps(
            {
                "nodes": [{"id": 1, "type": "ModelMergeFlux1", "widgets_values": [1] * 60}],
                "links": [],
            }
        ),
        "node 1 (`ModelMergeFlux1`): expected 63 widget values, got 60",
    ),
    "broken workflow": (
        json.dumps({"nodes": [{"id": 1}], "links": []}),
        "nodes[0].type: missing, expected it to be given",
    ),
    "muted": (
        json.dumps(
            {
                "nodes": [
                    {"id": 1, "type": "UNETLoader", "mode": 2, "widgets_values": ["a", "default"]},
                    {
                        "id": 2,
                        "type": MERGE,
                        "inputs": [{"name": "model1", "link": 1}, {"name": "model2", "link": 1}],
                        "widgets_values": [0.5],
                    },
                ],
                "links": [[1, 1, 0, 2, 0, "MODEL"]],
            }
        ),
        "node 1 (`UNETLoader`) is muted, but a merge needs its model",
    ),
}


@pytest.mark.parametrize("name", COMFY_REFUSED)
def test_what_a_recipe_cannot_say_is_refused(name: str) -> None:
    text, message = COMFY_REFUSED[name]
    with pytest.raises(RecipeError) as caught:
        import_recipe(text)
    assert message in caught.value.message
    assert caught.value.message.startswith("preset:")


def test_a_lora_comes_with_advice() -> None:
    with pytest.raises(RecipeError) as caught:
        import_recipe(COMFY_REFUSED["lora"][0])
    assert "bypass the LoRA" in str(caught.value.hint)


def taker(kind: str, source: str, **inputs: object) -> dict[str, Any]:
    """A node that takes a model."""
    return {"class_type": kind, "inputs": {"model": [source, 0], **inputs}}


SAMPLER = taker("KSampler", "l", seed=1)
# What stands between the merge `m` and the sampler, and the node that is named.
CHANGED: dict[str, dict[str, Any]] = {
    "a LoRA": {"l": taker("LoraLoader", "m"), "k": SAMPLER},
    "a LoRA that nothing samples": {"l": taker("LoraLoaderModelOnly", "m")},
    "a LoRA behind a shift": {"s": taker("ModelSamplingFlux", "m"), "l": taker("LoraLoader", "s")},
    "a LoRA stack of others": {"l": taker("CR Apply LoRA Stack", "m"), "k": SAMPLER},
    "a patch that nobody knows": {"l": taker("FreeU_V2", "m"), "k": SAMPLER},
    "a merge that nobody knows": {"l": taker("ModelMergeAuraflow", "m")},
    "a LoRA behind a name": {
        "s": {"class_type": "SetNode", "inputs": {"MODEL": ["m", 0], "name": "x"}},
        "g": {"class_type": "GetNode", "inputs": {"name": "x"}},
        "l": taker("LoraLoader", "g"),
    },
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_the_merge_afterwards_is_refused(name: str) -> None:
    text = graph(m=node(MERGE, "a", "b", ratio=1), **CHANGED[name])
    with pytest.raises(RecipeError) as caught:
        import_recipe(text)
    assert re.match(r"preset: node l \(`.*`\) changes the merged model, expected nothing between",
                    caught.value.message)  # fmt: skip
    recipe, notes = import_recipe(text, node="m")
    assert list(recipe.models) == ["a", "b"]
    assert any("node l" in note and "changes the merged model afterwards" in note for note in notes)


def test_a_merge_that_is_saved_stands_for_itself() -> None:
    saved = {"s": taker("ModelSave", "m", filename_prefix="x"), "l": taker("LoraLoader", "m")}
    recipe, notes = import_recipe(graph(m=node(MERGE, "a", "b", ratio=1), **saved))
    assert list(recipe.models) == ["a", "b"]
    assert any("node l (`LoraLoader`) changes the merged model afterwards" in n for n in notes)


def test_who_only_uses_a_merge_is_no_matter() -> None:
    used = {
        "g": taker("BasicGuider", "m"), "k": taker("KSampler", "m"),
        "l": taker("LoraLoader", "a"), "d": taker("KSampler", "l"),
    }  # fmt: skip
    _, notes = import_recipe(graph(m=node(MERGE, "a", "b", ratio=1), **used))
    assert not any("afterwards" in note for note in notes)


@pytest.mark.parametrize("mode", [0, 2, 4])
def test_a_lora_in_the_editors_format(mode: int) -> None:
    data = json.loads((DATA / "comfy-workflow.json").read_text())
    lora = {
        "id": 90, "type": "Power Lora Loader (rgthree)", "mode": mode,
        "inputs": [{"name": "model", "link": 90}], "outputs": [{"name": "MODEL", "type": "MODEL"}],
    }  # fmt: skip
    link = {"id": 90, "origin_id": 12, "origin_slot": 0}
    text = json.dumps(data | {"nodes": [*data["nodes"], lora], "links": [*data["links"], link]})
    if mode == 0:  # it runs: neither muted nor bypassed
        with pytest.raises(RecipeError, match=r"node 90 .* changes the merged model") as caught:
            import_recipe(text)
        assert "bypass the LoRA" in str(caught.value.hint)
    else:
        import_recipe(text)


def test_a_value_that_leads_to_itself_is_refused() -> None:
    loop = {"class_type": "PrimitiveFloat", "inputs": {"value": ["x", 0]}}
    with pytest.raises(RecipeError, match="comes from node x"):
        import_recipe(graph(x=loop, m=node(MERGE, "a", "b", ratio=["x", 0])))
