"""Layouts against the original code bases' tensor lists and an independent conversion."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import factory
from factory import KREA, REAL, SCHNELL, Flux
from opened import headers
from submerge.checkpoint import open_checkpoint
from submerge.errors import LayoutError
from submerge.layout import (
    COMFY_PREFIX,
    Architecture,
    Model,
    config_of,
    identify,
    tensors_of,
    unit_shapes,
)

DATA = Path(__file__).parent / "data"
DEV = Architecture("flux1", (19, 38), 3072, 128, 12288, 64, 64, 4096, 768, guidance=True)
BOTH = pytest.mark.parametrize("layout", ["bfl", "diffusers"])
PREFIXES = [
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "model.",
    "net.",
    "model.model.",
    "transformer.",
    "base_model.model.",
]


def published(layout: str, *, guidance: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of FLUX.1 in the order of the original code, with or without guidance."""
    lines = (DATA / f"flux1-dev.{layout}.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    return [
        (name, tuple(map(int, shape.split("x"))))
        for name, shape in rows
        if guidance or "guidance" not in name
    ]


def arch_of(flux: Flux) -> Architecture:
    return identify(headers(factory.shapes_of(flux))).arch


@BOTH
@pytest.mark.parametrize("guidance", [True, False])
def test_the_real_model_name_for_name_in_module_order(
    layout: str,
    guidance: bool,  # noqa: FBT001
) -> None:
    table = tensors_of(replace(DEV, guidance=guidance), layout)
    assert [(tensor.name, tensor.shape) for tensor in table] == published(layout, guidance=guidance)


@pytest.mark.parametrize(
    ("guidance", "bfl", "diffusers", "parameters", "payload"),
    [
        (False, 776, 1156, 11_891_178_560, 23_782_357_120),
        (True, 780, 1160, 11_901_408_320, 23_802_816_640),
    ],
)
def test_the_published_totals(
    guidance: bool,  # noqa: FBT001
    bfl: int,
    diffusers: int,
    parameters: int,
    payload: int,
) -> None:
    arch = replace(DEV, guidance=guidance)
    for layout, count in (("bfl", bfl), ("diffusers", diffusers)):
        table = tensors_of(arch, layout)
        assert len(table) == count
        assert sum(math.prod(tensor.shape) for tensor in table) == parameters
    units = unit_shapes(arch)
    assert 2 * sum(math.prod(shape) for shape in units.values()) == payload
    assert len(units) == diffusers + 2


@pytest.mark.parametrize(("channels", "parameters"), [(128, 11_901_604_928), (384, 11_902_391_360)])
def test_the_published_totals_of_control_models(channels: int, parameters: int) -> None:
    shapes = unit_shapes(replace(DEV, in_channels=channels)).values()
    assert sum(map(math.prod, shapes)) == parameters


@BOTH
def test_units_tile_every_tensor_once(layout: str) -> None:
    shapes = unit_shapes(DEV)
    table = tensors_of(DEV, layout)
    assert sorted(unit for tensor in table for unit in tensor.units) == sorted(shapes)
    for tensor in table:
        assert sum(shapes[unit][0] for unit in tensor.units) == tensor.shape[0]
        assert {shapes[unit][1:] for unit in tensor.units} == {tensor.shape[1:]}


def test_unit_names_are_those_documented() -> None:
    names = list(unit_shapes(DEV))
    assert names[:2] == ["embed.img.weight", "embed.img.bias"]
    assert names[-2:] == ["final.linear.weight", "final.linear.bias"]
    stages = [name.split(".")[0] for name in names]
    order = ["embed", "guidance", "double", "single", "final"]
    assert stages == sorted(stages, key=order.index)
    assert unit_shapes(DEV)["double.7.img.mod.weight"] == (18432, 3072)
    assert unit_shapes(DEV)["single.37.out.weight"] == (3072, 15360)
    assert unit_shapes(DEV)["single.37.norm.k.weight"] == (128,)
    assert unit_shapes(DEV)["final.mod.shift.bias"] == (3072,)
    assert len({name.split(".")[1] for name in names if name.startswith("single.")}) == 38


def test_the_final_modulation_is_swapped() -> None:
    stacks = {t.name: t.units for x in ("bfl", "diffusers") for t in tensors_of(DEV, x)}
    shift, scale = "final.mod.shift.weight", "final.mod.scale.weight"
    assert stacks["final_layer.adaLN_modulation.1.weight"] == (shift, scale)
    assert stacks["norm_out.linear.weight"] == (scale, shift)


