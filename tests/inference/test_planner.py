"""The planner: within the budget by its own sums, never worse with more, honest when it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submerge import PlanError
from submerge.inference.activations import Shapes, Work
from submerge.inference.planner import (
    PHASES,
    POOLS,
    LoadPlan,
    Machine,
    Sizes,
    Stored,
    plan_load,
)
from submerge.inference.quantized import QUANTIZATIONS

GIB = 1 << 30
MIB = 1 << 20


def stored(total: int, double: int, single: int, layer: int, unpacked: int = 0) -> Stored:
    package = "gguf" if unpacked else None
    return Stored(total, (double,) * 19 + (single,) * 38, layer, unpacked, package)


# FLUX.1-dev in bf16: encoders 8.87 + 0.23 GiB, 19 blocks of 648 MiB and 38 of 270.
FLUX = Sizes(
    text=9_770_768_000,
    text_layer=263_192_576,
    transformer=stored(23_802_816_640, 679_662_592, 283_183_616, 113_283_072),
    quantized={
        "fp8": Stored(15_165_000_000, (), 113_283_072, 94_371_840),
        "int8": stored(12_694_000_000, 361_000_000, 150_500_000, 60_200_000, 113_246_208),
        "int4": stored(6_777_000_000, 191_300_000, 79_700_000, 31_900_000, 113_246_208),
    },
    vae=167_639_366,
)
ONE_IMAGE = Work()
DEVICES = ("cpu", "mps", "cuda", "cuda:1", "xpu")


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    count = st.integers(1, 10**9)

    def drawn(unpacked: int) -> Stored:
        blocks = tuple(draw(st.lists(count, min_size=1, max_size=9)))
        total = sum(blocks) + draw(count)
        return Stored(total, blocks, draw(st.integers(1, total)), unpacked)

    return Sizes(
        text=(text := draw(count)),
        text_layer=draw(st.integers(1, text)),
        transformer=drawn(0),
        quantized={kind: drawn(draw(count)) for kind in QUANTIZATIONS},
        vae=draw(count),
        shapes=Shapes(hidden=draw(st.sampled_from([128, 3072]))),
        coded=drawn(draw(count)) if draw(st.booleans()) else None,
    )


WORK = st.builds(
    Work,
    width=st.sampled_from([256, 1024, 2048]),
    height=st.sampled_from([256, 1024]),
    batch=st.integers(1, 4),
    tokens=st.sampled_from([256, 512]),
)
LIMIT = st.none() | st.integers(10**6, 5 * 10**10)
MACHINE = st.builds(Machine, st.sampled_from(DEVICES), LIMIT, LIMIT)
QUANTIZATION = st.sampled_from([None, "auto", *QUANTIZATIONS])


def planned(
    found: Sizes, machine: Machine, work: Work, quantization: str | None
) -> LoadPlan | PlanError:
    try:
        return plan_load(found, machine, work, quantization=quantization)
    except PlanError as error:
        return error


def rank(plan: LoadPlan | PlanError) -> tuple[float, int]:
    """How far down the candidates a plan stands; smaller is better."""
    if isinstance(plan, PlanError):
        return (float("inf"), 0)
    return (len(plan.rejected), -plan.chosen.kept)


@given(sizes(), MACHINE, WORK, QUANTIZATION)
def test_no_phase_takes_more_than_the_budget(
    found: Sizes, machine: Machine, work: Work, quant: str | None
) -> None:
    plan = planned(found, machine, work, quant)
    if isinstance(plan, PlanError):
        return
    for phase in PHASES:
        for pool in POOLS:
            limit = getattr(machine, pool)
            assert limit is None or plan.chosen.needs[phase][pool] <= limit


@given(sizes(), MACHINE, WORK, QUANTIZATION, st.data())
def test_more_memory_never_gives_a_worse_plan(
    found: Sizes, machine: Machine, work: Work, quant: str | None, data: st.DataObject
) -> None:
    def more(limit: int | None) -> int | None:
        return None if limit is None else data.draw(st.none() | st.integers(limit, 10**11))

    larger = Machine(machine.device, more(machine.vram), more(machine.ram))
    less = planned(found, machine, work, quant)
    assert rank(planned(found, larger, work, quant)) <= rank(less)


@given(sizes(), st.sampled_from(DEVICES), WORK, QUANTIZATION)
def test_the_smallest_budget_that_a_refusal_names_would_do(
    found: Sizes, device: str, work: Work, quant: str | None
) -> None:
    with pytest.raises(PlanError) as refused:
        plan_load(found, Machine(device, vram=1, ram=1), work, quantization=quant)
    named = {
        pool: int(size) for pool, size in re.findall(r"(v?ram) (\d+)B", refused.value.hint or "")
    }
    assert set(named) == set(POOLS)
    smallest = Machine(device, named["vram"], named["ram"])
    fits = plan_load(found, smallest, work, quantization=quant)
    assert fits.chosen.peak == {"vram": named["vram"], "ram": named["ram"]}
    tighter = [replace(smallest, ram=named["ram"] - 1)]
    tighter += [replace(smallest, vram=named["vram"] - 1)] if named["vram"] else []
    for machine in tighter:
        with pytest.raises(PlanError):
            plan_load(found, machine, work, quantization=quant)


@pytest.mark.parametrize(
    ("vram", "ram", "candidate", "tiles"),
    [
        (48, 64, "resident", False),
        (32, 64, "text-first", False),
        (24, 64, "time-share", False),
        (12, 64, "blocks", False),
        (4, 64, "blocks", True),
        (3, 64, "layers", True),
        (8, 4, "disk", False),
    ],
)
def test_the_ladder_of_flux_dev(vram: int, ram: int, candidate: str, *, tiles: bool) -> None:
    plan = plan_load(FLUX, Machine("cuda", vram * GIB, ram * GIB), ONE_IMAGE)
    assert (plan.chosen.name, plan.chosen.tiles) == (candidate, tiles)


def test_weights_change_only_where_that_is_allowed() -> None:
    machine = Machine("cuda", 18 * GIB, 64 * GIB)
    never = plan_load(FLUX, machine, ONE_IMAGE)
    assert (never.chosen.name, never.chosen.quantization) == ("blocks", None)
    roomy = Machine("cuda", 48 * GIB, 64 * GIB)
    assert plan_load(FLUX, roomy, ONE_IMAGE, quantization="auto").chosen.quantization is None
    for kind in QUANTIZATIONS:
        assert plan_load(FLUX, roomy, ONE_IMAGE, quantization=kind).chosen.quantization == kind


@pytest.mark.parametrize(
    ("vram", "ram", "candidate", "kind"),
    [
        (18, 64, "time-share", "fp8"),
        (15, 64, "time-share", "int8"),
        (10, 64, "time-share", "int4"),
        (8, 64, "blocks", None),
        (8, 24, "blocks", "int8"),
        (8, 18, "blocks", "int4"),
        (8, 4, "disk", None),
    ],
)
def test_auto_takes_the_first_that_saves_streaming(
    vram: int, ram: int, candidate: str, kind: str | None
) -> None:
    machine = Machine("cuda", vram * GIB, ram * GIB)
    plan = plan_load(FLUX, machine, ONE_IMAGE, quantization="auto")
    assert (plan.chosen.name, plan.chosen.quantization) == (candidate, kind)
    assert (f"{kind} layers" in plan.describe().partition("rejected")[0]) == (kind is not None)


# The same as Q4_K_S in a GGUF file: 6.8 GB.
CODED = replace(FLUX, coded=stored(6_810_000_000, 191_300_000, 79_700_000, 31_900_000, 113_246_208))


@pytest.mark.parametrize(
    ("vram", "ram", "candidate", "coded"),
    [
        (24, 64, "resident", True),
        (12, 64, "text-first", True),
        (11, 64, "time-share", True),
        (4, 64, "blocks", True),
        (8, 4, "disk", False),
    ],
)
def test_layers_stay_in_their_codes_but_where_they_are_streamed_from_the_files(
    vram: int, ram: int, candidate: str, *, coded: bool
) -> None:
    plan = plan_load(CODED, Machine("cuda", vram * GIB, ram * GIB), ONE_IMAGE)
    assert (plan.chosen.name, plan.chosen.coded) == (candidate, coded)
    assert plan.chosen.quantization is None
    described = plan.describe().partition("rejected")[0]
    assert ("layers in the file's codes" in described) == coded


def test_auto_keeps_codes_before_it_rounds() -> None:
    for vram, name in ((24, "resident"), (12, "text-first"), (8, "blocks")):
        machine = Machine("cuda", vram * GIB, 64 * GIB)
        plan = plan_load(CODED, machine, ONE_IMAGE, quantization="auto")
        assert (plan.chosen.name, plan.chosen.coded) == (name, True)


def test_codes_that_nothing_installed_reads_become_numbers() -> None:
    machine = Machine("cuda", 24 * GIB, 64 * GIB)
    plan = plan_load(CODED, machine, ONE_IMAGE, packages=False)
    assert (plan.chosen.name, plan.chosen.coded) == ("time-share", False)
    assert "layers in the file's codes: the package gguf is not installed" in plan.describe()


def test_peaks_agree_with_published_measurements() -> None:
    """31.4 GiB loaded and 36.2 at peak; 23.3 at peak one part at a time (FLUX.1-dev, bf16)."""
    context = int(0.6 * GIB)
    resident = plan_load(FLUX, Machine("cuda", 64 * GIB), ONE_IMAGE)
    assert resident.chosen.peak["vram"] - context == pytest.approx(36.2 * GIB, rel=0.01)
    shared = plan_load(FLUX, Machine("cuda", 24 * GIB, 64 * GIB), ONE_IMAGE)
    assert shared.chosen.peak["vram"] - context == pytest.approx(23.3 * GIB, rel=0.01)


def test_spare_memory_keeps_blocks_where_the_rest_is_on_disk() -> None:
    kept = [
        plan_load(FLUX, Machine("cpu", ram=ram * GIB), ONE_IMAGE).chosen.kept for ram in (6, 8, 16)
    ]
    assert 0 <= kept[0] < kept[1] < kept[2] < 57


def test_the_plan_explains_itself() -> None:
    plan = plan_load(FLUX, Machine("cuda", 12 * GIB, 64 * GIB), ONE_IMAGE)
    text = plan.describe()
    assert "chosen:    transformer streamed block by block" in text
    assert text.count("rejected:") == len(plan.rejected) == 6
    assert "the denoise phase needs" in text
    plain = plan.to_dict()
    assert plain["chosen"]["peak"]["vram"] <= 12 * GIB
    assert all("allowed" in entry["why"] for entry in plain["rejected"])


def test_planning_needs_no_torch() -> None:
    script = "import sys, submerge.inference.planner; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_auto_passes_over_what_is_not_installed_and_says_so() -> None:
    machine = Machine("cuda", 15 * GIB, 64 * GIB)
    plan = plan_load(FLUX, machine, ONE_IMAGE, quantization="auto", packages=False)
    assert (plan.chosen.name, plan.chosen.quantization) == ("blocks", None)
    assert "int8 layers: the package gguf is not installed" in plan.describe()
    asked = plan_load(FLUX, machine, ONE_IMAGE, quantization="int8", packages=False)
    assert asked.chosen.quantization == "int8"  # loading says what is missing
