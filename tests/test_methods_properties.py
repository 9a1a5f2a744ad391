"""What holds for methods whatever the numbers are, and at the ends of what they can meet."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import factory
import formulas
import submerge
from factory import Flux
from submerge.errors import PlanError, SubmergeError
from submerge.methods import METHODS
from test_methods_merge import CASES, IDS, Case, recipe

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
SHARES = st.floats(0.0, 1.0)
WEIGHTS = st.floats(-2.0, 2.0).filter(lambda w: abs(w) > 1e-3)
NAMES = ("anna", "base", "carl", "dora")


def run(parents: dict[str, Any], method: Any, **fields: Any) -> dict[str, Any]:
    """Merge tensors; `parents` are models by name, each one array or arrays by name."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, given_ in parents.items():
            tensors = given_ if isinstance(given_, dict) else {"w": given_}
            path = factory.write(Path(folder, f"{name}.safetensors"), tensors)
            paths[name] = {"path": str(path), "layout": "generic"}
        out = Path(folder, "out.safetensors")
        asked = {k: v for k, v in fields.items() if v is not None}
        submerge.merge({"models": paths, "method": method, **asked}, out)
        return factory.read(out)


def random(seed: int, shape: tuple[int, ...] = (12, 31)) -> dict[str, Any]:
    made = np.random.default_rng(seed)
    base = made.standard_normal(shape).astype(np.float32)
    return {
        name: base
        if name == "base"
        else (base + made.standard_normal(shape) / 4).astype(np.float32)
        for name in NAMES
    }


# Identities.


@FEW
@given(seed=st.integers(0, 99), pair=st.tuples(WEIGHTS, WEIGHTS), scale=WEIGHTS)
@pytest.mark.parametrize("name", ["breadcrumbs", "dare_linear", "della_linear"])
def test_whole_deltas_are_task_arithmetic(
    name: str, seed: int, pair: tuple[float, float], scale: float
) -> None:
    parents = random(seed)
    given_ = {"weight": dict(zip(("anna", "carl"), pair, strict=True)), "lambda": scale}
    expected = run(parents, {"task_arithmetic": given_}, base="base")["w"]
    got = run(parents, {name: {"density": 1, **given_}}, base="base")["w"]
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "name",
    ["task_arithmetic", "norm_limit", "ties", "dare_linear", "dare_ties", "della", "della_linear",
     "breadcrumbs", "breadcrumbs_ties", "consensus_mask"],
)  # fmt: skip
def test_no_part_of_the_sum_is_the_base(name: str) -> None:
    parents = random(1)
    got = run(parents, {name: {"lambda": 0}}, base="base")["w"]
    assert got.tobytes() == parents["base"].tobytes()


@FEW
@given(seed=st.integers(0, 99), density=SHARES)
def test_ties_leaves_as_many_as_it_says(seed: int, density: float) -> None:
    parents = {name: random(seed)[name] for name in ("base", "anna")}
    got = run(parents, {"ties": {"density": density}}, base="base")["w"]
    n = got.size
    expected = n if density == 1 else max(1, int(density * n)) if density > 0 else 0
    assert np.count_nonzero(got != parents["base"]) == expected


@FEW
@given(seed=st.integers(0, 99), density=SHARES, gamma=st.floats(0.0, 0.5))
def test_breadcrumbs_leave_as_many_as_they_say(seed: int, density: float, gamma: float) -> None:
    parents = {name: random(seed)[name] for name in ("base", "anna")}
    given_ = {"breadcrumbs": {"density": density, "gamma": gamma}}
    got = run(parents, given_, base="base")["w"]
    assert np.count_nonzero(got != parents["base"]) == int(density * got.size)


