"""Every method through a whole merge, against its formula in numpy.

Equality: `exact` methods agree bit for bit in F32; the others to a few units of their last place,
as their norms and angles are summed in another order.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import formulas
import formulas_matrix
import submerge
from submerge import _core, cli
from submerge.methods import METHODS
from submerge.methods.base import CLOSE as CLOSELY
from units_matrix import decomposed, decorrelated, rotated, shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from formulas import Vector

SHAPES = {"a.weight": (24, 48), "b.weight": (300, 260), "c.bias": (97,), "d.scale": (1, 70)}
MODELS = ("anna", "base", "carl", "dora")
# A few ulp of f32 for numbers about 1.
CLOSE = 3e-6


def parent(model: str) -> dict[str, Vector]:
    """A base and what three models learned on top of it."""
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        x = np.random.default_rng(i).standard_normal(shape)
        if model != "base":
            mine = np.random.default_rng(100 * (1 + MODELS.index(model)) + i)
            x = x + 0.4 * mine.standard_normal(shape) * (mine.random(shape) < 0.8)
        found[name] = x.astype(np.float32)
    return found


PARENTS = {model: parent(model) for model in MODELS}


@dataclass(frozen=True)
class Case:
    """A method with its parameters, the recipe's models in order, and the formula of one unit."""

    method: str
    parameters: dict[str, Any]
    models: tuple[str, ...]
    formula: Callable[[str, dict[str, Vector]], Vector]
    words: str
    exact: bool = False
    base: str | None = None
    compat: str | None = None


def flat(formula: Callable[..., Vector], order: str, **arguments: Any) -> Any:
    """A formula of whole units in f64."""

    def unit(_: str, of: dict[str, Vector]) -> Vector:
        operands = [of[model].astype(np.float64).ravel() for model in order.split()]
        return formula(*operands, **arguments)

    return unit


def rowwise(formula: Callable[..., Vector], order: str, **arguments: Any) -> Any:
    """A formula of rows in f64; a bias is one row, as in mergekit."""

    def unit(_: str, of: dict[str, Vector]) -> Vector:
        operands = [np.atleast_2d(of[model].astype(np.float64)) for model in order.split()]
        return formulas.by_rows(formula, *operands, **arguments)

    return unit


def wide(formula: Callable[..., Vector], order: str, **arguments: Any) -> Any:
    """A formula of whole units in f64 that keep their shape."""
    return lambda _, of: formula(*(of[m].astype(np.float64) for m in order.split()), **arguments)


def single(formula: Callable[..., Vector], order: str, **arguments: Any) -> Any:
    """A formula of single elements in f32."""
    return lambda _, of: formula(*(of[model] for model in order.split()), **arguments)


def deltas(
    thin: Callable[[str, str, Vector], Vector], weights: dict[str, float], **arguments: Any
) -> Any:
    def unit(name: str, of: dict[str, Vector]) -> Vector:
        left = [thin(name, model, of[model] - of["base"]) for model in weights]
        return formulas.delta(of["base"], left, list(weights.values()), **arguments)

    return unit


def whole(_: str, __: str, d: Vector) -> Vector:
    return d


TWO, PAIR, ALL = ("carl", "anna"), {"anna": 0.7, "carl": 0.4}, ("dora", "anna", "base", "carl")
THREE = {"anna": 1.0, "carl": 0.5, "dora": -0.25}
OTHERS = dict.fromkeys(("anna", "carl", "dora"), 1.0)


def random(density: float, rescale: str) -> Any:
    return lambda unit, model, d: formulas.random(d, density, formulas.key(7, unit, model), rescale)


def ranked(density: float, epsilon: float, rescale: str) -> Any:
    return lambda unit, model, d: formulas.ranked(
        d, density, epsilon, formulas.key(7, unit, model), rescale
    )


def thinned(formula: Callable[..., Vector], *shares: float) -> Any:
    return lambda _, __, d: formula(d, *shares)