def rows(model: Model, arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: arrays[unit.place.tensor][unit.place.start : unit.place.end]
        for name, unit in model.units.items()
    }


FLUX = st.builds(
    Flux,
    double=st.integers(1, 3),
    single=st.integers(1, 3),
    hidden=st.sampled_from([16, 32]),
    head_dim=st.sampled_from([8, 16]),
    context=st.integers(1, 9),
    pooled=st.integers(1, 9),
    channels=st.integers(1, 9),
    out=st.integers(1, 9),
    guidance=st.booleans(),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(FLUX, st.sampled_from(PREFIXES), st.sampled_from(PREFIXES))
def test_a_unit_holds_the_same_numbers_in_both_layouts(flux: Flux, one: str, other: str) -> None:
    ours, theirs = factory.tensors(flux, "bfl", one), factory.tensors(flux, "diffusers", other)
    a = identify(headers({name: array.shape for name, array in ours.items()}))
    b = identify(headers({name: array.shape for name, array in theirs.items()}))
    assert (a.layout, a.prefix, b.layout, b.prefix) == ("bfl", one, "diffusers", other)
    assert a.arch == b.arch
    assert list(a.units) == list(b.units) == list(unit_shapes(a.arch))
    left, right = rows(a, ours), rows(b, theirs)
    for name in a.units:
        assert np.array_equal(left[name].view(np.uint16), right[name].view(np.uint16)), name


@settings(max_examples=20)
@given(FLUX)
def test_the_architecture_is_read_off_the_tensors(flux: Flux) -> None:
    arch = arch_of(flux)
    assert (arch.depths, arch.hidden) == ((flux.double, flux.single), flux.hidden)
    assert (arch.head_dim, arch.mlp, arch.guidance) == (flux.head_dim, flux.mlp, flux.guidance)
    assert (arch.in_channels, arch.out_channels) == (flux.channels, flux.out)
    assert (arch.context_dim, arch.pooled_dim) == (flux.context, flux.pooled)
    for layout in ("bfl", "diffusers"):
        found = {tensor.name: tensor.shape for tensor in tensors_of(arch, layout, "x.")}
        assert found == factory.shapes_of(flux, layout, "x.")


@BOTH
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_is_found(tmp_path: Path, layout: str, prefix: str) -> None:
    opened = open_checkpoint(factory.save_file(tmp_path / "m.safetensors", KREA, layout, prefix))
    model = identify(opened)
    assert (model.layout, model.prefix, model.extras) == (layout, prefix, ())
    assert all(unit.place.tensor.startswith(prefix) for unit in model.units.values())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_other_models_of_a_file_are_extras(prefix: str) -> None:
    others = {name: array.shape for name, array in factory.extras().items()}
    model = identify(headers({**factory.shapes_of(KREA, "bfl", prefix), **others}))
    assert (model.prefix, set(model.extras)) == (prefix, set(others))


def test_a_unit_knows_its_rows_and_dtype(tmp_path: Path) -> None:
    arrays = factory.tensors(KREA, "bfl")
    for name in arrays:
        if "norm" in name:
            arrays[name] = arrays[name].astype(np.float32)
    model = identify(open_checkpoint(factory.write(tmp_path / "m.safetensors", arrays)))
    for name, unit in model.units.items():
        held = arrays[unit.place.tensor]
        assert unit.name == name
        assert unit.rows == unit.place.end - unit.place.start
        assert unit.row_elements == math.prod(held.shape[1:])
        assert unit.dtype == ("F32" if ".norm." in name else "BF16")


@pytest.mark.parametrize(
    ("flux", "variant"),
    [
        (REAL, "FLUX.1 [dev] kind (guidance)"),
        (replace(REAL, guidance=False), "FLUX.1-schnell kind (no guidance)"),
        (replace(REAL, channels=128), "FLUX.1-Canny-dev or FLUX.1-Depth-dev, 128 input channels"),
        (replace(REAL, channels=384), "FLUX.1-Fill-dev, 384 input channels"),
        (replace(REAL, channels=196, double=8), "Flex.2, 196 input channels, 8 double + 38 single"),
        (replace(REAL, double=2, single=6), "guidance), 2 double + 6 single blocks (FLUX.1 has 19"),
        (SCHNELL, "width 64 (FLUX.1 has 3072)"),
    ],
)
def test_members_of_the_family_are_named(flux: Flux, variant: str) -> None:
    assert variant in identify(headers(factory.shapes_of(flux, "bfl"))).variant


def test_a_sparse_file_of_full_size_is_the_real_model(tmp_path: Path) -> None:
    path = factory.save_sparse(tmp_path / "dev.safetensors")
    model = identify(open_checkpoint(path))
    assert path.stat().st_size > 23_802_816_640
    assert model.arch == DEV
    assert len(model.units) == 1162


@pytest.mark.parametrize("flux", [SCHNELL, KREA, replace(KREA, channels=8, out=4)])
def test_config_and_tensors_agree_both_ways(tmp_path: Path, flux: Flux) -> None:
    model = identify(open_checkpoint(factory.save_folder(tmp_path / "m", flux)))
    assert config_of(model.arch) == factory.config(flux)
    assert config_of(arch_of(flux)) == factory.config(flux)


def test_a_published_config_may_leave_fields_out() -> None:
    schnell = {
        "_class_name": "FluxTransformer2DModel",
        "_diffusers_version": "0.30.0.dev0",
        "attention_head_dim": 128,
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    }
    shapes = factory.shapes_of(replace(REAL, guidance=False))
    for config in (schnell, {}, {**schnell, "_name_or_path": "x", "out_channels": None}):
        arch = identify(headers(shapes, config=config)).arch
        assert arch == replace(DEV, guidance=False)
    written = config_of(arch)
    assert {field: written[field] for field in schnell} == {
        **schnell,
        "_diffusers_version": "0.35.0.dev0",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 19}, "in 1 field: `num_layers` expected 2, got 19"),
        ({"guidance_embeds": False}, "`guidance_embeds` expected True, got False"),
        ({"out_channels": 32}, "`out_channels` expected 64, got 32"),
        ({"patch_size": 2}, "`patch_size` expected 1, got 2"),
        ({"num_layers": "2"}, "`num_layers` expected 2, got '2'"),
        (
            {"num_attention_heads": 24, "attention_head_dim": 128},
            "in 2 fields: `attention_head_dim` expected 16, got 128, `num_attention_heads`",
        ),
        ({"axes_dims_rope": [16, 56, 56]}, "add up to the head width 16, got [16, 56, 56]"),
        ({"axes_dims_rope": [5, 5, 6]}, "expected even numbers"),
        ({"axes_dims_rope": 16}, "expected even numbers"),
    ],
)
def test_a_config_that_contradicts_the_tensors(change: dict[str, Any], message: str) -> None:
    config = {**factory.config(KREA), **change}
    with pytest.raises(LayoutError) as caught:
        identify(headers(factory.shapes_of(KREA), config=config))
    assert message.replace("add up", "adding up") in caught.value.message
    assert caught.value.hint is not None


