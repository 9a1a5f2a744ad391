"""DoRA, LoHa, LoKr and differences, fused on models of both layouts, against numpy in F64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from fusing import WIDE, assert_close, expected, fused, weights
from submerge import AdapterError
from submerge.lora import resize

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array

# Modules of BFL's names that diffusers splits, whole ones, and the one whose halves swap.
STACKED = ("double_blocks.1.img_attn.qkv", "single_blocks.0.linear1", "img_in")
FINAL = "final_layer.adaLN_modulation.1"
LAYOUTS = pytest.mark.parametrize("layout", ["diffusers", "bfl"])
EPSILON = 2.0**-23


def kohya(module: str, parts: dict[str, Array]) -> dict[str, Array]:
    return {f"lora_unet_{module.replace('.', '_')}.{name}": a for name, a in parts.items()}


def alpha(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def base(module: str) -> Array:
    return files.wide(factory.tensors(WIDE, "bfl")[f"{module}.weight"])


@LAYOUTS
def test_loha(tmp_path: Path, layout: str) -> None:
    arrays: dict[str, Array] = {}
    dense: dict[str, Array] = {}
    for module in (*STACKED, FINAL):
        rows, columns = files.shape_of(WIDE, module, "bfl")
        left = files.draw(f"{module}1", rows, 3) * 4, files.draw(f"{module}2", 3, columns)
        right = files.draw(f"{module}3", rows, 3) * 4, files.draw(f"{module}4", 3, columns)
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        arrays |= kohya(module, dict(zip(names, (*left, *right), strict=True)))
        arrays |= kohya(module, {"alpha": alpha(2.0)})
        # Once, as the forward pass of LyCORIS does; its `merge_to` scales twice.
        dense[module] = 2.0 / 3.0 * files.product(left) * files.product(right)
    path = files.save(tmp_path / "s.safetensors", arrays)
    wanted = expected(WIDE, files.in_diffusers(WIDE, weights(dense)))
    assert_close(fused(tmp_path, WIDE, [str(path)], layout), wanted)
    twice = files.in_diffusers(WIDE, weights({m: d * 2.0 / 3.0 for m, d in dense.items()}))
    source = {"path": str(path), "compat": "lycoris"}
    assert_close(fused(tmp_path, WIDE, [source], layout), expected(WIDE, twice))


def factors(module: str, rank: int, whole: tuple[bool, bool]) -> tuple[dict[str, Array], Array]:
    """The tensors of a LoKr, and its product without a scale."""
    rows, columns = files.shape_of(WIDE, module, "bfl")
    shapes = ((4, 8), (rows // 4, columns // 8))
    arrays: dict[str, Array] = {}
    made = []
    for side, shape, full in zip(("w1", "w2"), shapes, whole, strict=True):
        if full:
            arrays[f"lokr_{side}"] = files.draw(f"{module}{side}", *shape)
            made.append(files.wide(arrays[f"lokr_{side}"]))
        else:
            pair = (
                files.draw(f"{module}{side}a", shape[0], rank),
                files.draw(f"{module}{side}b", rank, shape[1]),
            )
            arrays |= {f"lokr_{side}_a": pair[0], f"lokr_{side}_b": pair[1]}
            made.append(files.product(pair))
    return arrays, np.kron(*made)


@LAYOUTS
@pytest.mark.parametrize("whole", [(True, True), (True, False), (False, True), (False, False)])
def test_lokr(tmp_path: Path, layout: str, whole: tuple[bool, bool]) -> None:
    arrays: dict[str, Array] = {}
    dense: dict[str, Array] = {}
    for module in (*STACKED, FINAL):
        parts, product = factors(module, 2, whole)
        arrays |= kohya(module, {**parts, "alpha": alpha(5.0)})
        # LyCORIS and diffusers ignore alpha where both factors are whole.
        dense[module] = product * (1.0 if all(whole) else 2.5)
    path = files.save(tmp_path / "s.safetensors", arrays)
    wanted = expected(WIDE, files.in_diffusers(WIDE, weights(dense)))
    assert_close(fused(tmp_path, WIDE, [str(path)], layout), wanted)


@pytest.mark.parametrize("compat", [None, "lycoris"])
def test_lokr_of_peft_scales_whole_factors_too(tmp_path: Path, compat: str | None) -> None:
    module = "transformer_blocks.0.attn.to_q"
    parts, product = factors("double_blocks.0.img_attn.proj", 2, (True, True))
    config = {"peft_type": "LOKR", "r": 8, "alpha": 4}
    factory.write_json(tmp_path / "adapter" / "adapter_config.json", config)
    arrays = {f"base_model.model.{module}.{name}": array for name, array in parts.items()}
    files.save(tmp_path / "adapter" / "adapter_model.safetensors", arrays)
    source = {"path": str(tmp_path / "adapter"), **({"compat": compat} if compat else {})}
    scale = 1.0 if compat else 0.5
    added = {f"{module}.weight": product * scale}
    assert_close(fused(tmp_path, WIDE, [source]), expected(WIDE, added))


@LAYOUTS
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_glora_multiplies_the_model_and_adds_to_it(
    tmp_path: Path, layout: str, strength: float
) -> None:
    """`W + s * (W a1 a2 + b1 b2)`, after another adapter still of the model's own W."""
    arrays: dict[str, Array] = {}
    added: dict[str, Array] = {}
    for module in (*STACKED, FINAL):
        weight = base(module)
        rows, columns = weight.shape
        shapes = {"a1": (columns, 3), "a2": (3, columns), "b1": (rows, 3), "b2": (3, columns)}
        parts = {name: files.draw(f"{module}{name}", *shape) for name, shape in shapes.items()}
        a1, a2, b1, b2 = (files.wide(parts[name]) for name in shapes)
        arrays |= kohya(module, {f"{name}.weight": array for name, array in parts.items()})
        arrays |= kohya(module, {"alpha": alpha(6.0)})
        added[f"{module}.weight"] = 2.0 * (weight @ a1 @ a2 + b1 @ b2)
    path = files.save(tmp_path / "g.safetensors", arrays)
    product = files.pairs(WIDE, STACKED, layout="bfl")
    other = files.save(tmp_path / "lora.safetensors", files.kohya(product, None))
    more = weights({module: files.product(pair) for module, pair in product.items()})
    both = {name: strength * array + more.get(name, 0.0) for name, array in added.items()}
    sources = [str(other), {"path": str(path), "scale": strength}]
    found = fused(tmp_path, WIDE, sources, layout)
    assert_close(found, expected(WIDE, files.in_diffusers(WIDE, both)))


