"""`scope: tensor`: formulas over the tensors of the files, against numpy on those tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import formulas
import submerge
from factory import Flux
from submerge.errors import LayoutError
from submerge.plan.scope import _name

if TYPE_CHECKING:
    from pathlib import Path

TRIO = {name: Flux(guidance=True, seed=seed) for seed, name in enumerate(("base", "anna", "carl"))}
FUSED = ("double_blocks.0.img_attn.qkv.weight", "single_blocks.1.linear1.weight")
TIES = {"ties": {"density": 0.3}}


def recipe(folder: Path, method: dict[str, Any], layout: str = "bfl", **more: Any) -> Any:
    folder.mkdir(exist_ok=True)
    paths = {
        name: str(factory.save_file(folder / f"{name}.safetensors", flux, layout))
        for name, flux in TRIO.items()
    }
    return {"models": paths, "base": "base", "method": method, "scope": "tensor", **more}


def merged(folder: Path, method: dict[str, Any], layout: str = "bfl", **more: Any) -> Any:
    given = recipe(folder, method, layout, output={"dtype": "f32"}, **more)
    out = folder / "out.safetensors"
    submerge.merge(given, out, overwrite=True)
    parents = {name: factory.read(folder / f"{name}.safetensors") for name in TRIO}
    wide = {
        model: {n: x.astype(np.float32) for n, x in found.items()}
        for model, found in parents.items()
    }
    return factory.read(out), wide


def test_a_threshold_is_that_of_the_whole_tensor(tmp_path: Path) -> None:
    got, of = merged(tmp_path, TIES)
    apart, _ = merged(tmp_path, TIES, scope="unit")
    for name in got:
        left = [formulas.largest(of[m][name] - of["base"][name], 0.3) for m in ("anna", "carl")]
        expected = formulas.delta(
            of["base"][name], left, [1.0, 1.0], normalize=True, consensus="plain"
        )
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
    assert all(not np.array_equal(got[name], apart[name]) for name in FUSED)


def test_angles_are_those_of_the_whole_tensor(tmp_path: Path) -> None:
    got, of = merged(tmp_path, {"slerp": {"alpha": 0.4}})
    for name in FUSED:
        a, b = (of[m][name].astype(np.float64).ravel() for m in ("anna", "carl"))
        expected = formulas.slerp(a, b, 0.4).reshape(got[name].shape)
        np.testing.assert_allclose(got[name], expected, atol=3e-6, err_msg=name)


def test_noise_is_counted_over_the_whole_tensor(tmp_path: Path) -> None:
    got, of = merged(tmp_path, {"dare_linear": {"density": 0.5, "weight": {"anna": 1}}}, seed=5)
    name, unit = FUSED[0], "double.0.img.attn.q.weight"
    d = formulas.random(
        of["anna"][name] - of["base"][name], 0.5, formulas.key(5, unit, "anna"), "inverse"
    )
    np.testing.assert_array_equal(got[name], formulas.delta(of["base"][name], [d], [1.0]))


def test_where_tensors_are_units_nothing_changes(tmp_path: Path) -> None:
    whole, _ = merged(tmp_path, {"sce": {}}, "diffusers")
    apart, _ = merged(tmp_path, {"sce": {}}, "diffusers", scope="unit")
    same = [n for n in whole if whole[n].tobytes() == apart[n].tobytes()]
    joined = [n for n in whole if n not in same]
    # The two halves of this one are units of their own.
    assert {name.rpartition(".")[0] for name in joined} <= {"norm_out.linear"}


def test_elements_by_themselves_need_no_whole_tensor(tmp_path: Path) -> None:
    given = recipe(tmp_path, {"task_arithmetic": {}}, output={"layout": "diffusers"})
    submerge.merge(given, tmp_path / "out.safetensors")


def test_a_tensor_that_is_no_whole_in_the_output_is_refused(tmp_path: Path) -> None:
    given = recipe(tmp_path, TIES, output={"layout": "diffusers"})
    with pytest.raises(LayoutError, match="is not one whole tensor in every model") as caught:
        submerge.merge(given, tmp_path / "out.safetensors")
    assert "leave `scope` out" in str(caught.value.hint)
    assert not (tmp_path / "out.safetensors").exists()


def test_parents_in_two_layouts_are_refused(tmp_path: Path) -> None:
    given = recipe(tmp_path, TIES)
    other = factory.save_file(tmp_path / "other.safetensors", TRIO["carl"], "diffusers")
    given["models"]["carl"] = str(other)
    with pytest.raises(LayoutError, match="expected all models and the output in one layout"):
        submerge.plan(given, tmp_path / "out.safetensors")


def test_two_formulas_in_one_tensor_are_refused(tmp_path: Path) -> None:
    rules = [{"where": "single[*].mlp", "method": {"ties": {"density": 0.5}}}]
    with pytest.raises(LayoutError, match="by 4 units with different parameters"):
        submerge.plan(recipe(tmp_path, TIES, rules=rules), tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("units", "name"),
    [
        (["double.0.img.attn.q.weight", "double.0.img.attn.k.weight"], "double.0.img.attn.weight"),
        (["single.3.attn.q.bias", "single.3.mlp.in.bias"], "single.3.bias"),
        (["final.mod.shift.weight", "final.mod.scale.weight"], "final.mod.weight"),
    ],
)
def test_a_joined_unit_is_called_by_what_its_parts_have_in_common(
    units: list[str], name: str
) -> None:
    assert _name(units) == name
