"""Writes tests/data/mergekit.safetensors: what mergekit makes of a few small tensors.

Run it in an environment of its own: `pip install mergekit==0.1.5` (torch, CPU), then
`python scripts/mergekit_golden.py`. The inputs are in the file, so that nothing depends on how
random numbers are made; the versions are in its metadata.
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
# Deltas in sixteenths, so that many are equal; and deltas so small that squares of them are, too.
TIED = ("tied_anna", "tied_carl", "tied_dora")
SMALL = ("small_anna", "small_carl")
WEIGHTS = {"anna": 0.7, "carl": 0.4, "dora": -0.25}
ALL = "base anna carl dora"
EQUAL = "even tied_anna tied_carl tied_dora"
THIN = {"density": 0.7, "gamma": 0.1}
HALF = {"density": 0.5}
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
    "model_stock": ("model_stock", ALL, "base", {}),
    "model_stock_rows": ("model_stock", ALL, "base", {"filter_wise": True}),
    "model_stock_small": ("model_stock", "base small_anna small_carl", "base", {}),
    "task_arithmetic": ("task_arithmetic", ALL, "base", {"lambda": 0.8}),
    "ties": ("ties", ALL, "base", {"density": 0.4}),
    "ties_tied": ("ties", EQUAL, "even", {"density": 0.4}),
    "ties_whole": ("ties", ALL, "base", {"lambda": 0.8}),
    "breadcrumbs": ("breadcrumbs", ALL, "base", THIN),
    "breadcrumbs_tied": ("breadcrumbs", EQUAL, "even", THIN),
    "breadcrumbs_ties": ("breadcrumbs_ties", ALL, "base", THIN),
    "breadcrumbs_ties_tied": ("breadcrumbs_ties", EQUAL, "even", THIN),
    "dare_linear": ("dare_linear", "base anna", "base", {"weight": [1.0], **HALF}),
    "dare_ties": ("dare_ties", "base anna", "base", {"weight": [1.0], **HALF}),
    "della": ("della", "base anna", "base", {"weight": [1.0], "epsilon": 0.4, **HALF}),
    "della_linear": (
        "della_linear",
        "base anna",
        "base",
        {"weight": [1.0], "epsilon": 0.4, **HALF},
    ),
    "sce": ("sce", ALL, "base", {}),
    "sce_selected": ("sce", ALL, "base", {"select_topk": 0.3}),
    "sce_small": ("sce", "base small_anna small_carl", "base", {}),
    "arcee_fusion": ("arcee_fusion", "base anna", "base", {}),
    "nearswap": ("nearswap", "carl anna", "carl", {"t": 0.1}),
    "ram": ("ram", ALL, "base", {}),
    "ramplus_tl": ("ramplus_tl", ALL, "base", {"r": 0.5, "alpha": 3.0}),
}
WEIGHTED = ("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties")


def parents() -> dict[str, torch.Tensor]:
    """Return a base and what others learned on top of it."""
    random = np.random.default_rng(2026)
    base = random.standard_normal(SHAPE)
    made = {"base": base}
    for model in MODELS:
        if model != "base":
            changed = random.random(SHAPE) < 0.8
            made[model] = base + 0.4 * random.standard_normal(SHAPE) * changed
    made = {model: x.astype(np.float32) for model, x in made.items()}
    # On a base in sixteenths these are exact, so that equal deltas stay equal.
    made["even"] = (np.round(16 * made["base"]) / 16).astype(np.float32)
    for model in TIED:
        steps = random.integers(-12, 13, SHAPE)
        made[model] = (made["even"] + steps / 16).astype(np.float32)
    for model, size in zip(SMALL, (5e-4, 5e-5), strict=True):
        made[model] = (made["base"] + size * random.standard_normal(SHAPE)).astype(np.float32)
    return {model: torch.from_numpy(x) for model, x in made.items()}


def main() -> None:
    """Run every case and write inputs and outputs."""
    models = parents()
    found = {f"in.{name}": tensor for name, tensor in models.items()}
    for case, (method, order, base, given) in CASES.items():
        names = order.split()
        parameters = dict(given)
        if method in WEIGHTED:
            parameters["weight"] = [
                WEIGHTS[name.removeprefix("tied_")] for name in names if name != base
            ]
        torch.manual_seed(2026)
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
