"""Recipes suggested for crafted pairs: they load, they plan, and they say why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

import factory
from submerge import RecipeError, analyze, plan, suggest
from submerge.cli import app

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]

SCHNELL = factory.Flux(seed=5)
GUIDED = replace(SCHNELL, guidance=True)
GOALS = ["few-step", "quality", "balanced"]


def model(path: Path, flux: factory.Flux, changes: dict[str, float], seed: int = 1) -> Path:
    """The tensors of a model, those whose name holds a key moved by noise of that relative size."""
    random = np.random.default_rng(seed)
    held = factory.tensors(flux)
    for name, array in held.items():
        for key, size in changes.items():
            if key in name:
                wide: Array = array.astype(np.float32)
                noise = random.normal(0, size, array.shape) * float(np.abs(wide).mean())
                held[name] = np.asarray(wide + noise).astype(array.dtype)
                break
    return factory.write(path, held)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "schnell": model(folder / "schnell.safetensors", SCHNELL, {"": 0.1}),
        "krea": model(folder / "krea.safetensors", GUIDED, {"norm1.linear": 0.0, "": 0.1}, 2),
        "dev": model(folder / "dev.safetensors", GUIDED, {}),
        "near": model(folder / "near.safetensors", SCHNELL, {"mlp": 0.01, "": 0.0}),
        "plain": model(folder / "plain.safetensors", SCHNELL, {}),
    }


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("third", [None, "dev"])
def test_a_suggestion_loads_plans_and_explains_itself(
    paths: dict[str, Path], tmp_path: Path, goal: Any, third: str | None
) -> None:
    base = None if third is None else paths[third]
    found = suggest(paths["schnell"], paths["krea"], base, goal=goal)
    made = plan(found.save(tmp_path / "recipe.yaml"), tmp_path / "out")
    assert made.about.parents[0].name == "schnell"
    assert f"for the goal: {goal}." in found.text
    assert "no image was made" in found.text
    assert all(f"# {line}" in found.text for line in found.evidence)
    total = analyze(paths["schnell"], paths["krea"], base).total()
    assert f"cosine {total.cosine:.5f}" in found.text


def formula(made: Any, unit: str) -> str:
    return next(str(u.formula) for u in made.units if u.name == unit)


def test_few_steps_without_a_base_take_blocks_whole(paths: dict[str, Path], tmp_path: Path) -> None:
    made = plan(suggest(paths["schnell"], paths["krea"], goal="few-step").recipe, tmp_path / "out")
    assert formula(made, "double.1.img.attn.q.weight") == "krea"
    assert formula(made, "double.1.img.mod.weight") == "schnell"
    assert formula(made, "single.1.attn.q.weight") == "schnell"
    assert {unit.op for unit in made.units} == {"copy"}


def test_a_base_calls_for_arithmetic(paths: dict[str, Path], tmp_path: Path) -> None:
    found = suggest(paths["schnell"], paths["krea"], paths["dev"], goal="few-step")
    weights = {"krea": 1.0, "schnell": 1.0, "dev": -1.0}
    assert found.recipe.to_dict()["method"]["linear"]["weight"] == weights
    made = plan(found.recipe, tmp_path / "out")
    assert formula(made, "guidance.in.weight") == "krea"


def test_opposing_changes_lower_lambda(tmp_path: Path) -> None:
    base = factory.tensors(SCHNELL)
    random = np.random.default_rng(4)
    held: dict[str, dict[str, Array]] = {"a": {}, "b": {}}
    for name, array in base.items():
        wide: Array = array.astype(np.float32)
        change = random.normal(0, 0.1, array.shape) * float(np.abs(wide).mean())
        held["a"][name] = np.asarray(wide + change).astype(array.dtype)
        held["b"][name] = np.asarray(wide - change).astype(array.dtype)
    a, b = (factory.write(tmp_path / f"{name}.safetensors", held[name]) for name in ("a", "b"))
    c = factory.write(tmp_path / "c.safetensors", base)
    found = suggest(a, b, c)
    assert found.recipe.to_dict()["method"]["linear"]["weight"] == {"b": 1.0, "a": 0.6, "c": -0.6}
    assert any("lambda is lowered by 0.2" in line for line in found.evidence)


def test_what_is_identical_is_copied(paths: dict[str, Path], tmp_path: Path) -> None:
    found = suggest(paths["plain"], paths["near"])
    made = plan(found.recipe, tmp_path / "out")
    assert formula(made, "double.0.img.attn.q.weight") == "plain"
    assert formula(made, "single.1.mlp.in.weight") != "plain"
    assert any("identical in both" in line for line in found.evidence)


def test_slerp_is_suggested_only_where_it_differs_from_a_sum(paths: dict[str, Path]) -> None:
    apart = suggest(paths["schnell"], paths["krea"])
    near = suggest(paths["plain"], paths["near"])
    assert apart.recipe.method is not None
    assert near.recipe.method is None
    assert all("slerp" not in str(rule) for rule in near.recipe.to_dict()["rules"])


def test_units_that_are_not_finite_are_taken_from_the_other(tmp_path: Path) -> None:
    a = factory.save_file(tmp_path / "a.safetensors", SCHNELL)
    held = factory.tensors(SCHNELL)
    held["transformer_blocks.1.attn.to_q.weight"][3, 4] = np.nan
    b = factory.write(tmp_path / "b.safetensors", held)
    found = suggest(a, b)
    made = plan(found.recipe, tmp_path / "out")
    assert formula(made, "double.1.img.attn.q.weight") == "a"
    assert any("holds elements that are not finite" in line for line in found.evidence)


def test_networks_trained_apart_come_with_a_warning(tmp_path: Path) -> None:
    a = factory.save_file(tmp_path / "a.safetensors", factory.SCHNELL)
    b = factory.save_file(tmp_path / "b.safetensors", factory.KREA)
    assert "# WARNING: relatives have a cosine of 0.9 or more" in suggest(a, b).text


def test_tensors_of_no_known_layout_get_a_recipe_too(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    a = {"x.weight": random.standard_normal((8, 8)).astype(np.float32)}
    b = {"x.weight": a["x.weight"] * np.float32(1.1)}
    paths = [factory.write(tmp_path / f"{n}.safetensors", x) for n, x in (("a", a), ("b", b))]
    for goal in GOALS:
        found = suggest(*paths, layout="generic", goal=goal)  # type: ignore[arg-type]
        assert plan(found.recipe, tmp_path / "out.safetensors").units


def test_a_saved_analysis_is_enough(paths: dict[str, Path], tmp_path: Path) -> None:
    analysis = analyze(paths["schnell"], paths["krea"])
    saved = analysis.save(tmp_path / "analysis.json")
    assert suggest(saved).text == suggest(analysis).text
    runner = CliRunner()
    target = tmp_path / "recipe.yaml"
    done = runner.invoke(app, ["suggest", str(saved), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert target.read_text() == suggest(analysis).text
    models = [str(paths[name]) for name in ("schnell", "krea")]
    printed = runner.invoke(app, ["suggest", *models, "-q"])
    assert printed.stdout == suggest(analysis).text


def test_wrong_requests_are_refused(paths: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match="goal: expected one of few-step, quality, balanced"):
        suggest(paths["schnell"], paths["krea"], goal="best")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="suggest: one model, expected two"):
        suggest(paths["schnell"])
    done = CliRunner().invoke(app, ["suggest", str(paths["schnell"])])
    assert done.exit_code == 2
