"""Recipes in the headers of merged checkpoints, and what becomes of their models' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from submerge import lora
from submerge.errors import RecipeError
from submerge.recipe.importers import import_recipe

DATA = Path(__file__).parent / "data"
A, B, C = "a" * 64, "b" * 64, "c" * 64
KNOWN = {
    A: {"name": "flux1-schnell.safetensors", "legacy_hash": None, "sd_merge_recipe": None},
    B: {"name": "sub/flux1-krea-dev.safetensors", "legacy_hash": None, "sd_merge_recipe": None},
    C: {"name": "flux1-dev.safetensors", "legacy_hash": None, "sd_merge_recipe": None},
}


def webui(method: str, multiplier: object = 0.3, **changes: object) -> dict[str, str]:
    """Return metadata as AUTOMATIC1111's checkpoint merger writes it."""
    recipe = {
        "type": "webui",
        "primary_model_hash": A,
        "secondary_model_hash": B,
        "tertiary_model_hash": C,
        "interp_method": method,
        "multiplier": multiplier,
        "save_as_half": False,
        "custom_name": "",
        "config_source": 0,
        "bake_in_vae": "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }
    return {
        "format": "pt",
        "sd_merge_recipe": json.dumps(recipe | changes),
        "sd_merge_models": json.dumps(KNOWN),
    }


def supermerger(**changes: object) -> dict[str, Any]:
    recipe = {
        "type": "sd-webui-supermerger",
        "weights_alpha": None,
        "weights_beta": None,
        "model_a": A,
        "model_b": B,
        "model_c": C,
        "base_alpha": 0.25,
        "base_beta": 0.25,
        "mode": "Weight sum",
        "mbw": False,
        "elemental_merge": [""],
        "calcmode": "normal",
    }
    return {
        "sd_merge_recipe": json.dumps(recipe | changes),
        "sd_merge_models": json.dumps(KNOWN),
    }


def test_a_weighted_sum_in_a_header(tmp_path: Path) -> None:
    path = factory.write(
        tmp_path / "merged.safetensors", {"w": np.ones((2, 2), np.float32)}, webui("Weighted sum")
    )
    recipe, notes = import_recipe(path)
    data = recipe.to_dict()
    assert data["models"] == {
        "flux1-schnell": "flux1-schnell.safetensors",
        "flux1-krea-dev": "sub/flux1-krea-dev.safetensors",
    }
    assert data["method"] == {"linear": {"alpha": 0.3}}
    assert "output" not in data
    said = "\n".join(notes)
    assert "0.7 * flux1-schnell + 0.3 * flux1-krea-dev" in said
    assert f"model A is `flux1-schnell.safetensors`, SHA-256 {A}" in said


def test_merging_the_recipe_gives_the_formula(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    arrays = {m: random.standard_normal((6, 5)).astype(np.float32) for m in "abc"}
    models = {
        m: str(factory.write(tmp_path / f"{m}.safetensors", {"w": x})) for m, x in arrays.items()
    }
    a, b, c = (x.astype(np.float64) for x in arrays.values())
    for method, count, expected in (
        ("Weighted sum", 2, 0.7 * a + 0.3 * b),
        ("Add difference", 3, a + 0.3 * (b - c)),
        ("No interpolation", 1, a),
    ):
        named = {name: models[name] for name in "abc"[:count]}
        recipe, _ = import_recipe(json.dumps(webui(method)), models=named)
        data = recipe.to_dict()
        data["models"] = {n: {"path": p, "layout": "generic"} for n, p in data["models"].items()}
        out = tmp_path / f"{count}.safetensors"
        submerge.merge(data, out)
        np.testing.assert_allclose(factory.read(out)["w"], expected, atol=1e-6)


def test_half_precision_and_what_is_left_behind() -> None:
    made = webui("Add difference", save_as_half=True, bake_in_vae="x.vae.pt", discard_weights="ema")
    recipe, notes = import_recipe(json.dumps(made))
    assert recipe.output.dtype.names == ("f16",)
    assert recipe.to_dict()["method"] == {
        "add_difference": {
            "alpha": 0.3,
            "to": "flux1-schnell",
            "plus": "flux1-krea-dev",
            "minus": "flux1-dev",
        }
    }
    said = "\n".join(notes)
    assert "flux1-schnell + 0.3 * (flux1-krea-dev - flux1-dev)" in said
    assert "not carried over: `bake_in_vae` = `x.vae.pt`" in said
    assert "not carried over: `discard_weights` = `ema`" in said


def test_the_recipe_alone_names_no_models() -> None:
    recipe, notes = import_recipe(webui("Weighted sum")["sd_merge_recipe"])
    assert list(recipe.models) == ["model_a", "model_b"]
    assert any(f"model B has no name in the metadata, SHA-256 {B}" in note for note in notes)


def test_supermerger_with_and_without_blocks() -> None:
    recipe, _ = import_recipe(json.dumps(supermerger()))
    assert recipe.to_dict()["method"] == {"linear": {"alpha": 0.25}}
    added, _ = import_recipe(json.dumps(supermerger(mode="Add difference")))
    assert added.to_dict()["method"]["add_difference"]["minus"] == "flux1-dev"
    # base_alpha is CLIP's number; T5, IN, 19 double blocks, 38 single blocks, OUT follow.
    weights = [0.0, 0.1, *[0.2] * 19, *[0.3] * 38, 0.4]
    blocks, notes = import_recipe(json.dumps(supermerger(mbw=True, weights_alpha=weights)))
    assert blocks.to_dict()["method"] == {
        "linear": {"alpha": {"double": 0.2, "single": 0.3, "final": 0.4, "default": 0.1}}
    }
    assert any("CLIP = 0.25" in note for note in notes)


def test_sd_mecha_and_comfyui_in_headers(tmp_path: Path) -> None:
    ones = {"w": np.ones((2, 2), np.float32)}
    text = (DATA / "recipes" / "mecha" / "weighted_sum.mecha").read_text("utf-8")
    path = factory.write(tmp_path / "mecha.safetensors", ones, {"mecha_recipe": text})
    assert import_recipe(path)[0].to_dict()["method"] == {"linear": {"alpha": 0.3}}
    graph = (DATA / "recipes" / "comfy-api.json").read_text("utf-8")
    path = factory.write(tmp_path / "comfy.safetensors", ones, {"prompt": graph})
    assert import_recipe(path)[0] == import_recipe(DATA / "recipes" / "comfy-api.json")[0]
    with pytest.raises(RecipeError, match="`prompt` names its models itself"):
        import_recipe(path, models={"a": "x", "b": "y"})


def test_an_output_names_the_paths_to_put_in(tmp_path: Path) -> None:
    model = factory.save_file(tmp_path / "krea.safetensors", factory.KREA)
    pairs = files.pairs(factory.KREA, files.MODULES[:1])
    style = files.save(tmp_path / "style.safetensors", files.diffusers(pairs))
    out = tmp_path / "out.safetensors"
    lora.bake(model, [str(style)], out)
    recipe, notes = import_recipe(out)
    assert [source.path for source in recipe.adapters] == ["style"]
    assert notes == [
        "an output says no paths: put those of 1 model: `krea` and 1 adapter: `style` in"
    ]
    recipe, notes = import_recipe(out, models={"krea": str(model)})
    assert recipe.models["krea"].path == str(model)
    assert notes == ["an output says no paths: put those of 1 adapter: `style` in"]
    lora.bake(model, [], out, overwrite=True)
    assert import_recipe(out, models={"krea": str(model)})[1] == []


# Metadata, arguments, and the error.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another method": (webui("Weighted Sum"), {}, "did you mean `Weighted sum`?"),
    "another tool": (
        webui("Weighted sum", type="SDNext"),
        {},
        "expected `webui` or `sd-webui-supermerger`, got the text `SDNext`",
    ),
    "more channels": (webui("Add difference", is_inpainting=True), {}, "more input channels"),
    "no number": (webui("Weighted sum", multiplier=None), {}, "`multiplier`: expected a number"),
    "one model twice": (webui("Weighted sum", secondary_model_hash=A), {}, "different ones"),
    "too few paths": (
        webui("Add difference"),
        {"models": {"a": "x", "b": "y"}},
        "expected 3 paths, got 2",
    ),
    "a node": (webui("Weighted sum"), {"node": "1"}, "has no nodes"),
    "not an object": (
        webui("Weighted sum") | {"sd_merge_models": "[1]"},
        {},
        "`sd_merge_models`, expected an object",
    ),
    "another mode": (supermerger(mode="sum Twice"), {}, "`mode`, expected one of `Weight sum`"),
    "another calculation": (supermerger(calcmode="cosineA"), {}, "`calcmode`, expected `normal`"),
    "elements": (supermerger(elemental_merge=["IN:attn:1"]), {}, "`elemental_merge`"),
    "blocks of a difference": (
        supermerger(mode="Add difference", mbw=True, weights_alpha=[0.0] * 60),
        {},
        "expected `Weight sum`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_refused(case: str) -> None:
    metadata, arguments, expected = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        import_recipe(json.dumps(metadata), **arguments)
    assert expected in str(caught.value)


def test_a_checkpoint_without_a_recipe(tmp_path: Path) -> None:
    path = factory.write(tmp_path / "plain.safetensors", {"w": np.ones((2, 2), np.float32)})
    with pytest.raises(RecipeError, match=r"plain\.safetensors: no recipe in its metadata"):
        import_recipe(path)