@FEW
@given(seed=st.integers(0, 99), density=st.floats(0.2, 0.8))
@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_chance_leaves_about_as_many(name: str, seed: int, density: float) -> None:
    parents = {m: random(seed, (60, 50))[m] for m in ("base", "anna")}
    given_: dict[str, Any] = {"density": density, "rescale": "none"}
    if name == "della_linear":
        given_["epsilon"] = 0.1
    got = run(parents, {name: given_}, base="base", seed=seed)["w"]
    kept = np.count_nonzero(got != parents["base"])
    n = got.size
    assert abs(kept - density * n) < 5 * math.sqrt(n * density * (1 - density))


@FEW
@given(seed=st.integers(0, 99), t=st.floats(0.01, 0.99), size=st.floats(0.05, 3.0))
def test_slerp_from_inner_products_is_slerp_of_vectors(seed: int, t: float, size: float) -> None:
    parents = random(seed)
    a = parents["anna"]
    b = (a + np.float32(size) * (parents["carl"] - a)).astype(np.float32)
    got = run({"a": a, "b": b}, {"slerp": {"alpha": t}})["w"]
    expected = formulas.slerp(a.astype(np.float64).ravel(), b.astype(np.float64).ravel(), t)
    np.testing.assert_allclose(got.ravel(), expected, atol=3e-6)


# How it is run.

FIRST: dict[str, Case] = {case.method: case for case in reversed(CASES)}
# One of each kernel, and of each way to look at a unit.
KINDS = ("slerp", "ties", "dare_linear", "della", "sce", "arcee_fusion", "add_cosine_b",
         "ramplus_tl", "smooth_add", "consensus_mask")  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_threads_chunks_and_instruction_sets_change_no_bit(tmp_path: Path, name: str) -> None:
    case, outputs = FIRST[name], set()
    ways: list[dict[str, Any]] = [
        {"threads": 1, "chunk": 1 << 20, "isa": "scalar"},
        {"threads": 3, "chunk": 1 << 14, "isa": "auto"},
    ]
    for i, how in enumerate(ways):
        out = tmp_path / f"{i}.safetensors"
        submerge.merge(recipe(tmp_path, case), out, **how)
        outputs.add(b"".join(array.tobytes() for _, array in sorted(factory.read(out).items())))
    assert len(outputs) == 1


TRIO = {name: Flux(guidance=True, seed=seed) for seed, name in enumerate(("base", "anna", "carl"))}


@pytest.mark.parametrize("name", KINDS)
def test_layouts_and_shards_change_no_bit(tmp_path: Path, name: str) -> None:
    case = FIRST[name]
    models = [m for m in case.models if m in TRIO]
    given_ = {
        k: {m: w for m, w in v.items() if m in models} if isinstance(v, dict) else v
        for k, v in case.parameters.items()
    }
    outputs = []
    for kind in ("bfl", "diffusers", "shards"):
        folder = tmp_path / kind
        folder.mkdir()
        paths = {}
        for model in models:
            if kind == "shards":
                paths[model] = str(factory.save_folder(folder / model, TRIO[model], shards=3))
            else:
                path = folder / f"{model}.safetensors"
                paths[model] = str(factory.save_file(path, TRIO[model], kind))
        out = folder / "out.safetensors"
        fields = {"base": case.base, "compat": case.compat, "output": {"layout": "diffusers"}}
        asked = {k: v for k, v in fields.items() if v is not None}
        submerge.merge({"models": paths, "method": {name: given_}, **asked}, out)
        found = factory.read(out)
        outputs.append(b"".join(found[n].tobytes() for n in sorted(found)))
    assert outputs[0] == outputs[1] == outputs[2]


# The ends of what they can meet.

ODD: dict[str, tuple[int, ...]] = {
    "column": (40, 1), "line": (33,), "one": (1,), "row": (1, 17), "scalar": (), "none": (0, 3),
}  # fmt: skip


