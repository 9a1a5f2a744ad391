"""What painting takes with a transformer of 0.8 GB: in memory, quantised, streamed from its file.

    python benches/inference.py [--rounds 3]

Every round is a process of its own, on the CPU with one thread; needs the oracle group.
Memory is the peak resident set of the whole process, pages of mapped files included; what the
libraries take before a weight is loaded is told beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
OPTIONS: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
PLANS = ("resident", "int8", "int4", "streamed")


def save_wide(path: Path, seed: int = 0) -> Path:
    """Write a transformer of FLUX.1's proportions and half its width, in seconds."""
    import numpy as np

    from factory import Flux, save_sparse

    # In f32, which every processor computes in quickly.
    flux = Flux(double=1, single=3, hidden=1536, head_dim=128, guidance=True, dtype="F32")
    save_sparse(path, flux, "bfl")
    noise = np.random.default_rng(seed).normal(0, 0.02, 1 << 20).astype(np.float32).tobytes()
    with path.open("r+b") as file:
        at = 8 + struct.unpack("<Q", file.read(8))[0]
        end = path.stat().st_size
        file.seek(at)
        while at < end:
            at += file.write(noise[: end - at])
    return path


def child(plan: str, model: str, components: str) -> dict[str, Any]:
    """Paint by one plan and return what it took."""
    import torch

    from submerge.errors import PlanError
    from submerge.inference.placing import import_all

    torch.set_num_threads(1)
    import_all()
    how: dict[str, Any] = {"device": "cpu", "dtype": "f32", "components": components, "tokens": 16}
    how |= {"width": OPTIONS["width"], "height": OPTIONS["height"]}
    if plan != "streamed":
        return painted(model, how | {"quantization": None if plan == "resident" else plan})
    # The first refusal reckons with what libraries may take, the next with what they take here.
    least = 1
    for _ in range(2):
        try:
            return painted(model, how | {"memory_budget": least})
        except PlanError as error:
            least = int(str(error.hint).partition("ram ")[2].partition("B")[0])
            least += 5_000_000  # what reading the headers leaves behind counts too
    return painted(model, how | {"memory_budget": least})


def painted(model: str, how: dict[str, Any]) -> dict[str, Any]:
    """Paint twice, the second time by the clock."""
    import submerge.inference as run
    from submerge.profile import read

    base = read()[0]
    with run.load_model(model, **how) as loaded:
        run.run_inference(loaded, "a fox in snow", OPTIONS)
        begun, used = time.perf_counter(), time.process_time()
        images = run.run_inference(loaded, "a fox in snow", OPTIONS)
        return {
            "candidate": loaded.plan.chosen.words,
            "plan": loaded.plan.chosen.peak["ram"],
            "base": base.rss,
            "peak": read()[1].rss,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - used,
            "pixels": images[0].image.tobytes().hex(),
        }


def measured(
    model: Path, components: Path, plans: Sequence[str] = PLANS
) -> dict[str, dict[str, Any]]:
    """Run each plan in a process of its own, so that its peak is its own."""
    paths = os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests")])
    found: dict[str, dict[str, Any]] = {}
    for plan in plans:
        done = subprocess.run(
            [sys.executable, __file__, "--child", plan, str(model), str(components)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        )
        found[plan] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("PLAN", "MODEL", "COMPONENTS"))
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(*given.child)))
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from factory import KREA, save_folder
    from oracles.pipelines import save_pipeline

    with tempfile.TemporaryDirectory() as folder:
        tiny = save_folder(Path(folder) / "tiny", KREA)
        components = save_pipeline(Path(folder) / "components", tiny, dynamic=True)
        model = save_wide(Path(folder) / "wide.safetensors")
        rounds = [measured(model, components) for _ in range(given.rounds)]
    print(_table(rounds))


def _table(rounds: list[dict[str, dict[str, Any]]]) -> str:
    """Return the median of each figure: megabytes, seconds of two steps."""
    lines = ["| plan | libraries | planned | peak | above libraries | seconds | CPU seconds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in PLANS:
        runs = [found[name] for found in rounds]
        middle = {
            key: sorted(run[key] for run in runs)[len(runs) // 2]
            for key in ("base", "plan", "peak", "seconds", "cpu_seconds")
        }
        memory = [middle[k] // 10**6 for k in ("base", "plan", "peak")]
        memory.append((middle["peak"] - middle["base"]) // 10**6)
        cells = [f"{size} MB" for size in memory]
        cells += [f"{middle[k]:.2f}" for k in ("seconds", "cpu_seconds")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    exact = ("resident", "streamed")
    same = len({found[name]["pixels"] for found in rounds for name in exact}) == 1
    return "\n".join([*lines, f"the same image, in memory and streamed: {same}"])


if __name__ == "__main__":
    main()
