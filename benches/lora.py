"""Adapters as results, measured: extraction against a linear merge and against torch, and a merge.

    python -m benches.lora --pair FOLDER --torch PYTHON --rounds 5

FOLDER holds `schnell` and `krea` as `make_pair.py` writes them; PYTHON has torch and safetensors.
Whole processes, interleaved, medians; CPU is user and system time together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from submerge.layout import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

# What is factored of one block: shapes of every kind.
_BLOCK = {"double.0": 32, "default": 0}
_RIVAL = """
import glob, sys, time, torch
from safetensors import safe_open
def tensors(folder):
    files = (safe_open(f, "pt") for f in sorted(glob.glob(folder + "/transformer/*.safetensors")))
    return {k: f for f in files for k in f.keys()}
a, b = tensors(sys.argv[1]), tensors(sys.argv[2])
cpu = missing = whole = 0
for k in sorted(b):
    if k in a and k.startswith("transformer_blocks.0.") and len(b[k].get_slice(k).get_shape()) == 2:
        d = b[k].get_tensor(k).float() - a[k].get_tensor(k).float()
        torch.manual_seed(0)
        start = time.process_time()
        u, s, v = torch.svd_lowrank(d, q=40, niter=4)
        cpu += time.process_time() - start
        missing += float((d - (u[:, :32] * s[:32]) @ v[:, :32].T).double().norm() ** 2)
        whole += float(d.double().norm() ** 2)
print(cpu, (missing / whole) ** 0.5)
"""


class Taken(NamedTuple):
    """One run of a process: seconds of wall and of CPU, and its peak memory in MB."""

    wall: float
    cpu: float
    peak: float


def taken(*arguments: str) -> tuple[Taken, str]:
    """Run a process; return what it took and what it printed."""
    start = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    wall = time.perf_counter() - start
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3), printed


def submerge(*arguments: str) -> tuple[Taken, str]:
    """Run a command of submerge."""
    return taken(sys.executable, "-m", "submerge", *arguments)


def block(pair: Path, out: Path) -> tuple[Taken, float]:
    """Extract one block; return what it took and the residual."""
    script = (
        "import sys, submerge.lora as l; "
        f"print(l.extract(*sys.argv[1:4], rank={_BLOCK}, dtype='f32', overwrite=True).residual)"
    )
    paths = (str(pair / "krea"), str(pair / "schnell"), str(out))
    used, printed = taken(sys.executable, "-c", script, *paths)
    return used, float(printed)


def adapters(folder: Path, count: int, rank: int) -> list[Path]:
    """Write adapters of every linear layer of a whole FLUX.1."""
    family = FAMILIES["flux1"]
    arch = family.published
    assert arch is not None
    shapes = family.unit_shapes(arch)
    paths = [folder / f"adapter{i}.safetensors" for i in range(count)]
    for i, path in enumerate(paths):
        if path.exists():
            continue
        numbers = np.random.default_rng(i).normal(0, 0.01, 1 << 20).astype(np.float32)
        numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        tensors: dict[str, tuple[int, int]] = {}
        for module, units in family.modules(family.layouts["diffusers"], arch):
            shape = shapes[f"{units[0]}.weight"]
            if len(shape) == 2:
                rows = sum(shapes[f"{unit}.weight"][0] for unit in units)
                tensors[f"transformer.{module}.lora_A.weight"] = (rank, shape[1])
                tensors[f"transformer.{module}.lora_B.weight"] = (rows, rank)
        header, at = {}, 0
        for name, (rows, columns) in tensors.items():
            end = at + 2 * rows * columns
            header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, (rows, columns) in tensors.items():
                start = (len(name) * 7919) % 1000
                file.write(np.resize(numbers[start:], rows * columns).tobytes())
    return paths


def main() -> None:
    """Measure, and print a table as it fills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, required=True)
    parser.add_argument("--torch", help="a Python with torch, to compare one block with")
    parser.add_argument("--only", default="", help="jobs whose names hold this word")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    krea, schnell = str(given.pair / "krea"), str(given.pair / "schnell")
    out = given.pair / "made.safetensors"
    stacked = [str(path) for path in adapters(given.pair, 8, 32)]
    to = ("--overwrite", "-o", str(out))
    residuals: dict[str, float] = {}

    def one_block() -> Taken:
        used, residuals["one block"] = block(given.pair, out)
        return used

    def rival() -> Taken:
        used, printed = taken(given.torch, "-c", _RIVAL, schnell, krea)
        cpu, residuals["one block, torch.svd_lowrank alone"] = map(float, printed.split())
        return used._replace(cpu=cpu)

    jobs: dict[str, Callable[[], Taken]] = {
        "linear merge": lambda: submerge("merge", krea, schnell, "--no-stats", *to)[0],
        "extract": lambda: submerge("lora", "extract", krea, schnell, "--rank", "32", *to)[0],
        "one block": one_block,
        "one block, torch.svd_lowrank alone": rival,
        "sum of 8": lambda: submerge("lora", "merge", *stacked, "--rank", "64", *to)[0],
    }
    if not given.torch:
        del jobs["one block, torch.svd_lowrank alone"]
    rows: dict[str, list[Taken]] = {name: [] for name in jobs if given.only in name}
    for _ in range(given.rounds):
        for name, runs in rows.items():
            runs.append(jobs[name]())
            wall, cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            left = f"  residual {residuals[name]:.6f}" if name in residuals else ""
            figures = f"{wall:8.2f} s  CPU {cpu:8.2f} s  {peak:8.0f} MB{left}"
            print(f"{len(runs)}  {name:<36} {figures}", flush=True)
    out.unlink(missing_ok=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
