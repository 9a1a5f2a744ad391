"""Time every method against our own linear merge of as many models, interleaved.

    python -m benches.methods --pair FOLDER [--rounds 5] [--only ties,della]

FOLDER holds `NAME.bfl.safetensors` of schnell, krea and dev, as `benches.make_pair FOLDER --models
schnell,krea,dev` writes them. Whole processes on a warm page cache: medians of wall and CPU
seconds, each as a multiple of the linear merge's, and the peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.peers.measure import Figures, remove, run, warm

MODELS = ("schnell", "krea", "dev")
_DELTA = {"density": 0.5}
# Name, models, method with its parameters, and how many times the linear merge it may take.
JOBS: tuple[tuple[str, int, dict[str, Any], float], ...] = (
    ("linear", 2, {"linear": {"alpha": 0.3}}, 1.0),
    ("slerp", 2, {"slerp": {"alpha": 0.3}}, 1.5),
    ("nuslerp", 2, {"nuslerp": {"alpha": 0.3}}, 1.5),
    ("dare", 2, {"dare_linear": _DELTA}, 1.5),
    ("linear of three", 3, {"linear": {"weight": dict.fromkeys(MODELS, 1)}}, 1.0),
    ("model stock", 3, {"model_stock": {}}, 1.5),
    ("ties", 3, {"ties": _DELTA}, 3.0),
    ("breadcrumbs", 3, {"breadcrumbs": _DELTA}, 3.0),
    ("della", 3, {"della": _DELTA}, 4.0),
)


def recipe(folder: Path, count: int, method: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a job; methods on deltas start from schnell."""
    models = {name: str(folder / f"{name}.bfl.safetensors") for name in MODELS[:count]}
    (name,) = method
    base = {} if name in ("linear", "slerp", "nuslerp") else {"base": MODELS[0]}
    return {"models": models, "method": method} | base


def measure(folder: Path, work: Path, rounds: int, only: list[str]) -> dict[str, list[Figures]]:
    """Run every job once a round, each round from another start."""
    jobs = [job for job in JOBS if not only or job[0] in only or job[0].startswith("linear")]
    found: dict[str, list[Figures]] = {job[0]: [] for job in jobs}
    output = work / "out.safetensors"
    for number in range(rounds):
        first = number % len(jobs)
        for name, count, method, _ in jobs[first:] + jobs[:first]:
            path = work / f"{name}.json"
            made = recipe(folder, count, method)
            path.write_text(json.dumps(made), encoding="utf-8")
            warm(Path(model) for model in made["models"].values())
            command = [
                sys.executable,
                "-m",
                "submerge",
                "merge",
                str(path),
                "-o",
                str(output),
                "-q",
            ]
            figures = run(command, output)
            if figures.error:
                raise SystemExit(f"{name}: {figures.error}")
            found[name].append(figures)
            remove(output)
    return found


def table(found: dict[str, list[Figures]]) -> str:
    """Return the medians as a table in Markdown."""

    def median(name: str, figure: str) -> float:
        return float(statistics.median(getattr(run, figure) for run in found[name]))

    lines = ["| method | wall s | CPU s | x linear, wall | x linear, CPU | at most | peak MB |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for name, count, _, limit in JOBS:
        if name in found:
            linear = "linear" if count == 2 else "linear of three"
            wall, cpu = median(name, "wall"), median(name, "cpu")
            ratios = [wall / median(linear, "wall"), cpu / median(linear, "cpu")]
            peak = max(run.rss for run in found[name]) / 1e6
            lines.append(
                f"| {name} | {wall:.2f} | {cpu:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f}"
                f" | {limit:g} | {peak:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benches.methods")
    parser.add_argument("--pair", type=Path, required=True, help="folder of the three models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only these methods, comma-separated")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.pair) as work:
        only = given.only.split(",") if given.only else []
        print(table(measure(given.pair, Path(work), given.rounds, only)))


if __name__ == "__main__":
    main()
