"""A family that nobody has heard of, declared as data alone, merges by blocks like FLUX.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from submerge.blocks import blocks_of, execution_key, part_of, position
from submerge.checkpoint import open_checkpoint
from submerge.errors import LayoutError, RecipeError
from submerge.layout import FAMILIES, Family, identify, unit_shapes
from submerge.layout.family import Names, Stack

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION = {"attn.q": ("hidden", "hidden"), "attn.k": ("hidden", "hidden"), "norm": ("8", None)}
# `wide` runs before `deep`, against the order of the letters; `deep` has two streams.
WIDE = {**ATTENTION, "ff": ("2*hidden", "hidden")}
DEEP = {f"{stream}.{unit}": shape for stream in ("left", "right") for unit, shape in WIDE.items()}
TOY = Family(
    name="toy",
    title="Toy",
    before={"patch": ("hidden", "in_channels")},
    stacks=(Stack("wide", WIDE), Stack("deep", DEEP, streams=("left", "right"))),
    after={"head": ("out_channels", "hidden")},
    parts=("attn.q", "attn.k", "norm", "ff"),
    read={
        "hidden": ("patch.weight", 0),
        "in_channels": ("patch.weight", 1),
        "out_channels": ("head.weight", 0),
    },
    layouts={
        "bfl": Names(
            norm="scale",
            before=(("patchify", ("patch",)),),
            stacks={
                "wide": (
                    "wide_layers",
                    (("qk", ("attn.q", "attn.k")), ("n", ("norm",)), ("ff", ("ff",))),
                ),
                "deep": (
                    "deep_layers",
                    tuple(
                        (f"{stream}_{module}", tuple(f"{stream}.{unit}" for unit in units))
                        for stream in ("left", "right")
                        for module, units in (
                            ("qk", ("attn.q", "attn.k")),
                            ("n", ("norm",)),
                            ("ff", ("ff",)),
                        )
                    ),
                ),
            },
            after=(("unpatchify", ("head",)),),
        ),
        "diffusers": Names(
            norm="weight",
            before=(("p", ("patch",)),),
            stacks={
                "wide": ("w", tuple((unit.replace(".", "_"), (unit,)) for unit in WIDE)),
                "deep": ("d", tuple((unit.replace(".", "_"), (unit,)) for unit in DEEP)),
            },
            after=(("h", ("head",)),),
        ),
    },
)
DEPTHS = (2, 3)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", TOY)


def units(seed: int) -> dict[str, factory.Array]:
    """The numbers of a model by unit."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for stem, shape in (
        ("patch", (16, 4)),
        *((f"wide.{i}.{u}", s) for i in range(DEPTHS[0]) for u, s in sizes(WIDE)),
        *((f"deep.{i}.{u}", s) for i in range(DEPTHS[1]) for u, s in sizes(DEEP)),
        ("head", (4, 16)),
    ):
        shapes[f"{stem}.weight"] = shape
        if len(shape) > 1:
            shapes[f"{stem}.bias"] = shape[:1]
    return {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def sizes(table: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    last = {"attn.q": (16, 16), "attn.k": (16, 16), "norm": (8,), "ff": (32, 16)}
    return [(unit, next(s for end, s in last.items() if unit.endswith(end))) for unit in table]


def saved(path: Path, numbers: dict[str, factory.Array], layout: str) -> Path:
    """A file in a layout, its tensors stacked here by hand."""
    tensors: dict[str, factory.Array] = {}
    names = TOY.layouts[layout]

    def put(module: str, inside: tuple[str, ...]) -> None:
        for parameter in ("weight", "bias"):
            parts = [numbers[f"{u}.{parameter}"] for u in inside if f"{u}.{parameter}" in numbers]
            if parts:
                scale = parameter if f"{inside[0]}.bias" in numbers else names.norm
                tensors[f"{module}.{scale}"] = np.concatenate(parts)

    for module, inside in (*names.before, *names.after):
        put(module, inside)
    for (stack, (called, table)), depth in zip(names.stacks.items(), DEPTHS, strict=True):
        for index in range(depth):
            for module, inside in table:
                put(f"{called}.{index}.{module}", tuple(f"{stack}.{index}.{u}" for u in inside))
    return factory.write(path, tensors)


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_it_is_recognised_and_merged_by_blocks(tmp_path: Path, layout: str) -> None:
    a, b = units(1), units(2)
    paths = [
        saved(tmp_path / "a.safetensors", a, layout),
        saved(tmp_path / "b.safetensors", b, "bfl"),
    ]
    recipe = {
        "models": {"a": str(paths[0]), "b": str(paths[1])},
        "alpha": 0.5,
        "rules": [
            {"where": "wide[0].attn", "take": "b"},
            {"where": "deep[1:].*.ff", "alpha": 0.25},
            {"where": "deep", "alpha": {"from": 0, "to": 1}},
            {"where": "head", "take": "a"},
        ],
    }
    report = submerge.merge(recipe, tmp_path / "out.safetensors")

    def alpha(name: str) -> float:
        words = name.split(".")
        if words[0] == "head":
            return 0.0
        if name.startswith("wide.0.attn"):
            return 1.0
        if words[0] == "deep":
            return 0.25 if words[3] == "ff" and words[1] != "0" else int(words[1]) / 2
        return 0.5

    expected = {
        name: np.float32(1 - alpha(name)) * a[name] + np.float32(alpha(name)) * b[name]
        for name in a
    }
    wanted = saved(tmp_path / "expected.safetensors", expected, layout)
    assert factory.read(tmp_path / "out.safetensors").keys() == factory.read(wanted).keys()
    for name, array in factory.read(wanted).items():
        assert np.array_equal(factory.read(tmp_path / "out.safetensors")[name], array), name
    blocks = list(dict.fromkeys(row.block for row in report.rows))
    assert blocks == ["patch", "wide.0", "wide.1", "deep.0", "deep.1", "deep.2", "head"]
    assert {row.part for row in report.rows if row.block == "deep.1"} == {
        "attn.q",
        "attn.k",
        "norm",
        "ff",
    }


def test_its_blocks_run_in_its_own_order(tmp_path: Path) -> None:
    model = identify(open_checkpoint(saved(tmp_path / "m.safetensors", units(0), "bfl")))
    assert (model.arch.family, model.arch.depths, model.variant) == ("toy", DEPTHS, "Toy")
    assert list(model.units) == list(unit_shapes(model.arch)) == list(units(0))
    assert blocks_of(reversed(list(model.units))) == [
        ("wide", 0),
        ("wide", 1),
        ("deep", 0),
        ("deep", 1),
        ("deep", 2),
    ]
    assert sorted(
        ["head.bias", "deep.0.left.ff.bias", "wide.1.ff.bias", "patch.bias"], key=execution_key
    ) == [
        "patch.bias",
        "wide.1.ff.bias",
        "deep.0.left.ff.bias",
        "head.bias",
    ]
    assert part_of("deep.2.right.attn.k.bias") == "attn.k"
    blocks = blocks_of(model.units)
    assert [
        position(n, blocks) for n in ("patch.bias", "deep.0.left.norm.weight", "head.bias")
    ] == [0, 0.5, 1]


def test_what_is_wrong_with_it_is_told_in_its_own_words(tmp_path: Path) -> None:
    numbers = units(0)
    path = saved(
        tmp_path / "m.safetensors",
        {n: x for n, x in numbers.items() if n != "wide.1.ff.bias"},
        "bfl",
    )
    with pytest.raises(
        LayoutError,
        match=r"2 tensors of 44 missing, expected the bfl layout of Toy with 2 wide \+ 3 deep",
    ):
        identify(open_checkpoint(path))
    recipe: dict[str, Any] = {"models": {"a": str(saved(path, numbers, "bfl"))}}
    plan = submerge.plan(recipe, tmp_path / "o.safetensors")
    assert plan.about.guidance == "none: no model has a guidance embedder"
    with pytest.raises(RecipeError, match="no model has guidance"):
        submerge.plan(recipe | {"guidance": {"bake": 3.5}}, tmp_path / "o.safetensors")
    flux = factory.save_file(tmp_path / "flux.safetensors", factory.KREA)
    with pytest.raises(LayoutError, match="different architectures: family toy and flux1"):
        submerge.plan({"models": {"a": str(path), "b": str(flux)}}, tmp_path / "o.safetensors")
