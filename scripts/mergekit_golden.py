"""Writes tests/data/mergekit.safetensors: what mergekit makes of a few small tensors.

Run it in an environment of its own: `pip install mergekit==0.1.5` (torch 2.13.0, CPU), then
`python scripts/mergekit_golden.py`. The inputs are in the file, so that nothing depends on how
random numbers are made; each case's metadata says which parameters it had.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import mergekit.merge_methods  # noqa: F401 - registers the methods
import numpy as np
import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import save_file

PATH = Path(__file__).parents[1] / "tests" / "data" / "mergekit.safetensors"
SHAPE = (24, 20)
MODELS = ("anna", "base", "carl", "dora")
WEIGHTS = {"anna": 0.7, "carl": 0.4, "dora": -0.25}
# Case: method, models in order, base, mergekit's parameters.
CASES: dict[str, tuple[str, str, str | None, dict[str, Any]]] = {
    "linear": ("linear", "anna carl dora", None, {"weight": [0.5, 0.25, 1.0]}),
    "slerp": ("slerp", "carl anna", "carl", {"t": 0.3}),
    "nuslerp": ("nuslerp", "carl anna", None, {"weight": [0.75, 0.25]}),
    "nuslerp_base": ("nuslerp", "base carl anna", "base", {"weight": [0.75, 0.25]}),
    "nuslerp_rows": (
        "nuslerp",
        "carl anna",
        None,
        {"weight": [0.75, 0.25], "nuslerp_flatten": False},
    ),
    "multislerp": ("multislerp", "anna carl dora", None, {"weight": [1.0, 2.0, 1.0]}),
    "karcher": ("karcher", "anna carl dora", None, {}),
    "model_stock": ("model_stock", "base anna carl dora", "base", {}),
    "model_stock_rows": ("model_stock", "base anna carl dora", "base", {"filter_wise": True}),
    "task_arithmetic": ("task_arithmetic", "base anna carl dora", "base", {"lambda": 0.8}),
    "ties": ("ties", "base anna carl dora", "base", {"density": 0.4}),
    "ties_whole": ("ties", "base anna carl dora", "base", {"lambda": 0.8}),
    "breadcrumbs": ("breadcrumbs", "base anna carl dora", "base", {"density": 0.7, "gamma": 0.1}),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        "base anna carl dora",
        "base",
        {"density": 0.7, "gamma": 0.1},
    ),
    "nearswap": ("nearswap", "carl anna", "carl", {"t": 0.1}),
    "ram": ("ram", "base anna carl dora", "base", {}),
}
WEIGHTED = ("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties")


def parents() -> dict[str, torch.Tensor]:
    """Return a base and what three models learned on top of it."""
    random = np.random.default_rng(2026)
    base = random.standard_normal(SHAPE)
    made = {"base": base}
    for model in MODELS:
        if model != "base":
            changed = random.random(SHAPE) < 0.8
            made[model] = base + 0.4 * random.standard_normal(SHAPE) * changed
    return {model: torch.from_numpy(x.astype(np.float32)) for model, x in made.items()}


def main() -> None:
    """Run every case and write inputs and outputs."""
    models = parents()
    found = {f"in.{name}": tensor for name, tensor in models.items()}
    for case, (method, order, base, given) in CASES.items():
        names = order.split()
        parameters = dict(given)
        if method in WEIGHTED:
            parameters["weight"] = [WEIGHTS[name] for name in names if name != base]
        merged = merge_tensors(
            [models[name] for name in names],
            method,
            parameters=parameters,
            base_index=None if base is None else names.index(base),
        )
        found[f"out.{case}"] = merged.contiguous()
    versions = {name: importlib.metadata.version(name) for name in ("mergekit", "torch", "numpy")}
    save_file(found, PATH, metadata={"versions": json.dumps(versions)})


if __name__ == "__main__":
    main()
