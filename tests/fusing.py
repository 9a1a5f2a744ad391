"""Models with adapters on them, for tests: what submerge makes, and the same in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import adapter_files as files
import factory
import submerge
from factory import Array, Flux

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WIDE = Flux(guidance=True, seed=1, dtype="F32")


def fused(
    folder: Path,
    model: Flux,
    adapters: Sequence[Any],
    layout: str = "diffusers",
    **output: Any,
) -> dict[str, Array]:
    """A model with adapters on it, in diffusers' names and F32 unless told otherwise."""
    path = folder / f"{layout}.safetensors"
    if not path.exists():
        factory.save_file(path, model, layout)
    recipe = {
        "models": {"model": str(path)},
        "adapters": list(adapters),
        "output": {"layout": "diffusers", "dtype": "f32", **output},
    }
    submerge.merge(recipe, folder / "out.safetensors", overwrite=True)
    return factory.read(folder / "out.safetensors")


def expected(model: Flux, added: Mapping[str, Array], scale: float = 1.0) -> dict[str, Array]:
    """The model with dense deltas added in F64; names under `=` are replaced."""
    tensors = {name: files.wide(array) for name, array in factory.tensors(model).items()}
    return {
        name: added[f"={name}"] if f"={name}" in added else array + scale * added.get(name, 0.0)
        for name, array in tensors.items()
    }


def assert_close(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    """Equal up to the rounding of F32 sums."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


def weights(deltas: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{module}.weight": delta for module, delta in deltas.items()}