def test_generic_takes_every_tensor_by_its_own_name(tmp_path: Path) -> None:
    arrays: dict[str, factory.Array] = {
        "b": np.ones((3, 2, 5), np.float16),
        "a": np.array(2, np.int64),
    }
    model = identify(open_checkpoint(factory.write(tmp_path / "m", arrays)), layout="generic")
    assert (model.arch.family, model.layout, model.prefix, model.extras) == ("generic",) * 2 + (
        "",
        (),
    )
    assert {n: (u.rows, u.row_elements, u.dtype) for n, u in model.units.items()} == {
        "b": (3, 10, "F16"),
        "a": (1, 1, "I64"),
    }
    for refused in (config_of, unit_shapes, lambda arch: tensors_of(arch, "bfl")):
        with pytest.raises(LayoutError, match="`generic` family"):
            refused(model.arch)


@BOTH
def test_a_layout_can_be_demanded(layout: str) -> None:
    opened = headers(factory.shapes_of(KREA, layout))
    other = {"bfl": "diffusers", "diffusers": "bfl"}[layout]
    assert identify(opened, layout=layout).layout == layout
    with pytest.raises(LayoutError, match=r"expected a FLUX\.1 transformer"):
        identify(opened, layout=other)


def test_comfy_is_bfl_under_its_prefix() -> None:
    opened = headers(factory.shapes_of(KREA, "bfl", COMFY_PREFIX))
    assert identify(opened, layout="comfy").prefix == COMFY_PREFIX
    table = tensors_of(arch_of(KREA), "comfy")
    assert {tensor.name for tensor in table} == set(opened.tensors)
    with pytest.raises(LayoutError, match="got `bfi`") as caught:
        identify(opened, layout="bfi")
    assert caught.value.hint == "did you mean `bfl`?"
    with pytest.raises(LayoutError, match="got `same`"):
        tensors_of(DEV, "same")
