"""A pipeline with a transformer of 0.8 GB, of FLUX.1's proportions, made in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from factory import WEIGHTS, Flux, config, diffusers_shapes, write, write_json
from oracles.pipelines import save_pipeline

if TYPE_CHECKING:
    from pathlib import Path

WIDE = Flux(double=2, single=6, hidden=1536, head_dim=128, context=256, pooled=64, guidance=True)


def save_wide(folder: Path, flux: Flux = WIDE) -> Path:
    """Write the pipeline and return its folder; its numbers repeat one block of noise."""
    noise = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(ml_dtypes.bfloat16)
    arrays: dict[str, Any] = {
        name: np.resize(noise, shape) for name, shape in diffusers_shapes(flux).items()
    }
    transformer = folder / "transformer"
    write_json(transformer / "config.json", config(flux))
    write(transformer / f"{WEIGHTS}.safetensors", arrays)
    return save_pipeline(folder, transformer, dynamic=True)
