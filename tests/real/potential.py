"""What a CHGNet checkpoint computes: energies and forces of four crystals, slightly shaken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from real.published import installed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CRYSTALS = ("NaCl", "Si", "MgO", "SrTiO3")


def crystals() -> list[Any]:
    """Return the structures, every atom moved by 0.1 angstrom so that forces are not zero."""
    from pymatgen.core import Lattice, Structure

    def salt(edge: float, *ions: str) -> Any:
        places = [[0, 0, 0], [0.5, 0, 0]]
        return Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), list(ions), places)

    found = [
        salt(5.69, "Na", "Cl"),
        Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]),
        salt(4.21, "Mg", "O"),
        Structure.from_spacegroup(
            "Pm-3m",
            Lattice.cubic(3.905),
            ["Sr", "Ti", "O"],
            [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
        ),
    ]
    random = np.random.default_rng(2026)
    for structure in found:
        for site in range(len(structure)):
            step = random.standard_normal(3)
            structure.translate_sites([site], 0.1 * step / np.linalg.norm(step), frac_coords=False)
    return found


class Prediction:
    """Energies in eV per atom, one for each crystal, and all forces in eV per angstrom."""

    def __init__(self, energies: Sequence[float], forces: np.ndarray[Any, Any]) -> None:
        self.energies = np.array(energies)
        self.forces = forces

    def distance(self, other: Prediction) -> float:
        """Return the norm of the forces' difference over that of the other's forces."""
        return float(np.linalg.norm(self.forces - other.forces) / np.linalg.norm(other.forces))


def predict(path: Path) -> Prediction:
    """Run a checkpoint that CHGNet 0.3.0's code fits, on one thread."""
    from chgnet.model.model import CHGNet

    source = installed("chgnet-0.3.0")
    assert source is not None
    torch.set_num_threads(1)
    made = torch.load(source, map_location="cpu", weights_only=True)["model"]["model_args"]
    model = CHGNet.from_dict({"state_dict": load_file(path), "model_args": made})
    model.eval()
    results = [model.predict_structure(structure, task="ef") for structure in crystals()]
    return Prediction(
        [float(result["e"]) for result in results],
        np.concatenate([np.asarray(result["f"]).ravel() for result in results]).astype(np.float64),
    )
