"""Writes sd-mecha's recipes of a few merges of small tensors, and what sd-mecha makes of them.

Run it in an environment of its own: `pip install sd-mecha==1.1.8 scipy==1.17.1` (torch 2.15.0,
CPU), then `python scripts/mecha_golden.py`. The recipes go to tests/data/recipes/mecha/, inputs and
results to tests/data/mecha.safetensors, so that nothing depends on how random numbers are made.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sd_mecha
import torch
from safetensors.torch import save_file
from scipy import ndimage
from sd_mecha.extensions.merge_methods import resolve

DATA = Path(__file__).parents[1] / "tests" / "data"
SHAPES = {"head.bias": (24,), "head.weight": (24, 20)}
MODELS = ("anna", "base", "carl")


def parents() -> dict[str, dict[str, torch.Tensor]]:
    """Return a base and what two models learned on top of it."""
    random = np.random.default_rng(2026)
    base = {name: random.standard_normal(shape) for name, shape in SHAPES.items()}
    made = {"base": base}
    for model in ("anna", "carl"):
        made[model] = {
            name: x + 0.4 * random.standard_normal(x.shape) * (random.random(x.shape) < 0.8)
            for name, x in base.items()
        }
    return {
        model: {name: torch.from_numpy(x.astype(np.float32)) for name, x in tensors.items()}
        for model, tensors in made.items()
    }


def cases() -> dict[str, Any]:
    """Return sd-mecha's recipes by the names of their cases."""
    m = sd_mecha
    anna, base, carl = (m.model(f"{name}.safetensors") for name in MODELS)
    by_tensor = m.literal({"head.bias": 0.2, "head.weight": 0.7})
    mask = m.train_difference_mask(anna, carl, base, alpha=0.75)
    two = (anna - base, carl - base)
    turned = resolve("rotate")  # the function of that name fails
    return {
        "weighted_sum": m.weighted_sum(anna, carl, alpha=0.3),
        "weighted_sum_by_tensor": m.weighted_sum(anna, carl, alpha=by_tensor),
        "n_average": m.n_average(anna, base, carl),
        "add_difference": m.add_difference(anna, carl, base, alpha=0.5),
        "clamped": m.add_difference(anna, carl, base, alpha=1.5, clamp_to_ab=True),
        "chained": m.weighted_sum(anna + (carl - base) * 0.5 * 0.8, m.n_average(carl, base)),
        "slerp_half": m.slerp(anna, carl),
        "slerp": m.slerp(anna, carl, alpha=0.3),
        "perpendicular": m.add_perpendicular(anna, carl, base, alpha=0.7),
        "train_difference": anna + (carl - base) * mask,
        "train_difference_alpha": resolve("add_difference")(anna, carl - base, mask),
        "opposite": anna + (carl - base) * m.add_opposite_mask(anna, carl, base, alpha=0.6),
        "strict": anna + (carl - base) * m.add_strict_opposite_mask(anna, carl, base, alpha=0.6),
        "cosine_a": m.add_cosine_a(anna, carl, alpha=0.4),
        "cosine_b": m.add_cosine_b(anna, carl, alpha=0.4),
        "low_rank": base + m.truncate_rank(carl - base, 3, use_approximate_basis=False) * 0.8,
        "low_rank_onto": anna + m.truncate_rank(carl - base, 3, use_approximate_basis=False),
        "ties_whole": base + m.ties_sum(*two, vote_sgn=True) * 0.8,
        "ties": base + m.ties_sum(*two, k=0.5, vote_sgn=True) * 0.8,
        "model_stock": m.n_model_stock(base, anna, carl),
        "geometric_median": m.geometric_median(anna, base, carl),
        "rotate": turned(anna, carl, alpha=0.25),
        "rotate_part": turned(anna, carl, alignment=0.4, alpha=0.3),
        "rotate_plain": turned(anna, carl, 1.0, 0.25, centralization=0.0),
        "cast": m.weighted_sum(anna, carl, alpha=0.3).to(dtype="bfloat16"),
    }


def unread() -> dict[str, Any]:
    """Return recipes of formulas that no importer reads."""
    m = sd_mecha
    anna, base, carl = (m.model(f"{name}.safetensors") for name in MODELS)
    two = (anna, carl, base)
    masks = {
        "add_opposite": m.add_opposite_mask(*two, alpha=0.7),
        "add_strict_opposite": m.add_strict_opposite_mask(*two, alpha=0.7),
    }
    return {
        "add_cosine_a": m.add_cosine_a(anna, carl, alpha=0.5),
        "add_cosine_b": m.add_cosine_b(anna, carl, alpha=0.5),
    } | {name: resolve("add_difference")(anna, carl - base, mask) for name, mask in masks.items()}


def smooth(models: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return smoothAdd of sd-webui-supermerger, which calls these filters."""
    found = {}
    for name in SHAPES:
        anna, base, carl = (models[model][name] for model in MODELS)
        filtered = ndimage.gaussian_filter(
            ndimage.median_filter((carl - base).numpy(), size=3), sigma=1
        )
        found[f"more.smooth_add.{name}"] = anna + 0.7 * torch.from_numpy(filtered)
    return found


def main() -> None:
    """Run every case and write recipes, inputs and outputs."""
    recipes = DATA / "recipes" / "mecha"
    recipes.mkdir(exist_ok=True)
    models = parents()
    found = {f"in.{m}.{n}": x for m, tensors in models.items() for n, x in tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for model, tensors in models.items():
            save_file(tensors, f"{model}.safetensors")
        written = cases()
        for case, recipe in (written | unread()).items():
            text = sd_mecha.serialize(recipe).replace(f"{Path.cwd()}{os.sep}", "")
            if case in written:
                (recipes / f"{case}.mecha").write_text(text + "\n", encoding="utf-8")
            # In f32 its rotations are right to 3e-6, and parts of them to 1e-4.
            dtype = torch.float64 if case.startswith("rotate") else torch.float32
            merged = sd_mecha.merge(recipe, merge_dtype=dtype, output_dtype=torch.float32)
            kind = "out" if case in written else "more"
            found |= {f"{kind}.{case}.{name}": merged[name].contiguous() for name in SHAPES}
    found |= smooth(models)
    names = ("sd-mecha", "scipy", "torch", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    save_file(found, DATA / "mecha.safetensors", metadata={"versions": json.dumps(versions)})


if __name__ == "__main__":
    main()