def test_glora_needs_a_model_under_it(tmp_path: Path) -> None:
    """Onto the result of a merge, or as a LoRA, there is none."""
    weight = base(FINAL)
    rows, columns = weight.shape
    shapes = {"a1": (columns, 3), "a2": (3, columns), "b1": (rows, 3), "b2": (3, columns)}
    parts = {f"{name}.weight": files.draw(name, *shape) for name, shape in shapes.items()}
    path = files.save(tmp_path / "g.safetensors", kohya(FINAL, parts))
    models = [str(factory.save_file(tmp_path / f"{n}.safetensors", WIDE)) for n in "ab"]
    recipe = {"models": dict(zip("ab", models, strict=True)), "adapters": [str(path)]}
    with pytest.raises(AdapterError, match=r"multiplies the weight of .* expected a model"):
        submerge.merge(recipe, tmp_path / "out.safetensors")
    with pytest.raises(AdapterError, match="multiplies the weight of"):
        resize(path, tmp_path / "lora.safetensors", rank=2, base=models[0])
    assert not (tmp_path / "out.safetensors").exists()
    assert not (tmp_path / "lora.safetensors").exists()


def lengths(matrix: Array) -> Array:
    found: Array = np.linalg.norm(matrix, axis=1, keepdims=True)
    return found


