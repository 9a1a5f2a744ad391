"""Draw the picture and print the table of docs/analyze.md.

    python scripts/docs_analyze.py

The models are synthetic: FLUX.1's 19 and 38 blocks at a width of 64, random values, and changes put
in by hand, so that the picture has something to show. Nothing in them was trained.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from factory import DTYPES, Flux, diffusers_shapes, write  # noqa: E402 - needs its path
from submerge import Analysis, analyze  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]

FLUX = Flux(double=19, single=38, guidance=False)
PICTURE = ROOT / "docs" / "images" / "analyze.svg"


def models(folder: Path) -> dict[str, Path]:
    """Write `dev`, and `schnell` and `krea` that each changed it in a way of their own."""
    bf16, random = DTYPES["BF16"][0], np.random.default_rng(7)
    held: dict[str, dict[str, Array]] = {name: {} for name in ("schnell", "krea", "dev")}
    for name, shape in diffusers_shapes(FLUX).items():
        base, common, own = (random.standard_normal(shape) for _ in range(3))
        base *= 0.05
        depth = _depth(name)
        schnell = 0.10 * (0.4 + depth) * (0.7 * common + 0.7 * own)
        if len(shape) == 2:
            low = random.standard_normal((shape[0], 4)) @ random.standard_normal((4, shape[1]))
            krea = 0.06 * (1.2 - depth) * (0.5 * common + 0.5 * low)
        else:
            krea = 0.02 * common
        if "attn.norm" in name:
            schnell, krea = schnell * 0.05, krea * 0.0
        held["dev"][name] = base.astype(bf16)
        held["schnell"][name] = (base * (1 + 0.01 * depth) + 0.05 * schnell).astype(bf16)
        held["krea"][name] = (base + 0.05 * krea).astype(bf16)
    return {name: write(folder / f"{name}.safetensors", held[name]) for name in held}


def _depth(name: str) -> float:
    words = name.split(".")
    index = int(words[1]) if words[1].isdecimal() else 0
    return index / 19 if words[0] == "transformer_blocks" else index / 38


def main() -> None:
    """Write the models, analyse them, draw and print."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        paths = models(Path())
        found: Analysis = analyze(paths["schnell"], paths["krea"], paths["dev"])
    PICTURE.parent.mkdir(exist_ok=True)
    found.heatmap(PICTURE)
    for line in found.table().splitlines():
        print(line)


if __name__ == "__main__":
    main()
