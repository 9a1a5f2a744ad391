"""Time every method against our own linear merge of as many models, interleaved.

    python -m benches.methods --pair FOLDER [--rounds 5] [--only ties,della] [--rivals SECONDS]

FOLDER holds `NAME.bfl.safetensors` of schnell, krea and dev, as `benches.make_pair FOLDER --models
schnell,krea,dev` writes them. Whole processes on a warm page cache: medians of wall and CPU
seconds, each as a multiple of the linear merge's, and the peak resident memory. `--rivals` runs
mergekit's methods of the same names once each, for at most so many seconds: one that has not
finished by then has a lower bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.peers.environment import cache_folder, rivals
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


_MERGEKIT = """merge_method: {name}
base_model: {schnell}
models:
  - {{model: {krea}, parameters: {{weight: 1, density: 0.5}}}}
  - {{model: {dev}, parameters: {{weight: 1, density: 0.5}}}}
"""


def rival(name: str, folder: Path, work: Path, limit: float) -> Figures:
    """Run mergekit's method of that name on the three models, once."""
    python, _ = rivals(cache_folder() / "rivals")
    models = {model: folder / f"{model}.bfl.safetensors" for model in MODELS}
    config, output = work / f"{name}.yaml", work / "rival"
    config.write_text(_MERGEKIT.format(name=name, **models), encoding="utf-8")
    program = str(python.with_name("mergekit-pytorch"))
    # -i: guidance, which schnell lacks, is left out; without it mergekit refuses.
    options = ["--lazy-unpickle", "-i", "--quiet"]
    warm(models.values())
    figures = run([program, str(config), str(output), *options], output, limit=limit)
    if output.exists():
        remove(output)
    return figures


def compared(name: str, ours: float, figures: Figures) -> str:
    """Return a line about a rival's run."""
    bound = ">" if figures.error.startswith("stopped after") else ""
    if figures.error and not bound:
        return f"| mergekit {name} | failed: {figures.error} | | |"
    return (
        f"| mergekit {name} | {bound}{figures.wall:.0f} | {bound}{figures.wall / ours:.0f}"
        f" | {figures.rss / 1e6:.0f} |"
    )


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
    parser.add_argument("--rivals", type=float, default=0, help="run mergekit's too, so long each")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.pair) as work:
        only = given.only.split(",") if given.only else []
        found = measure(given.pair, Path(work), given.rounds, only)
        print(table(found))
        if not given.rivals:
            return
        print("\n| | wall s | x ours | peak MB |\n|---|---:|---:|---:|")
        for name in ("ties", "breadcrumbs", "della"):
            if name in found:
                ours = statistics.median(run.wall for run in found[name])
                figures = rival(name, given.pair, Path(work), given.rivals)
                print(compared(name, ours, figures), flush=True)


if __name__ == "__main__":
    main()