CASES = [
    Case("slerp", {"alpha": 0.3}, TWO, flat(formulas.slerp, "carl anna", t=0.3),
         "slerp from carl to anna at 0.30"),
    Case("slerp", {"alpha": 0.3, "rowwise": True}, TWO,
         rowwise(formulas.slerp, "carl anna", t=0.3),
         "slerp from carl to anna at 0.30, row by row"),
    Case("norm_lerp", {"alpha": 0.6}, TWO, flat(formulas.norm_lerp, "carl anna", t=0.6),
         "norm_lerp from carl to anna at 0.60"),
    Case("nuslerp", {"alpha": 0.25}, TWO, flat(formulas.nuslerp, "carl anna", t=0.25),
         "nuslerp from carl to anna at 0.25"),
    Case("nuslerp", {"alpha": 0.25}, ("carl", "base", "anna"),
         flat(formulas.nuslerp, "base carl anna", t=0.25),
         "nuslerp from carl to anna at 0.25 on base", base="base"),
    Case("multislerp", {"weight": {"carl": 2, "anna": 1, "dora": 1}}, ALL,
         flat(formulas.multislerp, "anna carl dora", weights=[1.0, 2.0, 1.0]),
         "multislerp of anna + 2.00 * carl + dora"),
    Case("karcher", {}, (*TWO, "dora"), flat(formulas.karcher, "anna carl dora"),
         "karcher of anna, carl, dora"),
    Case("geometric_median", {}, (*TWO, "dora"),
         flat(formulas.geometric_median, "anna carl dora"),
         "geometric_median of anna, carl, dora"),
    Case("model_stock", {}, ALL, flat(formulas.model_stock, "base anna carl dora"),
         "model_stock of anna, carl, dora on base", base="base"),
    Case("model_stock", {"rowwise": True}, ALL,
         rowwise(formulas.model_stock, "base anna carl dora"),
         "model_stock of anna, carl, dora on base, row by row", base="base"),
    Case("orthogonal", {"alpha": 0.8, "base": "base"}, ("carl", "anna", "base"),
         flat(formulas.orthogonal, "base carl anna", alpha=0.8),
         "carl + 0.80 * what is new in anna on base"),
    Case("polar", {"direction": 0.7, "norm": 0.0}, TWO,
         flat(formulas.polar, "carl anna", direction=0.7, length=0.0),
         "polar from carl to anna: direction at 0.70, norm at 0.00"),
    Case("polar", {"direction": 0, "norm": 0.25, "rowwise": True}, TWO,
         rowwise(formulas.polar, "carl anna", direction=0.0, length=0.25),
         "polar from carl to anna: direction at 0.00, norm at 0.25, row by row"),
    Case("norm_limit", {"weight": PAIR, "lambda": 0.5, "limit": 0.1}, ALL,
         flat(formulas.norm_limit, "base anna carl", weights=[0.35, 0.2], limit=0.1),
         "base + 0.50 * (0.70 * anna + 0.40 * carl), at most 0.10 away", base="base"),
    Case("norm_limit", {"weight": PAIR, "limit": 9}, ALL,
         flat(formulas.norm_limit, "base anna carl", weights=[0.7, 0.4], limit=9.0),
         "base + (0.70 * anna + 0.40 * carl), at most 9.00 away", base="base"),
    Case("lerp", {"alpha": 0.25}, TWO,
         single(lambda a, b: np.float32(0.25) * a + np.float32(0.75) * b, "anna carl"),
         "0.75 * carl + 0.25 * anna", exact=True),
    Case("add_difference", {"alpha": 0.5}, ("carl", "anna", "base"),
         single(lambda a, b, c: np.float32(0.5) * a + np.float32(-0.5) * b + c, "anna base carl"),
         "carl + 0.50 * anna - 0.50 * base", exact=True),
    Case("task_arithmetic", {"weight": PAIR, "lambda": 0.8}, ALL,
         deltas(whole, PAIR, scale=0.8), "base + 0.80 * task_arithmetic(0.70 * anna + 0.40 * carl)",
         exact=True, base="base"),
    Case("ties", {"weight": THREE, "density": 0.4}, ALL,
         deltas(thinned(formulas.largest, 0.4), THREE, normalize=True, consensus="plain"),
         "base + ties(anna + 0.50 * carl - 0.25 * dora; density 0.40)", exact=True, base="base"),
    Case("ties", {"weight": THREE, "density": 0.4}, ALL,
         deltas(thinned(formulas.largest, 0.4), THREE, normalize=True, consensus="sum",
                even="positive"),
         "base + ties(anna + 0.50 * carl - 0.25 * dora; density 0.40)",
         exact=True, base="base", compat="mergekit"),
    Case("ties", {"density": {"anna": 0.5, "carl": 0.5, "dora": 1}, "consensus": "count"}, ALL,
         deltas(lambda _, m, d: formulas.largest(d, 1 if m == "dora" else 0.5), OTHERS,
                normalize=True, consensus="count"),
         "base + ties(anna + carl + dora; density 0.50, 1.00)", exact=True, base="base"),
    Case("breadcrumbs", {"density": 0.7, "gamma": 0.1, "weight": PAIR}, ALL,
         deltas(thinned(formulas.middle, 0.7, 0.1), PAIR),
         "base + breadcrumbs(0.70 * anna + 0.40 * carl; density 0.70; gamma 0.10)",
         exact=True, base="base"),
    Case("breadcrumbs_ties", {"density": 0.7, "gamma": 0.1}, ALL,
         deltas(thinned(formulas.middle, 0.7, 0.1), OTHERS, consensus="sum"),
         "base + breadcrumbs_ties(anna + carl + dora; density 0.70; gamma 0.10)",
         exact=True, base="base"),
    Case("dare_linear", {"density": 0.3}, ALL,
         deltas(random(0.3, "inverse"), OTHERS),
         "base + dare_linear(anna + carl + dora; density 0.30)", exact=True, base="base"),
    Case("dare_linear", {"density": 0.3}, ALL, deltas(random(0.3, "l1"), OTHERS),
         "base + dare_linear(anna + carl + dora; density 0.30)", base="base", compat="mergekit"),
    Case("dare_ties", {"density": 0.5, "rescale": "none", "weight": PAIR}, ALL,
         deltas(random(0.5, "none"), PAIR, consensus="plain"),
         "base + dare_ties(0.70 * anna + 0.40 * carl; density 0.50)", exact=True, base="base"),
    Case("della", {"density": 0.6, "epsilon": 0.2, "rescale": "none"}, ALL,
         deltas(ranked(0.6, 0.2, "none"), OTHERS, normalize=True, consensus="sum"),
         "base + della(anna + carl + dora; density 0.60; epsilon 0.20)", exact=True, base="base"),
    Case("dare_ties", {"density": 0.5, "rescale": "l1"}, ALL,
         deltas(random(0.5, "l1"), OTHERS, consensus="plain"),
         "base + dare_ties(anna + carl + dora; density 0.50)", base="base"),
    Case("della", {"density": 0.6}, ALL,
         deltas(ranked(0.6, 0.15, "l1"), OTHERS, normalize=True, consensus="sum"),
         "base + della(anna + carl + dora; density 0.60; epsilon 0.15)",
         base="base", compat="mergekit"),
    Case("della_linear", {"density": 0.6, "rescale": "l1"}, ALL,
         deltas(ranked(0.6, 0.15, "l1"), OTHERS),
         "base + della_linear(anna + carl + dora; density 0.60; epsilon 0.15)", base="base"),
    Case("della_linear", {"density": 0.6}, ALL,
         deltas(ranked(0.6, 0.15, "inverse"), OTHERS),
         "base + della_linear(anna + carl + dora; density 0.60; epsilon 0.15)",
         exact=True, base="base"),
    Case("nearswap", {"t": 0.1}, TWO, single(formulas.nearswap, "carl anna", t=0.1),
         "carl, anna where it is within 0.10", exact=True),
    Case("ram", {}, ALL, single(formulas.ram, "base anna carl dora"),
         "base + ram(anna + carl + dora)", exact=True, base="base"),
    Case("ramplus_tl", {"r": 0.5, "alpha": 3.0}, ALL,
         single(formulas.ramplus, "base anna carl dora", r=0.5, alpha=3.0, epsilon=1e-5),
         "base + ramplus_tl(anna + carl + dora)", exact=True, base="base"),
    Case("sce", {}, ALL, single(formulas.sce, "base anna carl dora"),
         "base + sce(anna + carl + dora)", base="base"),
    Case("sce", {"select_topk": 0.3}, ALL, single(formulas.sce, "base anna carl dora", share=0.3),
         "base + sce(anna + carl + dora; the 0.30 that differ most)", base="base"),
    Case("sce", {}, ALL, single(formulas.sce, "base anna carl dora", floor=1e-6),
         "base + sce(anna + carl + dora)", base="base", compat="mergekit"),
    Case("arcee_fusion", {}, TWO, single(formulas.arcee_fusion, "carl anna"),
         "carl, anna where it matters most", exact=True),
    Case("add_cosine_a", {"alpha": 0.5}, TWO,
         wide(formulas.add_cosine, "carl anna", alpha=0.5, whole=False),
         "add_cosine_a of carl and anna at 0.50"),
    Case("add_cosine_b", {"alpha": 0.5}, TWO,
         wide(formulas.add_cosine, "carl anna", alpha=0.5, whole=True),
         "add_cosine_b of carl and anna at 0.50"),
    Case("add_opposite", {"alpha": 0.7}, ("carl", "anna", "base"),
         single(formulas.add_opposite, "carl anna base", alpha=0.7),
         "add_opposite(carl + 0.70 * (anna - base))", exact=True),
    Case("add_strict_opposite", {"alpha": 0.7}, ("carl", "anna", "base"),
         single(formulas.add_strict_opposite, "carl anna base", alpha=0.7),
         "add_strict_opposite(carl + 0.70 * (anna - base))", exact=True),
    Case("smooth_add", {"alpha": 0.7}, ("carl", "anna", "base"),
         single(formulas.smooth_add, "carl anna base", alpha=0.7),
         "smooth_add(carl + 0.70 * (anna - base))"),
    Case("train_difference", {"alpha": 0.7}, ("carl", "anna", "base"),
         single(formulas.train_difference, "carl anna base", alpha=0.7),
         "train_difference(carl + 0.70 * (anna - base))", exact=True),
    Case("clamp", {"alpha": 1.5}, ("carl", "anna", "base"),
         single(formulas.clamp, "carl anna base", alpha=1.5),
         "clamp(carl + 1.50 * (anna - base))", exact=True),
    Case("consensus_mask", {"tolerance": 0.5, "lambda": 0.9}, ALL,
         single(formulas.consensus_mask, "base anna carl dora", weights=[1.0] * 3, scale=0.9,
                tolerance=0.5, agree=2),
         "base + 0.90 * consensus_mask(anna + carl + dora; tolerance 0.50, 2 agree)",
         exact=True, base="base"),
    Case("truncated_svd", {"rank": 70, "weight": PAIR, "lambda": 0.8}, ALL,
         decomposed(lambda d: formulas_matrix.truncated(d, 70), PAIR, scale=0.8),
         "base + 0.80 * truncated_svd(0.70 * anna + 0.40 * carl; rank 70)", base="base"),
    Case("truncated_svd", {"energy": 0.6, "base": "dora", "delta_base": "base"}, ALL,
         decomposed(lambda d: formulas_matrix.energetic(d, 0.6), {"anna": 1.0, "carl": 1.0},
                    to="dora"),
         "dora + truncated_svd(anna + carl; energy 0.60; from base)"),
    Case("iso_c", {"lambda": 0.9}, ALL,
         decomposed(lambda d: formulas_matrix.isotropic(d, 3), OTHERS, scale=0.9),
         "base + 0.90 * iso_c(anna + carl + dora)", base="base"),
    Case("tsv_m", {"weight": PAIR, "lambda": 0.8}, ALL, decorrelated(PAIR, scale=0.8),
         "base + 0.80 * tsv_m(0.70 * anna + 0.40 * carl)", base="base"),
    Case("tsv_m", {"rank": 60}, ALL, decorrelated(OTHERS, rank=60),
         "base + tsv_m(anna + carl + dora; rank 60)", base="base"),
    Case("knots", {"density": 0.5, "lambda": 0.9}, ALL, shared(OTHERS, 0.9, density=0.5),
         "base + 0.90 * knots(anna + carl + dora; density 0.50)", base="base"),
    Case("knots", {"weight": PAIR, "consensus": "sum", "normalize": False}, ALL,
         shared(PAIR, signs="sum", normalize=False),
         "base + knots(0.70 * anna + 0.40 * carl; density 1.00)", base="base"),
    Case("rotate", {"alpha": 0.3}, TWO, rotated(0.3, 1),
         "0.30 * anna + 0.70 * rotate(carl to anna)"),
    Case("rotate", {"alpha": 0.3, "alignment": 0}, TWO, rotated(0.3, 0),
         "0.70 * carl + 0.30 * rotate(anna to carl)"),
    Case("rotate", {"alpha": 0.3, "alignment": 0.25}, TWO, rotated(0.3, 0.25),
         "0.70 * rotate(carl to anna; 0.25 of the way) + 0.30 * rotate(anna to carl; 0.75 of the "
         "way)"),
]  # fmt: skip
IDS = [f"{case.method}-{i}" for i, case in enumerate(CASES)]


