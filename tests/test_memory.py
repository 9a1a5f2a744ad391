"""Memory is bounded, whatever the size and number of the models: of the whole process, measured."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import benches.peers.launch
import factory
import submerge
from factory import REAL, Flux
from submerge import PlanError

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(sys.platform != "linux", reason="measured by wait4 and mincore"),
]

MB = 1_000_000
# Full width; the files hold no data and take no room.
GIGABYTE = replace(REAL, double=1, single=1)
LIMIT = 120 * MB
FLAT = 8 * MB


def measured(*arguments: object) -> tuple[int, Any]:
    """Peak resident bytes of a whole command, and the JSON it prints."""
    launch = [sys.executable, "-I", "-S", str(Path(benches.peers.launch.__file__))]
    command = [sys.executable, "-m", "submerge", *map(str, arguments), "--json"]
    with tempfile.TemporaryDirectory() as scratch:
        figures = Path(scratch, "figures.json")
        done = subprocess.run(
            [*launch, str(figures), "900", "--", *command], stdout=subprocess.PIPE, check=True
        )
        found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["code"] == 0
    return found["rss"], json.loads(done.stdout)


def models(folder: Path, flux: Flux, count: int = 2) -> dict[str, str]:
    return {
        f"m{i}": str(factory.save_sparse(folder / f"m{i}.safetensors", flux)) for i in range(count)
    }


def need(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        pytest.skip(f"needs {size // MB} MB of disk, {free // MB} MB are free")


def test_reading_24_gigabytes_takes_no_more_than_reading_one(tmp_path: Path) -> None:
    # By `diff`: nobody's disk should take a 24 GB output for a test. One file under two names, so
    # that the kernel fills its cache with these zeros once. Both have as many tensors, whose names
    # and statistics take some megabytes.
    peaks = {}
    for name, flux in (("small", replace(REAL, hidden=640)), ("large", REAL)):
        pair = models(tmp_path / name, flux, 1)
        other = tmp_path / name / "other.safetensors"
        other.hardlink_to(pair["m0"])
        peaks[name], found = measured("diff", pair["m0"], other, "--threads", 2)
        assert found["equal"]
        assert found["total"]["elements"] == elements(flux)
        other.unlink()
        Path(pair["m0"]).unlink()
    assert peaks["large"] < LIMIT
    assert peaks["large"] - peaks["small"] < FLAT, peaks


def elements(flux: Flux) -> int:
    return sum(map(math.prod, factory.diffusers_shapes(flux).values()))


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_writing_more_takes_no_more(tmp_path: Path, io: str) -> None:
    need(tmp_path, 3000 * MB)
    peaks = {}
    for name, flux in (("small", GIGABYTE), ("large", replace(REAL, double=2, single=3))):
        pair = models(tmp_path / name, flux)
        out = tmp_path / name / "out.safetensors"
        peaks[name], report = measured(
            "merge", *pair.values(), "-o", out, "--io", io, "--threads", 2, "--alpha", 0.3
        )
        assert out.stat().st_size > 2 * elements(flux)
        # What the job says of itself is what the system saw: it ends a little before the process.
        # The kernel counts pages in batches of each thread, so either may lag by a few hundred kB.
        assert 0.9 * peaks[name] < report["run"]["peak_rss"] <= peaks[name] + MB
        out.unlink()
    assert peaks["large"] < LIMIT
    assert peaks["large"] - peaks["small"] < FLAT, peaks


def test_eight_models_take_no_more_than_allowed(tmp_path: Path) -> None:
    need(tmp_path, 2000 * MB)
    peaks = {}
    for count in (2, 8):
        found = models(tmp_path, Flux(1, 2, 1536, 128, 4096, 768), count)
        recipe = {"models": found, "weight": dict.fromkeys(found, 1)}
        path = factory.write_json(tmp_path / f"{count}.json", recipe)
        out = tmp_path / "out.safetensors"
        peaks[count], report = measured("merge", path, "-o", out, "--threads", 2)
        assert report["run"]["working_bytes"] <= 64 << 20
        out.unlink()
    assert peaks[8] < LIMIT
    # The buffers of six more streams in two threads, and the pages mapped behind them.
    assert peaks[8] - peaks[2] < 2 * 6 * (1 << 20) + 2 * 6 * (3 << 20), peaks


@pytest.mark.parametrize(
    "method", ["ties", "breadcrumbs", "della", "dare_linear", "model_stock", "sce"]
)
def test_methods_that_look_first_take_no_more_than_allowed(tmp_path: Path, method: str) -> None:
    need(tmp_path, 1000 * MB)
    found = models(tmp_path, Flux(1, 1, 3072, 128, 4096, 768), 3)
    thinned = {"density": 0.5} if method in ("ties", "breadcrumbs", "della", "dare_linear") else {}
    recipe = {"models": found, "base": "m0", "method": {method: thinned}}
    path = factory.write_json(tmp_path / "recipe.json", recipe)
    peak, report = measured("merge", path, "-o", tmp_path / "out.safetensors", "--threads", 2)
    assert report["run"]["working_bytes"] <= 64 << 20
    assert peak < 150 * MB


@pytest.mark.parametrize("budget", ["1MiB", "2MiB", "8MiB", "64MiB", "1GiB"])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_budget_is_kept(tmp_path: Path, budget: str, threads: int) -> None:
    pair = models(tmp_path, Flux(1, 1, 512, 64))
    chunk = 4 << 20
    report = submerge.merge(
        {"models": pair},
        tmp_path / "out.safetensors",
        memory_budget=budget,
        threads=threads,
        chunk=chunk,
    )
    unit, power = (budget[:-3], 20 if budget.endswith("MiB") else 30)
    allowed = int(unit) << power
    assert report.run.working_bytes <= allowed
    roomy = threads * 3 * chunk * 1.1 <= allowed
    if roomy:  # nothing is given up without need
        assert (report.run.threads, report.run.chunk) == (threads, chunk // 2)


def test_a_budget_too_small_names_the_smallest_that_works(tmp_path: Path) -> None:
    made = {"models": models(tmp_path, Flux(1, 1, 512, 64))}
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        PlanError, match="memory_budget: 1000 bytes of working memory are too few"
    ) as caught:
        submerge.merge(made, out, memory_budget=1000)
    assert "`memory_budget`" in str(caught.value.hint)
    assert not out.exists()
    smallest = re.search(r"at least (\d+)", caught.value.message)
    assert smallest is not None
    report = submerge.merge(made, out, memory_budget=int(smallest[1]))
    assert report.run.working_bytes == int(smallest[1])


def cached(path: Path) -> int:
    """Bytes of a file that the page cache holds."""
    done = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs fincore of util-linux")
@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_the_output_does_not_fill_the_page_cache(tmp_path: Path, layout: str) -> None:
    need(tmp_path, 2000 * MB)
    out = tmp_path / ("out.safetensors" if layout == "bfl" else "folder")
    output = {"layout": layout, "shard_size": "400MB"} if layout == "diffusers" else {}
    submerge.merge({"models": models(tmp_path, GIGABYTE), "output": output}, out, cache="drop")
    files = [out] if out.is_file() else list(out.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) > 600 * MB
    assert sum(map(cached, files)) <= 256 << 20
    # Reading the file brings it in, so what is measured can be seen.
    with files[0].open("rb") as file:
        assert len(file.read(100 * MB)) == 100 * MB
    assert cached(files[0]) >= 100 * MB