@LAYOUTS
@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("flat", [False, True])
def test_dora_sets_the_length_of_rows(
    tmp_path: Path, layout: str, strength: float, *, flat: bool
) -> None:
    arrays: dict[str, Array] = {}
    added: dict[str, Array] = {}
    for module in (*STACKED, FINAL):
        pair = files.pairs(WIDE, [module], layout="bfl")[module]
        weight = base(module)
        magnitude = lengths(weight) * (1.0 + files.draw(f"{module}m", len(weight), 1))
        shape = (len(weight),) if flat else (len(weight), 1)
        arrays |= files.kohya({module: pair}, 2.0)
        arrays |= kohya(module, {"dora_scale": magnitude.astype(np.float32).reshape(shape)})
        total = weight + strength * files.product(pair, 0.5)
        factor = strength * (magnitude / (lengths(total) + EPSILON) - 1.0) + 1.0
        added[f"{module}.weight"] = total * factor - weight
    path = files.save(tmp_path / "s.safetensors", arrays)
    wanted = expected(WIDE, files.in_diffusers(WIDE, added))
    source = {"path": str(path), "scale": strength}
    assert_close(fused(tmp_path, WIDE, [source], layout), wanted)


@pytest.mark.parametrize(("compat", "measured"), [("comfyui", "base"), ("lycoris", "whole")])
def test_other_readings_of_dora(tmp_path: Path, compat: str, measured: str) -> None:
    """ComfyUI measures the model's rows, LyCORIS adds all of the difference at any strength."""
    module = "double_blocks.0.img_attn.proj"
    pair = files.pairs(WIDE, [module], layout="bfl")[module]
    weight = base(module)
    magnitude = (lengths(weight) * 1.5).astype(np.float32)
    arrays = files.kohya({module: pair}, None) | kohya(module, {"dora_scale": magnitude})
    path = files.save(tmp_path / "s.safetensors", arrays)
    total = weight + files.product(pair, 1.0 if measured == "whole" else 0.5)
    norm = lengths(weight if measured == "base" else total) + EPSILON
    changed = total * (0.5 * (magnitude / norm - 1.0) + 1.0)
    added = files.in_diffusers(WIDE, {f"{module}.weight": changed - weight})
    source = {"path": str(path), "scale": 0.5, "compat": compat}
    assert_close(fused(tmp_path, WIDE, [source]), expected(WIDE, added))


def test_dora_of_peft(tmp_path: Path) -> None:
    module = "single_transformer_blocks.0.proj_out"
    pair = files.pairs(WIDE, [module])[module]
    weight = files.wide(factory.tensors(WIDE)[f"{module}.weight"])
    magnitude = lengths(weight)[:, 0] * 0.9
    prefix = f"base_model.model.{module}."
    arrays = {
        f"{prefix}lora_A.default.weight": pair[1],
        f"{prefix}lora_B.default.weight": pair[0],
        f"{prefix}lora_magnitude_vector.default.weight": magnitude.astype(np.float32),
    }
    path = files.save(tmp_path / "s.safetensors", arrays)
    total = weight + files.product(pair)
    added = {f"{module}.weight": magnitude[:, None] * total / lengths(total) - weight}
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))


def test_lengths_of_columns_are_refused_where_they_would_be_applied(tmp_path: Path) -> None:
    module = "double_blocks.0.img_attn.proj"
    pair = files.pairs(WIDE, [module], layout="bfl")[module]
    scale = np.ones((1, 64), dtype=np.float32)
    arrays = files.kohya({module: pair}, None) | kohya(module, {"dora_scale": scale})
    path = files.save(tmp_path / "s.safetensors", arrays)
    with pytest.raises(
        AdapterError, match=r"lengths of columns of `double\.0\.img\.attn\.out\.weight`"
    ):
        fused(tmp_path, WIDE, [str(path)])
    # diffusers leaves `dora_scale` out and applies the rest.
    added = files.in_diffusers(WIDE, {f"{module}.weight": files.product(pair)})
    source = {"path": str(path), "compat": "diffusers"}
    assert_close(fused(tmp_path, WIDE, [source]), expected(WIDE, added))