def odd(seed: int) -> dict[str, Any]:
    made = np.random.default_rng(seed)
    return {name: made.standard_normal(shape).astype(np.float32) for name, shape in ODD.items()}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_tensors_without_rows_columns_or_elements(case: Case) -> None:
    parents = {model: odd(NAMES.index(model)) for model in case.models}
    got = run(parents, {case.method: case.parameters}, base=case.base, compat=case.compat, seed=7)
    assert {name: array.shape for name, array in got.items()} == ODD
    assert all(np.isfinite(array).all() for array in got.values())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_models_that_are_equal_stay_what_they_are(case: Case) -> None:
    same = {"w": random(3)["base"], "zero": np.zeros((5, 7), np.float32), **odd(9)}
    parents = dict.fromkeys(case.models, same)
    fields = {"base": case.base, "compat": case.compat, "seed": 7}
    got = run(parents, {case.method: case.parameters}, **fields)
    for name, array in got.items():
        np.testing.assert_allclose(array, same[name], rtol=4e-7, err_msg=name)
        if case.base is not None:
            assert array.tobytes() == same[name].tobytes(), name


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_is_not_finite_stays_where_it_is(case: Case) -> None:
    parents = {model: random(5)[model].copy() for model in case.models}
    for place, value in [((0, 3), np.nan), ((2, 0), np.inf), ((7, 30), -np.inf)]:
        parents["carl"][place] = value
    if "matrix" in METHODS[case.method].ops:
        with pytest.raises(
            PlanError, match=r"3 elements of the (difference|models) are not finite"
        ):
            run(parents, {case.method: case.parameters}, base=case.base)
        return
    got = run(parents, {case.method: case.parameters}, base=case.base, compat=case.compat)["w"]
    broken = ~np.isfinite(parents["carl"])
    if case.method == "smooth_add":
        assert not np.isfinite(got[broken]).any()
    elif case.method == "clamp":
        assert np.isfinite(got[~broken]).all()  # bounds hold what is infinite
    else:
        np.testing.assert_array_equal(~np.isfinite(got), broken)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_of_equals_at_the_threshold_the_first_stay(density: float) -> None:
    base = np.zeros((30, 100), np.float32)
    signs = np.where(np.random.default_rng(0).random(base.shape) < 0.5, 1, -1)
    parents = {"base": base, "anna": (signs / 8).astype(np.float32)}
    kept = np.arange(base.size) < int(density * base.size)
    for method in ("ties", "breadcrumbs"):
        given_: dict[str, Any] = {"density": density}
        if method == "breadcrumbs":
            given_["gamma"] = 0
        got = run(parents, {method: given_}, base="base")["w"]
        np.testing.assert_array_equal(got.ravel() != 0, kept)


@FEW
@given(pair=st.tuples(WEIGHTS, WEIGHTS))
@pytest.mark.parametrize("consensus", ["plain", "sum", "count"])
def test_weights_below_zero_are_those_of_the_formula(
    consensus: str, pair: tuple[float, float]
) -> None:
    parents = random(4)
    weights = dict(zip(("anna", "carl"), pair, strict=True))
    given_ = {"weight": weights, "density": 0.5, "consensus": consensus}
    got = run(parents, {"ties": given_}, base="base")["w"]
    left = [formulas.largest(parents[m] - parents["base"], 0.5) for m in weights]
    expected = formulas.delta(
        parents["base"], left, list(pair), normalize=True, consensus=consensus
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "della", "breadcrumbs"])
def test_deltas_of_weights_that_cancel_are_not_divided(name: str) -> None:
    parents = random(6)
    given_ = {"weight": {"anna": 1, "carl": -1}, "normalize": True}
    got = run(parents, {name: given_}, base="base")["w"]
    assert np.isfinite(got).all()
    if name not in ("ties", "della"):
        plain = run(parents, {name: given_ | {"normalize": False}}, base="base")["w"]
        assert got.tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", ["linear", "multislerp"])
def test_means_of_weights_that_cancel_are_refused(name: str) -> None:
    with pytest.raises(SubmergeError, match=r"normalised|sum to 0"):
        run(random(6), {name: {"weight": {"anna": 1, "carl": -1}}})