def recipe(folder: Path, case: Case, models: tuple[str, ...] | None = None) -> dict[str, Any]:
    paths = {}
    for model in case.models if models is None else models:
        path = folder / f"{model}.safetensors"
        if not path.exists():
            factory.write(path, PARENTS[model])
        paths[model] = {"path": str(path), "layout": "generic"}
    made = {"models": paths, "method": {case.method: case.parameters}, "seed": 7}
    chosen = {"base": case.base, "compat": case.compat}
    return made | {field: value for field, value in chosen.items() if value is not None}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_method_is_its_formula(tmp_path: Path, case: Case) -> None:
    out = tmp_path / "out.safetensors"
    plan = submerge.plan(recipe(tmp_path, case), out)
    assert f"result = {case.words}" in plan.describe().splitlines()
    submerge.merge(recipe(tmp_path, case), out)
    found = factory.read(out)
    assert found.keys() == SHAPES.keys()
    for name, shape in SHAPES.items():
        expected = case.formula(name, {model: PARENTS[model][name] for model in case.models})
        got = found[name]
        assert got.dtype == np.float32
        assert not np.array_equal(got, PARENTS[case.models[0]][name])
        if case.exact:
            assert expected.dtype == np.float32
            np.testing.assert_array_equal(got, expected, err_msg=name)
        else:
            np.testing.assert_allclose(got, expected.reshape(shape), atol=CLOSE, err_msg=name)


