"""Peak memory by size and number of models, and what an import costs.

The models are sparse files of zeros: full size, no room on disk, and nothing about memory depends
on the values.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from typing import TYPE_CHECKING, Any

from benches.peers.jobs import submerge_command
from benches.peers.measure import Figures, remove, run
from factory import REAL, Flux, save_sparse

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["import_times", "peaks"]

# One double and one single block of real width: 1.1 GB.
_SMALL = Flux(1, 1, 3072, 128, 4096, 768, guidance=True)
_TINY = Flux(guidance=True)


def peaks(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return the peak memory of whole merges: few large models, many small ones."""
    small, large = (_TINY, _SMALL) if quick else (_SMALL, REAL)
    return [_peak(folder, flux, count) for flux, count in ((small, 2), (large, 2), (small, 8))]


def _peak(folder: Path, flux: Flux, count: int) -> dict[str, Any]:
    inputs = folder / "sparse"
    models = [save_sparse(inputs / f"m{i}.safetensors", flux) for i in range(count)]
    size, output = models[0].stat().st_size, folder / "sparse.safetensors"
    recipe = inputs / "recipe.json"
    names = {model.stem: str(model) for model in models}
    recipe.write_text(json.dumps({"models": names, "weight": dict.fromkeys(names, 1.0)}))
    command = (*submerge_command(), "merge", "--quiet", str(recipe), "-o", str(output))
    said: dict[str, Any] = {"models": count, "bytes": size}
    if shutil.disk_usage(folder).free < 1.1 * size:
        said["error"] = "too little room on the disk"
    else:
        figures: Figures = run(command, output)
        said |= {"rss": figures.rss, "wall": figures.wall, "error": figures.error}
        said["cached"] = figures.cached
    remove(output)
    shutil.rmtree(inputs)
    return said


def import_times(folder: Path, rounds: int) -> dict[str, float]:
    """Return the median seconds of `pass` and of `import submerge`, whole processes."""
    commands = {"pass": "pass", "import submerge": "import submerge"}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, code in commands.items():
            times[name].append(run((sys.executable, "-c", code), folder / "nothing").wall)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
