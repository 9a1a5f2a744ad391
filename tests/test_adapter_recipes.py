"""Adapters in recipes: strengths, models and the result, what stays as it is, what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adapter_files as files
import factory
import formulas
import submerge
from factory import KREA, SCHNELL, Array, Flux
from fusing import WIDE, assert_close, expected, fused, weights
from submerge import RecipeError
from submerge.lora import bake

if TYPE_CHECKING:
    from pathlib import Path

TO_Q = "transformer_blocks.0.attn.to_q"
BLOCKS = [f"transformer_blocks.{i}.attn.to_q" for i in range(2)] + [
    f"single_transformer_blocks.{i}.attn.to_q" for i in range(2)
]


def style(folder: Path, modules: list[str], name: str = "style", model: Flux = WIDE) -> str:
    found = files.pairs(model, modules, seed=name)
    return str(files.save(folder / f"{name}.safetensors", files.diffusers(found)))


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [
        (0.5, (0.5, 0.5, 0.5, 0.5, 0.5)),
        (-2, (-2.0,) * 5),
        ([0.1, 0.2, 0.3, 0.4], (0.1, 0.2, 0.3, 0.4, 0.1)),
        ({"from": 0.0, "to": 0.9}, (0.0, 0.3, 0.6, 0.9, 0.0)),
        ({"double[1]": 2, "single": {"from": 1, "to": 3}, "default": 0}, (0.0, 2.0, 1.0, 3.0, 0.0)),
    ],
)
def test_strengths_are_written_as_alpha_is(
    tmp_path: Path, scale: Any, wanted: tuple[float, ...]
) -> None:
    modules = [*BLOCKS, "x_embedder"]
    path = style(tmp_path, modules)
    found = files.pairs(WIDE, modules, seed="style")
    added = weights({m: files.product(found[m], s) for m, s in zip(modules, wanted, strict=True)})
    source = {"path": path, "scale": scale}
    assert_close(fused(tmp_path, WIDE, [source]), expected(WIDE, added))


def test_a_strength_of_its_own_must_reach_every_unit_that_is_changed(tmp_path: Path) -> None:
    path = style(tmp_path, BLOCKS)
    with pytest.raises(RecipeError, match=r"recipe.adapters\[0\].scale: no selector matches") as e:
        fused(tmp_path, WIDE, [{"path": path, "scale": {"double": 1}}])
    assert e.value.hint == "add `default: <number>` for the rest"
    with pytest.raises(RecipeError, match=r"recipe.adapters\[0\].scale: a list takes one number"):
        fused(tmp_path, WIDE, [{"path": path, "scale": [1, 2]}])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F64"])
@pytest.mark.parametrize("scale", [0, {"single": 0, "default": 0.5}])
def test_what_is_not_changed_keeps_its_bytes(tmp_path: Path, dtype: str, scale: Any) -> None:
    model = Flux(guidance=True, dtype=dtype)
    path = factory.save_file(tmp_path / "m.safetensors", model)
    lora = style(tmp_path, BLOCKS, model=model)
    recipe = {"models": {"m": str(path)}, "adapters": [{"path": lora, "scale": scale}]}
    report = submerge.merge(recipe, tmp_path / "out.safetensors")
    before, after = factory.read(path), factory.read(tmp_path / "out.safetensors")
    changed = {
        name
        for name, array in before.items()
        if array.dtype != after[name].dtype or array.tobytes() != after[name].tobytes()
    }
    assert changed == (set() if scale == 0 else {f"{module}.weight" for module in BLOCKS[:2]})
    idle = "`style` changes nothing: its scale is 0, or its model's weight is"
    assert (idle in report.summary["notes"]) == (scale == 0)
    assert ("0.50 * style" in str(report.rows)) == (scale != 0)


def two(folder: Path, **more: Any) -> dict[str, Any]:
    for name, model in (("schnell", SCHNELL), ("krea", KREA)):
        if not (folder / f"{name}.safetensors").exists():
            factory.save_file(folder / f"{name}.safetensors", model)
    models = {name: str(folder / f"{name}.safetensors") for name in ("schnell", "krea")}
    return {"models": models, "alpha": 0.25, "output": {"dtype": "f32"}, **more}


@pytest.mark.parametrize(("onto", "share"), [("schnell", 0.75), ("krea", 0.25), (None, 1.0)])
def test_onto_a_parent_it_has_the_parents_share_onto_the_result_all_of_it(
    tmp_path: Path, onto: str | None, share: float
) -> None:
    path = style(tmp_path, [*files.MODULES[:4], "norm_out.linear"])
    source = {"path": path, "scale": 0.8, **({"onto": onto} if onto else {})}
    recipe = two(tmp_path, adapters=[source])
    submerge.merge(recipe, tmp_path / "out.safetensors")
    submerge.merge(two(tmp_path), tmp_path / "plain.safetensors")
    found = factory.read(tmp_path / "out.safetensors")
    plain = factory.read(tmp_path / "plain.safetensors")
    pairs = files.pairs(WIDE, [*files.MODULES[:4], "norm_out.linear"], seed="style")
    added = weights({m: files.product(p, 0.8 * share) for m, p in pairs.items()})
    wanted = {n: files.wide(a) + added.get(n, 0.0) for n, a in plain.items()}
    assert_close(found, wanted)
    formula = {
        "schnell": "0.75 * (schnell + 0.80 * style) + 0.25 * krea",
        "krea": "0.75 * schnell + 0.25 * (krea + 0.80 * style)",
        None: "0.75 * schnell + 0.25 * krea + 0.80 * style",
    }[onto]
    made = submerge.plan(recipe, tmp_path / "x.safetensors")
    assert formula in [words for words, _ in made.formulas]


def test_adapters_are_added_in_order_and_rounded_once(tmp_path: Path) -> None:
    """In BF16 two roundings would differ from one: the F32 result, rounded, is the result."""
    names = [style(tmp_path, BLOCKS, name) for name in ("one", "two", "three")]
    sources = [{"path": path, "scale": s} for path, s in zip(names, (0.7, 0.4, -1.0), strict=True)]
    whole = fused(tmp_path, WIDE, sources)
    narrow = fused(tmp_path, WIDE, sources, dtype="bf16")
    for name, array in narrow.items():
        assert array.tobytes() == whole[name].astype(factory.DTYPES["BF16"][0]).tobytes(), name
    once = fused(tmp_path, WIDE, [{"path": names[0]}, {"path": names[0]}])
    found = files.pairs(WIDE, BLOCKS, seed="one")
    added = weights({m: files.product(p, 2.0) for m, p in found.items()})
    assert_close(once, expected(WIDE, added))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rank=st.integers(1, 9),
    alpha=st.one_of(st.none(), st.floats(-20, 20, width=32)),
    scale=st.floats(-3, 3, width=16),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
    modules=st.sets(
        st.sampled_from(
            [
                "double_blocks.0.img_attn.qkv",
                "double_blocks.1.txt_mod.lin",
                "single_blocks.1.linear1",
                "single_blocks.0.linear2",
                "vector_in.in_layer",
                "final_layer.adaLN_modulation.1",
            ]
        ),
        min_size=1,
    ),
)
def test_fusing_and_converting_commute_to_the_last_bit(
    tmp_path: Path, rank: int, alpha: float | None, scale: float, dtype: str, modules: set[str]
) -> None:
    model = Flux(double=2, single=2, guidance=True, dtype="BF16")
    found: Any = {
        module: tuple(a.astype(factory.DTYPES[dtype][0]) for a in pair)
        for module, pair in files.pairs(model, sorted(modules), rank, "bfl", seed=rank).items()
    }
    lora = files.save(tmp_path / "s.safetensors", files.kohya(found, alpha))
    source = [{"path": str(lora), "scale": scale}]
    results = []
    for layout in ("bfl", "diffusers"):
        path = factory.save_file(tmp_path / f"{layout}.safetensors", model, layout)
        submerge.convert(
            path, tmp_path / "a.safetensors", layout="diffusers", adapters=source, overwrite=True
        )
        results.append(factory.read(tmp_path / "a.safetensors"))
        submerge.convert(path, tmp_path / "b.safetensors", adapters=source, overwrite=True)
        submerge.convert(
            tmp_path / "b.safetensors",
            tmp_path / "c.safetensors",
            layout="diffusers",
            overwrite=True,
        )
        results.append(factory.read(tmp_path / "c.safetensors"))
    for other in results[1:]:
        assert {n: a.tobytes() for n, a in other.items()} == {
            n: a.tobytes() for n, a in results[0].items()
        }
    strength = scale * (1.0 if alpha is None else alpha / rank)
    dense = weights({m: files.product(p, strength) for m, p in found.items()})
    wanted = expected(model, files.in_diffusers(model, dense))
    for name, array in wanted.items():
        limit = 2.0**-8 * (np.abs(array) + 1e-3)
        assert (np.abs(files.wide(results[0][name]) - array) <= limit).all(), name


def test_layouts_names_and_threads_do_not_move_a_bit(tmp_path: Path) -> None:
    path = style(tmp_path, list(files.MODULES))
    found = []
    for layout in ("diffusers", "bfl"):
        model = factory.save_file(tmp_path / f"{layout}.safetensors", KREA, layout)
        for threads, chunk in ((1, 4096), (3, 65_536)):
            submerge.convert(
                model,
                tmp_path / "o.safetensors",
                layout="bfl",
                adapters=[path],
                threads=threads,
                chunk=chunk,
                overwrite=True,
            )
            arrays = factory.read(tmp_path / "o.safetensors")
            found.append({name: array.tobytes() for name, array in arrays.items()})
    assert all(other == found[0] for other in found[1:])


def test_methods_see_adapted_models(tmp_path: Path) -> None:
    """TIES of two models with adapters is TIES of the two models baked in F32."""
    modules = ["transformer_blocks.0.ff.net.0.proj", "single_transformer_blocks.1.proj_out"]
    sources: list[dict[str, Any]] = [
        {"path": style(tmp_path, modules, "one"), "onto": "a"},
        {"path": style(tmp_path, modules, "two"), "onto": "b", "scale": 0.5},
    ]
    flux = {name: Flux(dtype="F32", seed=seed) for seed, name in enumerate(("base", "a", "b"))}
    paths = {
        name: str(factory.save_file(tmp_path / f"{name}.safetensors", model))
        for name, model in flux.items()
    }
    recipe = {
        "base": "base",
        "method": {"ties": {"density": 0.4}},
        "models": paths,
    }
    submerge.merge({**recipe, "adapters": sources}, tmp_path / "fused.safetensors")
    for source in sources:
        baked = tmp_path / f"{source['onto']}-baked.safetensors"
        alone = {k: v for k, v in source.items() if k != "onto"}
        bake(paths[str(source["onto"])], [alone], baked)
        paths[str(source["onto"])] = str(baked)
    submerge.merge({**recipe, "models": paths}, tmp_path / "baked.safetensors")
    one = factory.read(tmp_path / "fused.safetensors")
    other = factory.read(tmp_path / "baked.safetensors")
    # Baked in F32 nothing is rounded that fusing keeps: both see the same F32 numbers.
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name
    wanted = numpy_ties(flux, modules)
    for name, array in wanted.items():
        np.testing.assert_array_equal(one[name], array, err_msg=name)


def numpy_ties(flux: dict[str, Flux], modules: list[str]) -> dict[str, Array]:
    """In F32, in the order of the core: products over the rank, the strength, the sum."""
    found: dict[str, Array] = {}
    for module in modules:
        tensors = {n: factory.tensors(m)[f"{module}.weight"] for n, m in flux.items()}
        for name, onto, scale in (("one", "a", 1.0), ("two", "b", 0.5)):
            up, down = files.pairs(WIDE, [module], seed=name)[module]
            product = up[:, :1] * down[:1]
            for k in range(1, up.shape[1]):
                product = product + up[:, k : k + 1] * down[k : k + 1]
            tensors[onto] = tensors[onto] + product * np.float32(scale)
        deltas = [formulas.largest(tensors[n] - tensors["base"], 0.4) for n in ("a", "b")]
        found[f"{module}.weight"] = formulas.delta(
            tensors["base"], deltas, [1.0, 1.0], normalize=True, consensus="plain"
        )
    return found


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "result"])
def test_a_scope_of_tensors_sees_adapters_on_whole_ones(tmp_path: Path, kind: str) -> None:
    """qkv as one tensor, with an adapter on all of it, is thinned out as one."""
    module = "double_blocks.0.img_attn.qkv"
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    up, down = files.pairs(WIDE, [module], layout="bfl", seed=kind)[module]
    arrays = files.kohya({module: (up, down)}, None)
    dense = files.product((up, down))
    if kind == "loha":
        arrays = {f"{stem}.hada_w{i}_{s}": a for i in "12" for s, a in (("a", up), ("b", down))}
        dense = dense * dense
    elif kind == "lokr":
        left, right = files.draw("l", 4, 8), files.draw("r", 48, 8)
        arrays = {f"{stem}.lokr_w1": left, f"{stem}.lokr_w2": right}
        dense = np.kron(files.wide(left), files.wide(right))
    path = str(files.save(tmp_path / "style.safetensors", arrays))
    flux = {name: Flux(dtype="F32", seed=seed) for seed, name in enumerate(("base", "a", "b"))}
    models = {
        name: str(factory.save_file(tmp_path / f"{name}.safetensors", model, "bfl"))
        for name, model in flux.items()
    }
    recipe: dict[str, Any] = {
        "models": models,
        "base": "base",
        "scope": "tensor",
        "method": {"ties": {"density": 0.3}},
        "adapters": [path if kind == "result" else {"path": path, "onto": "a"}],
    }
    submerge.merge(recipe, tmp_path / "out.safetensors")
    tensors = {n: factory.tensors(m, "bfl")[f"{module}.weight"] for n, m in flux.items()}
    if kind != "result":
        tensors["a"] = tensors["a"] + dense.astype(np.float32)
    deltas = [formulas.largest(tensors[n] - tensors["base"], 0.3) for n in ("a", "b")]
    wanted = formulas.delta(tensors["base"], deltas, [1.0, 1.0], normalize=True, consensus="plain")
    wanted = wanted + (dense.astype(np.float32) if kind == "result" else 0.0)
    found = factory.read(tmp_path / "out.safetensors")[f"{module}.weight"]
    # Numpy rounds the product once from F64: which elements stay may differ at the threshold.
    assert np.isclose(found, wanted, rtol=0, atol=1e-6).mean() > 0.999
    part = files.diffusers(files.pairs(WIDE, [TO_Q]))
    recipe["adapters"] = [str(files.save(tmp_path / "part.safetensors", part))]
    with pytest.raises(submerge.LayoutError, match="adapters that change all of a tensor"):
        submerge.merge(recipe, tmp_path / "x.safetensors")


ROLES = (
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_down.weight", "lora_mid.weight", "alpha",
    "dora_scale", "lora_magnitude_vector", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "diff", "diff_b",
    "set_weight", "weight", "bias", "nothing",
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.dictionaries(
        st.tuples(
            st.sampled_from([TO_Q, "norm_out.linear", "transformer_blocks.0.attn.norm_q", "x"]),
            st.sampled_from(ROLES),
        ),
        st.tuples(
            st.lists(st.sampled_from([0, 1, 2, 4, 16, 32, 64, 128]), max_size=3).map(tuple),
            st.sampled_from(["<f4", "<f2", "<i4", "<f8"]),
        ),
        min_size=1,
        max_size=6,
    ),
    dora=st.booleans(),
)
def test_any_file_is_fused_or_refused(
    tmp_path: Path, parts: dict[tuple[str, str], tuple[tuple[int, ...], str]], *, dora: bool
) -> None:
    """Whatever keys and shapes stand beside each other: an output, or an error of ours."""
    model = tmp_path / "m.safetensors"
    if not model.exists():
        factory.save_file(model, KREA)
    arrays = {
        f"transformer.{module}.{role}": np.ones(shape, dtype=dtype)
        for (module, role), (shape, dtype) in parts.items()
    }
    metadata = files.peft_metadata(r=4, lora_alpha=2) if dora else None
    path = files.save(tmp_path / "s.safetensors", arrays, metadata)
    out = tmp_path / "out.safetensors"
    out.unlink(missing_ok=True)
    refused: submerge.SubmergeError | None = None
    try:
        submerge.convert(model, out, adapters=[str(path)])
    except (submerge.AdapterError, submerge.CheckpointError) as error:
        refused = error
    assert out.exists() == (refused is None)
    assert submerge.verify(out).passed if refused is None else refused.hint


def test_a_tensor_is_not_replaced_in_part_after_another_adapter(tmp_path: Path) -> None:
    first = style(tmp_path, [TO_Q])
    new = {f"transformer.{TO_Q}.set_weight": files.draw("n", 64, 64)}
    second = str(files.save(tmp_path / "new.safetensors", new))
    sources = [{"path": first}, {"path": second, "scale": 0.5}]
    with pytest.raises(submerge.AdapterError, match=r"replaces .* in part \(scale 0\.5\)") as e:
        fused(tmp_path, WIDE, sources)
    assert e.value.hint == "name it first"
    assert TO_Q + ".weight" in fused(tmp_path, WIDE, sources[::-1])
    assert (
        fused(tmp_path, WIDE, [first, second])[f"{TO_Q}.weight"].tobytes()
        == new[f"transformer.{TO_Q}.set_weight"].tobytes()
    )


def test_what_is_no_float_cannot_be_changed(tmp_path: Path) -> None:
    arrays = factory.tensors(KREA)
    name = "transformer_blocks.0.attn.norm_q.weight"
    arrays[name] = np.ones(16, dtype="i4")
    model = factory.write(tmp_path / "m.safetensors", arrays)
    norm = {f"transformer.{name.removesuffix('.weight')}.w_norm": files.draw("n", 16)}
    path = files.save(tmp_path / "s.safetensors", norm)
    with pytest.raises(submerge.AdapterError, match="which is I32, expected numbers"):
        submerge.convert(model, tmp_path / "out.safetensors", adapters=[str(path)])