def test_every_method_has_a_case() -> None:
    assert {case.method for case in CASES} | {"linear"} == set(METHODS)


def test_the_cases_use_all_that_the_core_can_do(tmp_path: Path) -> None:
    """What methods write into plans, families' own operations included, is what the core lists."""
    used: dict[str, set[str]] = {}
    for case in CASES:
        plan = json.loads(submerge.plan(recipe(tmp_path, case), tmp_path / "out").to_json())
        for unit in plan["units"]:
            ((op, arguments),) = unit["op"].items()
            inside = {"delta": "sparsify", "matrix": "make"}.get(op)
            used.setdefault(op, set()).update(arguments[inside] if inside else arguments)
    families = json.loads(_core.build_info())["families"]
    # A rule is a rule by rows as well, whether a method offers it or not.
    assert used.pop("rows") < set(families.pop("rows")) == used["combine"]
    assert {op: sorted(names) for op, names in used.items() if op in families} == families


def test_the_catalogue_tells_how_exact_the_cases_are() -> None:
    for name, method in METHODS.items():
        cases = [case for case in CASES if case.method == name]
        exact = all(case.exact for case in cases)
        assert exact == (method.equal["numpy"] != CLOSELY), name


# Where the first and the second model are that by their place.
ORDERED = {"lerp", "slerp", "norm_lerp", "polar", "nuslerp", "orthogonal", "nearswap",
           "add_difference", "train_difference", "clamp", "add_opposite", "add_strict_opposite",
           "smooth_add", "arcee_fusion", "add_cosine_a", "add_cosine_b"}  # fmt: skip
