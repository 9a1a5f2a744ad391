"""Where the system gives too little, memory or threads, a job makes do with less or says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import factory
from factory import Flux

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux keeps them")

WIDE = Flux(1, 1, 512, 64, 256, 64)

# Imports first, so that the limit is what is left for the job itself.
LIMITED = """
import json, os, resource, sys
import submerge
from submerge.report import Report
models, out, run, limit, user = json.loads(sys.argv[1])
if "before" in limit:  # its threads leave behind what the allocator had set aside for them
    submerge.merge(models, limit["before"], overwrite=True, threads=2)
plan = submerge.plan(models, out)
if user is not None:
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
if "address_space" in limit:
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + limit["address_space"],) * 2)
else:
    resource.setrlimit(resource.RLIMIT_NPROC, (limit["processes"],) * 2)
try:
    report = submerge.merge(models, out, **run)
except submerge.SubmergeError as error:
    print("refused", error.hint)
except MemoryError as error:
    print("refused", "python")
else:
    print("made", report.run.threads)
"""


def run(folder: Path, recipe: dict[str, Any], limit: dict[str, Any], **how: Any) -> list[str]:
    """What became of a merge under a limit, in a process of its own that must survive."""
    out = folder / "out" / "out.safetensors"
    user = how.pop("user", None)
    given = [recipe, str(out), {"overwrite": True, "statistics_cache": "off", **how}, limit, user]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{limit}: {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.startswith("made") == out.exists()
    assert [path.name for path in out.parent.iterdir()] == [out.name] * out.exists()
    out.unlink(missing_ok=True)
    return done.stdout.split(maxsplit=1)


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "out").mkdir()
    paths = {n: tmp_path / f"{n}.safetensors" for n in ("a", "b")}
    for seed, path in enumerate(paths.values()):
        factory.save_file(path, replace(WIDE, seed=seed))
    return {"models": {name: str(path) for name, path in paths.items()}}


@pytest.mark.parametrize(
    "method",
    [
        {"linear": {"alpha": 0.5}},
        {"slerp": {"alpha": 0.5}},
        {"polar": {"direction": 0.2}},
        {"iso_c": {"base": "a"}},
    ],
    ids=lambda method: next(iter(method)),
)
def test_too_little_address_space_is_an_error_and_no_abort(
    tmp_path: Path, recipe: dict[str, Any], method: dict[str, Any]
) -> None:
    outcomes = []
    for mebibytes in (1, 3, 6, 10, 16, 24, 40, 70, 120, 250, 1000):
        limit = {"address_space": mebibytes << 20}
        outcome, words = run(tmp_path, {**recipe, "method": method}, limit, threads=8)
        if outcome == "refused" and words.strip() != "python":
            assert "memory" in words
        outcomes.append(outcome)
    assert outcomes[0] == "refused"
    assert outcomes[-1] == "made"


# Every large allocation of the workers fails once; none of them may end the process.
SCARCE = """
import ctypes, json, sys
import submerge
recipe, out, least = json.loads(sys.argv[1])
library = ctypes.CDLL(None)
library.scarce.argtypes = [ctypes.c_size_t, ctypes.c_long]
library.scarce_counted.restype = ctypes.c_long
how = {"overwrite": True, "statistics_cache": "off", "threads": 1, "memory_budget": "1GB"}
n, refused = 0, 0
while True:
    library.scarce(least, n)
    try:
        submerge.merge(recipe, out, **how)
    except submerge.SubmergeError as error:
        assert "out of memory, expected room for" in str(error), error
        assert "--memory-budget" in error.hint, error.hint
        refused += 1
    else:
        if library.scarce_counted() <= n:
            break
    n += 1 + n // 20
print(refused, library.scarce_counted())
"""


@pytest.mark.parametrize("shape", [(96, 160), (160, 96)], ids=["wide", "tall"])
@pytest.mark.parametrize(
    "method",
    [
        {"linear": {"alpha": 0.5}},
        {"slerp": {"alpha": 0.5}},
        {"iso_c": {"base": "a"}},
        {"tsv_m": {"base": "a"}},
        {"truncated_svd": {"base": "a", "rank": 4}},
        {"truncated_svd": {"base": "a", "rank": 90}},
        {"rotate": {"alpha": 0.3, "alignment": 0.5}},
        {"knots": {"base": "a"}},
    ],
    ids=lambda method: next(iter(method)),
)
def test_no_large_allocation_of_a_worker_can_end_the_process(
    tmp_path: Path, method: dict[str, Any], shape: tuple[int, int]
) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "scarce.so"
    source = Path(__file__).with_name("scarce.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    models = {}
    for seed, name in enumerate("ab"):
        values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        factory.write(tmp_path / f"{name}.safetensors", {"w": values})
        models[name] = {"path": str(tmp_path / f"{name}.safetensors"), "layout": "generic"}
    given = [{"models": models, "method": method}, str(tmp_path / "out.safetensors"), 8192]
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, json.dumps(given)],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, counted = map(int, done.stdout.split())
    assert refused >= 1
    assert counted >= 3


@pytest.mark.parametrize("chunk", ["64KiB", "1MiB"])
def test_what_is_set_aside_for_other_threads_is_no_room(
    tmp_path: Path, recipe: dict[str, Any], chunk: str
) -> None:
    """From the first that is enough for one thread, any limit is: no thread takes another's."""
    outcomes = []
    for mebibytes in (2, 4, *range(6, 30, 3), 40, 60, 65, 70, 80, 100, 130, 200, 300):
        limit = {"address_space": mebibytes << 20, "before": str(tmp_path / "before.safetensors")}
        outcome, words = run(tmp_path, recipe, limit, threads=8, chunk=chunk)
        assert outcome == "made" or "ulimit -v" in words or words.strip() == "python"
        outcomes.append(outcome)
    made = outcomes.count("made")
    assert 10 <= made < len(outcomes)
    assert outcomes == ["refused"] * (len(outcomes) - made) + ["made"] * made


def test_stacks_of_many_threads_are_not_asked_for(recipe: dict[str, Any], tmp_path: Path) -> None:
    outcome, words = run(tmp_path, recipe, {"address_space": 400 << 20}, threads=500)
    assert outcome == "made", words


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="root changes who it is")
@pytest.mark.parametrize(("allowed", "expected"), [(1, "refused"), (2, "1"), (3, "2"), (9, "8")])
def test_threads_that_cannot_be_started_are_done_without(allowed: int, expected: str) -> None:
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        folder.chmod(0o755)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        paths = [folder / f"{n}.safetensors" for n in "ab"]
        for seed, path in enumerate(paths):
            factory.save_file(path, replace(WIDE, seed=seed))
            path.chmod(0o644)
        models = {"models": {path.stem: str(path) for path in paths}}
        # Nobody else's processes count: this user has none.
        outcome, words = run(folder, models, {"processes": allowed}, threads=8, user=61_234)
    assert (outcome if expected == "refused" else words.strip()) == expected
    assert outcome == "made" or "ulimit -u" in words
