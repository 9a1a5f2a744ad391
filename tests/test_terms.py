"""Operands made of terms, and terms added to a result, through the core, against numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import factory
import oracle
from boundary import blended, execute, linear, place, rows, source
from formulas_terms import KINDS, Terms, job, thin, total
from submerge import PlanError, _core

if TYPE_CHECKING:
    from factory import Array
    from formulas_terms import Made

ISAS = json.loads(_core.build_info())["isas"]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3"])
def test_rows_and_a_product_are_merged_as_their_sum(tmp_path: Path, dtype: str) -> None:
    height, columns, rank = 130, 1037, 7
    shapes = {"w": (height, columns), "up": (height, rank), "down": (rank, columns)}
    paths, read = [], []
    for seed in range(2):
        random = np.random.default_rng(seed)
        made = {n: random.normal(size=s).astype(factory._NUMPY[dtype]) for n, s in shapes.items()}
        paths.append(factory.write(tmp_path / f"{seed}.safetensors", made))
        read.append(made)
    out = tmp_path / "out.safetensors"
    plan = blended(out, paths, [0.3, 0.7])
    plan["outputs"] = [{"file": 0, "name": "w", "dtype": dtype, "shape": [height, columns]}]
    scales = (0.37, -1.5)
    operands = [
        [
            *rows(i, "w", 0, height),
            {
                "low_rank": {
                    "up": place(i, "up", 0, height),
                    "down": place(i, "down", 0, rank),
                    "scale": scale,
                }
            },
        ]
        for i, scale in enumerate(scales)
    ]
    unit = {"name": "w", "output": 0, "start": 0, "end": height, "op": linear(0.3, 0.7)}
    plan["units"] = [unit | {"operands": operands}]
    f32 = [{name: array.astype(np.float32) for name, array in made.items()} for made in read]
    sums = [
        made["w"] + thin(made["up"], made["down"]) * np.float32(scale)
        for made, scale in zip(f32, scales, strict=True)
    ]
    expected = {"w": oracle.weighted(sums, [0.3, 0.7], dtype)}
    for threads, chunk, isa in ((1, 1 << 20, "auto"), (2, 1, "scalar"), (3, 1 << 17, "auto")):
        execute(plan, threads=threads, chunk=chunk, isa=isa, overwrite=True)
        assert oracle.differing(oracle.read(out), expected) == []


def made(plan: dict[str, Any], **options: Any) -> Array:
    execute(plan, overwrite=True, **options)
    found: Array = oracle.read(Path(plan["target"]["file"]["path"]))["w"]
    return found


def same_bits(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


HOW = st.fixed_dictionaries(
    {
        "threads": st.sampled_from([1, 2, 5]),
        "chunk": st.sampled_from([1, 1 << 18, 1 << 20]),
        "isa": st.sampled_from(ISAS),
        "io": st.sampled_from(["mmap", "pread"]),
        "memory_budget": st.just(1 << 28),
    }
)
# Wide and narrow rows, more of them than are made at once, and rows longer than a cell.
SHAPES = st.sampled_from(
    [(1, 1), (3, 64), (37, 65), (300, 701), (70, 3100), (5, 70_001), (2100, 1), (1, 131_101)]
)


CASES = st.fixed_dictionaries(
    {
        "shape": SHAPES,
        "dtype": st.sampled_from(["F32", "F16", "BF16"]),
        "first": st.sampled_from(
            [kind for kind in KINDS if kind not in ("multiplied", "magnitude")]
        ),
        "others": st.lists(
            st.tuples(st.sampled_from(KINDS), st.sampled_from([1.0, -0.75, 0.3])), max_size=3
        ),
        "seed": st.integers(0, 1000),
        "cuts": st.lists(st.floats(0, 1), max_size=3),
    }
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=CASES, how=HOW)
def test_an_operand_is_its_terms_in_order_to_the_bit(
    tmp_path: Path, case: dict[str, Any], how: dict[str, Any]
) -> None:
    shape = case["shape"]
    terms = Terms(case["seed"], shape, case["dtype"])
    others = [terms.make(kind, scale) for kind, scale in case["others"]]
    operand = [terms.make(case["first"], 0.5), *others]
    whole = made(job(tmp_path, [operand], shape), **how)
    same_bits(whole, total(operand))
    # Rows of a unit are what they are in the whole.
    cuts = sorted({1 + int(cut * (shape[0] - 1)) for cut in case["cuts"]} - {shape[0]})
    same_bits(made(job(tmp_path, [operand], shape, cuts=cuts), **how), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_terms_are_near_what_exact_arithmetic_gives(tmp_path: Path, kind: str, dtype: str) -> None:
    terms = Terms(7, (90, 210), dtype)
    operand = [terms.make("rows", 1.0), terms.make("low_rank", 0.5), terms.make(kind, 0.8)]
    exact = total(operand, np.float64)
    found = made(job(tmp_path, [operand], (90, 210)))
    assert np.abs(found - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [1, 3])
def test_terms_are_added_to_a_result_one_after_the_other(
    tmp_path: Path, isa: str, count: int
) -> None:
    shape = (130, 1037)
    terms = Terms(3, shape, "BF16")
    operands = [[terms.make("rows", 1.0)], [terms.make("rows", 1.0), terms.make("low_rank", 0.5)]]
    kinds = ("low_rank", "kronecker", "scaled")[:count]
    added = [terms.make(kind, -0.3) for kind in kinds]
    plan = job(tmp_path, operands, shape, op=linear(0.3, 0.7), added=added, dtype="BF16")
    result = total(operands[0]) * np.float32(0.3) + total(operands[1]) * np.float32(0.7)
    for term in added:
        result = result + total([term])
    for threads, chunk in ((1, 1), (2, 1 << 20)):
        found = made(plan, threads=threads, chunk=chunk, isa=isa)
        assert oracle.same(found, result.astype(found.dtype))


DELTA: dict[str, Any] = {
    "weights": [1.0, 0.5],
    "lambda": 1.0,
    "normalize": "weights",
    "consensus": "sum",
    "even": "majority",
    "sparsify": {"magnitude": {"density": [0.3, 0.6]}},
}
# Whole rows, passes before the map, neighbours in other rows, whole matrices.
OPS: dict[str, tuple[dict[str, Any], int]] = {
    "rows": ({"rows": {"slerp": {"alpha": 0.3}}}, 2),
    "combine": ({"combine": {"slerp": {"alpha": 0.3}}}, 2),
    "delta": ({"delta": DELTA}, 3),
    "smooth": ({"smooth": {"alpha": 0.5}}, 3),
    "matrix": (
        {
            "matrix": {
                "weights": [1.0, 1.0],
                "lambda": 1.0,
                "apart": False,
                "make": {"decorrelated": {"rank": None}},
            }
        },
        3,
    ),
}


@pytest.mark.parametrize("name", OPS)
def test_every_kind_of_formula_sees_operands_and_is_added_to(tmp_path: Path, name: str) -> None:
    shape, (op, count) = (300, 257), OPS[name]
    terms = Terms(3, shape, "F32")
    kinds = ("low_rank", "kronecker", "magnitude")
    operands = [[terms.make("rows", 1.0), terms.make(kind, 0.2)] for kind in kinds[:count]]
    added = [terms.make("hadamard", 0.5)]
    names = [f"operand {i}" for i in range(count)]
    arrays = {name: total(terms) for name, terms in zip(names, operands, strict=True)}
    path = factory.write(tmp_path / "plain.safetensors", arrays)
    plain = blended(tmp_path / "plain.out.safetensors", [path], [1.0])
    plain["outputs"] = [{"file": 0, "name": "w", "dtype": "F32", "shape": list(shape)}]
    plain["units"] = [
        plain["units"][0] | {"operands": [rows(0, n, 0, shape[0]) for n in names], "op": op}
    ]
    expected = made(plain, threads=1)
    for how in ({"threads": 1, "chunk": 1}, {"threads": 3}):
        same_bits(made(job(tmp_path, operands, shape, op=op), **how), expected)
        found = made(job(tmp_path, operands, shape, op=op, added=added), **how)
        same_bits(found, expected + total(added))


def test_statistics_are_known_by_every_term(tmp_path: Path) -> None:
    shape = (90, 130)
    terms = Terms(3, shape, "F32")
    base, other = terms.make("rows", 1.0), terms.make("rows", 1.0)
    void = terms.make("low_rank", 0.0)
    changes = [terms.make(kind, scale) for kind in KINDS for scale in (0.5, 0.25)]
    last = terms.make("rows", 1.0)
    op = {"delta": DELTA}

    def plan(*more: Made) -> dict[str, Any]:
        plan = job(tmp_path, [[base], [other, *more], [last]], shape, op=op)
        # One file for all, so that only what is named differs.
        everything = {
            n: a for t in (base, other, void, last, *changes) for n, a in t.arrays.items()
        }
        path = tmp_path / "all.safetensors"
        if not path.exists():
            factory.write(path, everything)
        return plan | {"sources": [source(path)]}

    def keys(*more: Made) -> tuple[str, ...]:
        return tuple(execute(plan(*more), statistics={}, overwrite=True)["statistics"])

    found = [keys(), *[keys(change) for change in changes], keys(*changes[:2])]
    assert [len(known) for known in found] == [1] * len(found)
    assert len(set(found)) == len(found)
    assert keys(void) == keys()
    adapted = execute(plan(changes[2]), statistics={}, overwrite=True)
    again = execute(plan(changes[2]), statistics=adapted["statistics"], overwrite=True)
    assert (adapted["statistics_reused"], again["statistics_reused"]) == (0, 1)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_scale_of_zero_keeps_every_byte(tmp_path: Path, dtype: str) -> None:
    shape = (40, 50)
    terms = Terms(5, shape, dtype)
    base = terms.make("rows", 1.0)
    (name,) = base.arrays
    base.arrays[name][0, :4] = [-0.0, np.nan, np.inf, -np.inf]
    changes = [terms.make(kind, 0.0) for kind in KINDS if kind != "rows"]
    for change in changes:
        for array in change.arrays.values():
            array[0] = np.nan
    added = [term for term in changes if term.stretched is None]
    too_small = terms.make("scaled", 1e-46)  # for f32
    same: dict[str, Any] = {"same": {}}
    for operands, fields in (
        ([[base, *changes]], {}),
        ([[base, too_small]], {}),
        ([[base]], {"added": added}),
        ([[base, *changes], [base]], {"op": same}),
    ):
        plan = job(tmp_path, operands, shape, dtype=dtype, **fields)
        assert made(plan).tobytes() == base.arrays[name].tobytes()
    least = terms.make("scaled", 2.0**-149)
    next(iter(least.arrays.values()))[0, 0] = 1
    found = made(job(tmp_path, [[base, least]], shape, dtype=dtype))
    assert found.tobytes() != base.arrays[name].tobytes()  # no longer -0


def test_what_is_added_is_no_copy(tmp_path: Path) -> None:
    shape = (40, 50)
    terms = Terms(5, shape, "F32")
    base, change = terms.make("rows", 1.0), terms.make("scaled", 1.0)
    plan = job(tmp_path, [[base]], shape, added=[change])
    same_bits(made(plan), total([base, change]))


def test_a_nan_of_a_factor_reaches_what_it_multiplies_and_no_more(tmp_path: Path) -> None:
    shape = (40, 50)
    terms = Terms(5, shape, "F32")
    base, change = terms.make("rows", 1.0), terms.make("low_rank", 1.0)
    up = next(name for name in change.arrays if name.endswith("up"))
    change.arrays[up][7, 0] = np.nan
    found = made(job(tmp_path, [[base, change]], shape))
    assert np.isnan(found[7]).all()
    assert set(found[7].view(np.uint32).tolist()) == {0x7FC00000}
    assert np.isfinite(np.delete(found, 7, 0)).all()


def test_statistics_see_the_operand_with_its_terms(tmp_path: Path) -> None:
    shape = (64, 1030)
    terms = Terms(5, shape, "F32")
    base = terms.make("rows", 1.0)
    adapted = [base, terms.make("low_rank", 0.2), terms.make("magnitude", 0.9)]
    plan = job(tmp_path, [[base], adapted], shape, op={"analyze": {"alpha": 0.5}})
    (unit,) = execute(plan, mode="measure")["units"]
    a, b = total([base]).astype(np.float64), total(adapted).astype(np.float64)
    assert unit["norm2"] == pytest.approx([np.sum(a * a), np.sum(b * b)], rel=1e-5)
    assert unit["delta2"][1] == pytest.approx(np.sum((a - b) ** 2), rel=1e-5)
    assert unit["dot"][1] == pytest.approx(np.sum(a * b), rel=1e-4, abs=1.0)


def test_an_analysis_makes_nothing_to_add_to(tmp_path: Path) -> None:
    terms = Terms(5, (8, 9), "F32")
    operands = [[terms.make("rows", 1.0)], [terms.make("rows", 1.0)]]
    added = [terms.make("scaled", 1.0)]
    plan = job(tmp_path, operands, (8, 9), op={"analyze": {"alpha": 0.5}}, added=added)
    with pytest.raises(PlanError, match="`analyze` makes nothing that could be added to"):
        execute(plan, mode="measure")


@pytest.mark.parametrize("kind", ["low_rank", "multiplied", "hadamard", "kronecker", "magnitude"])
def test_the_least_budget_is_enough_and_a_byte_less_is_refused(tmp_path: Path, kind: str) -> None:
    shape = (90, 3000)
    terms = Terms(1, shape, "BF16")
    operand = [terms.make("rows", 1.0), terms.make(kind, 1.0)]
    plan = job(tmp_path, [operand], shape)
    with pytest.raises(PlanError, match="1 bytes of working memory are too few") as error:
        execute(plan, memory_budget=1)
    least = int(str(error.value).partition("at least ")[2].split()[0])
    assert least > 32 * 3000 * 4  # the rows that are made together
    done = execute(plan, memory_budget=least)
    assert (done["threads"], done["working_bytes"]) == (1, least)
    same_bits(oracle.read(tmp_path / "out.safetensors")["w"], total(operand))
    with pytest.raises(PlanError, match="memory_budget"):
        execute(plan, memory_budget=least - 1, overwrite=True)


def test_the_budget_grows_for_factors_and_threads_become_fewer(tmp_path: Path) -> None:
    shape = (90, 3000)
    terms = Terms(1, shape, "BF16")
    base, change = terms.make("rows", 1.0), terms.make("low_rank", 1.0)
    plain, adapted = job(tmp_path, [[base]], shape), job(tmp_path, [[base, change]], shape)
    with pytest.raises(PlanError, match=r"at least \d+ for factors of products and") as error:
        execute(adapted, memory_budget=1, matrix_budget=2)
    least = int(str(error.value).partition("at least ")[2].split()[0])
    adapted["sources"] = plain["sources"] = [source(tmp_path / "in.safetensors")]
    with pytest.raises(PlanError, match=r"expected at least \d+ for 2 streams"):
        execute(plain, memory_budget=1, matrix_budget=1 << 28)
    grown = execute(adapted, memory_budget=1, matrix_budget=1 << 28, threads=4)
    assert grown["threads"] == 4
    for budget, threads in ((3 * least - 1, 2), (3 * least, 3)):
        fewer = execute(adapted, memory_budget=budget, threads=4, overwrite=True)
        assert (fewer["threads"], fewer["working_bytes"] <= budget) == (threads, True)