@LAYOUTS
def test_differences_biases_and_replaced_tensors(tmp_path: Path, layout: str) -> None:
    """ComfyUI's `.diff`, `.diff_b` and `.set_weight`, LyCORIS' `w_norm`, beside a LoRA or alone."""
    qkv, out, norm = (
        "double_blocks.0.txt_attn.qkv",
        "double_blocks.0.txt_attn.proj",
        "single_blocks.1.norm.query_norm",
    )
    pair = files.pairs(WIDE, [qkv], layout="bfl")
    arrays = files.comfyui(pair)
    diff, bias = files.draw("d", 192, 64), files.draw("b", 192)
    new, scale = files.draw("n", 64, 64), files.draw("s", 16)
    arrays |= {
        f"diffusion_model.{qkv}.diff": diff,
        f"diffusion_model.{qkv}.diff_b": bias,
        f"diffusion_model.{out}.set_weight": new,
        f"diffusion_model.{norm}.w_norm": scale,
    }
    path = files.save(tmp_path / "s.safetensors", arrays)
    added = files.in_diffusers(
        WIDE,
        {
            f"{qkv}.weight": files.product(pair[qkv]) + files.wide(diff),
            f"{qkv}.bias": files.wide(bias),
            f"{norm}.scale": files.wide(scale),
        },
    )
    replaced = "transformer_blocks.0.attn.to_add_out.weight"
    wanted = expected(WIDE, {**added, f"={replaced}": files.wide(new)})
    assert_close(fused(tmp_path, WIDE, [str(path)], layout), wanted)
    half = expected(WIDE, added, 0.5)
    half[replaced] = (half[replaced] + files.wide(new)) / 2
    source = {"path": str(path), "scale": 0.5}
    assert_close(fused(tmp_path, WIDE, [source], layout), half)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3"])
def test_factors_of_any_float(tmp_path: Path, dtype: str) -> None:
    found: Any = {
        module: tuple(array.astype(factory.DTYPES[dtype][0]) for array in pair)
        for module, pair in files.pairs(WIDE, files.MODULES).items()
    }
    path = files.save(tmp_path / "s.safetensors", files.diffusers(found))
    added = weights({module: files.product(pair) for module, pair in found.items()})
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))


def test_diffusers_reading_of_alphas_and_of_modules_outside_the_blocks(tmp_path: Path) -> None:
    """It gives the first alpha to every module, and loses what BFL names outside the blocks."""
    modules = ["transformer_blocks.0.attn.to_q", "x_embedder"]
    found = files.pairs(WIDE, modules)
    arrays = files.diffusers(found)
    arrays["transformer.transformer_blocks.0.attn.to_q.alpha"] = alpha(1.0)
    path = files.save(tmp_path / "own.safetensors", arrays)
    plain = weights(
        {m: files.product(p, s) for (m, p), s in zip(found.items(), (0.25, 1.0), strict=True)}
    )
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, plain))
    theirs = weights({m: files.product(p, 0.25) for m, p in found.items()})
    source = {"path": str(path), "compat": "diffusers"}
    assert_close(fused(tmp_path, WIDE, [source]), expected(WIDE, theirs))

    named = files.pairs(WIDE, ["double_blocks.0.img_mlp.0", "img_in"], layout="bfl")
    path = files.save(tmp_path / "kohya.safetensors", files.kohya(named, None))
    inside = {"double_blocks.0.img_mlp.0.weight": files.product(named["double_blocks.0.img_mlp.0"])}
    source = {"path": str(path), "compat": "diffusers"}
    assert_close(fused(tmp_path, WIDE, [source]), expected(WIDE, files.in_diffusers(WIDE, inside)))
    made = submerge.plan(
        {"models": {"m": str(tmp_path / "diffusers.safetensors")}, "adapters": [source]},
        tmp_path / "x.safetensors",
    )
    (left,) = [gone for gone in made.about.unused if gone.model == "kohya"]
    assert left.reason == "diffusers does not load it"
    assert len(left.tensors) == 2