PERMUTED = [case for case in CASES if case.method not in ORDERED]


@pytest.mark.parametrize("case", PERMUTED, ids=[case.method for case in PERMUTED])
def test_the_order_of_models_changes_no_bit(tmp_path: Path, case: Case) -> None:
    outputs = set()
    for i, order in enumerate(itertools.islice(itertools.permutations(case.models), 0, None, 5)):
        out = tmp_path / f"{i}.safetensors"
        submerge.merge(recipe(tmp_path, case, order), out)
        outputs.add(b"".join(array.tobytes() for _, array in sorted(factory.read(out).items())))
    assert len(outputs) == 1


def test_the_report_says_which_units_took_another_branch(tmp_path: Path) -> None:
    near = {name: x * np.float32(1.0001) for name, x in PARENTS["anna"].items()}
    near["c.bias"] = PARENTS["carl"]["c.bias"]
    paths = {
        "anna": factory.write(tmp_path / "a.safetensors", PARENTS["anna"]),
        "near": factory.write(tmp_path / "b.safetensors", near),
    }
    models = {name: {"path": str(path), "layout": "generic"} for name, path in paths.items()}
    made = submerge.merge({"models": models, "method": "slerp"}, tmp_path / "out.safetensors")
    (note,) = [note for note in made.summary["notes"] if "parallel" in note]
    assert note.startswith("nearly parallel (cosine above 0.9995): linear, in 3 units: ")
    assert "c.bias" not in note


def test_the_command_line_tells_them_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("anna", "carl"):
        factory.write(tmp_path / f"{name}.safetensors", PARENTS["anna"])
    made = tmp_path / "recipe.yaml"
    lines = [f"  {n}: {{path: {tmp_path / n}.safetensors, layout: generic}}" for n in TWO]
    made.write_text("\n".join(["models:", *lines, "method: slerp", ""]), encoding="utf-8")
    assert cli._run(["merge", str(made), "-o", str(tmp_path / "out.safetensors")]) == 0
    assert (
        "nearly parallel (cosine above 0.9995): linear, in 4 units: `**`" in capsys.readouterr().out
    )
