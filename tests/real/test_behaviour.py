"""A merge of two published potentials computes what lies between its parents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import submerge

pytest.importorskip("chgnet", reason="`make test-real` installs it")
# The potential's code and what it needs are older than the Python and torch that run them.
pytestmark = pytest.mark.filterwarnings("ignore")

from real.potential import Prediction, predict  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARES = (0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def parents(checkpoint: Callable[[str], Path]) -> dict[str, Path]:
    return {"old": checkpoint("chgnet-0.3.0"), "new": checkpoint("chgnet-r2scan")}


def prediction(parents: dict[str, Path], out: Path, method: Any) -> Prediction:
    models = {name: {"path": str(path), "layout": "generic"} for name, path in parents.items()}
    submerge.merge({"models": models, "method": method}, out, overwrite=True)
    return predict(out)


def test_merges_lie_between_their_parents(parents: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    old, new = (predict(path) for path in parents.values())
    apart = old.distance(new)
    low, high = np.minimum(old.energies, new.energies), np.maximum(old.energies, new.energies)
    before = [0.0, apart]
    for share in SHARES:
        found = prediction(parents, out, {"linear": {"alpha": share}})
        assert np.all((low < found.energies) & (found.energies < high))
        to_old, to_new = found.distance(old), found.distance(new)
        # Steadily away from the one and towards the other.
        assert before[0] < to_old < apart * 1.1
        assert to_new < before[1]
        before = [to_old, to_new]
    half = prediction(parents, out, "slerp")
    assert np.all((low < half.energies) & (half.energies < high))
    assert max(half.distance(old), half.distance(new)) < apart


def test_the_ends_are_the_parents_to_the_last_bit(parents: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for share, path in zip((0.0, 1.0), parents.values(), strict=True):
        found, parent = prediction(parents, out, {"linear": {"alpha": share}}), predict(path)
        assert np.array_equal(found.energies, parent.energies)
        assert np.array_equal(found.forces, parent.forces)


def test_noise_of_half_the_size_breaks_what_a_merge_keeps(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    """The negative control: the same test fails for a change of weights that means nothing."""
    old, new = (predict(path) for path in parents.values())
    noisy = predict(shaken(parents, tmp_path / "noisy.safetensors"))
    low, high = np.minimum(old.energies, new.energies), np.maximum(old.energies, new.energies)
    assert not np.all((low < noisy.energies) & (noisy.energies < high))
    assert noisy.distance(old) > 1.5 * old.distance(new)


def shaken(parents: dict[str, Path], out: Path) -> Path:
    """Write the first parent plus noise, in each tensor half the norm of the difference."""
    old, new = (load_file(path) for path in parents.values())
    random = torch.Generator().manual_seed(1)
    made = {}
    for key, x in old.items():
        noise = torch.randn(x.shape, generator=random)
        made[key] = x + noise * (0.5 * (new[key] - x).norm() / noise.norm())
    save_file(made, out)
    return out
