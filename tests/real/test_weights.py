"""Published checkpoints through the generic layout, held against torch and f64 formulas."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import submerge
from real.published import FILES
from submerge.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Checkpoint = Callable[[str], Path]

PAIRS = (
    ("chgnet-0.3.0", "chgnet-r2scan"),
    ("pocketnet-fold0", "pocketnet-fold1"),
    ("pocketnet-fold2", "pocketnet-fold3"),
    *((f"lpips-v0.0-{net}", f"lpips-v0.1-{net}") for net in ("alex", "vgg", "squeeze")),
)
UNLIKE = (
    ("chgnet-0.3.0", "chgnet-0.2.0", -0.001),
    ("sevennet-11Jul2024", "sevennet-MF_0", 0.931),
    ("sevennet-11Jul2024", "sevennet-22May2024", 0.25),
)


def merged(out: Path, method: Any, models: dict[str, Path], **fields: Any) -> dict[str, Any]:
    sources = {name: {"path": str(path), "layout": "generic"} for name, path in models.items()}
    recipe = {"models": sources, "method": method, **fields}
    submerge.merge(recipe, out, overwrite=True)
    return load_file(out)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].double().ravel() for name in sorted(state)])


@pytest.mark.parametrize("name", FILES)
def test_a_model_merged_with_itself_is_itself_bit_for_bit(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    path = checkpoint(name)
    source = load_file(path)
    methods: tuple[Any, ...] = ("linear", "slerp", {"ties": {"base": "a", "density": 0.5}})
    for method in methods:
        got = merged(tmp_path / "out.safetensors", method, {"a": path, "b": path})
        assert got.keys() == source.keys()
        for key, tensor in source.items():
            assert got[key].dtype == tensor.dtype
            assert got[key].shape == tensor.shape
            assert torch.equal(got[key], tensor), (method, key)


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_diff_measures_what_torch_measures(checkpoint: Checkpoint, pair: tuple[str, str]) -> None:
    first, second = map(checkpoint, pair)
    found = submerge.diff(first, second, layout="generic").total()
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    x, y = flat(a), flat(b)
    (measured,) = found.pairs
    assert measured.cosine == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-7)
    assert measured.relative_l2 == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-6)
    assert found.changed == int((x != y).sum())


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_linear_and_slerp(checkpoint: Checkpoint, tmp_path: Path, pair: tuple[str, str]) -> None:
    paths = dict(zip("ab", map(checkpoint, pair), strict=True))
    a, b = load_file(paths["a"]), load_file(paths["b"])
    out = tmp_path / "out.safetensors"
    for share in (0.25, 0.5, 0.75):
        straight = merged(out, {"linear": {"alpha": share}}, paths)
        curved = merged(out, {"slerp": {"alpha": share}}, paths)
        for key in a:
            line = torch.lerp(a[key].double(), b[key].double(), share)
            torch.testing.assert_close(straight[key].double(), line, rtol=2e-7, atol=2e-7)
            circle = slerp(a[key].double(), b[key].double(), share)
            torch.testing.assert_close(curved[key].double(), circle, rtol=2e-6, atol=2e-6)


def slerp(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    """Shoemake's formula in f64; the straight line where directions are as good as equal."""
    norms = a.norm() * b.norm()
    cosine = float((a * b).sum() / norms) if norms > 0 else 1.0
    if abs(cosine) > 0.9995:
        return torch.lerp(a, b, share)
    angle = np.arccos(cosine)
    return (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)


def test_a_task_vector_is_a_straight_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    paths = {"old": checkpoint("chgnet-0.3.0"), "new": checkpoint("chgnet-r2scan")}
    out = tmp_path / "out.safetensors"
    for scale in (0.3, 0.5, 1.0, 1.5):
        added = merged(out, {"task_arithmetic": {"base": "old", "lambda": scale}}, paths)
        straight = merged(out, {"linear": {"alpha": scale}}, paths)
        for key in added:
            # Two roundings of f32 apart.
            torch.testing.assert_close(added[key], straight[key], rtol=3e-7, atol=3e-7)


def test_a_soup_of_five_folds_is_their_mean(checkpoint: Checkpoint, tmp_path: Path) -> None:
    paths = {f"fold{i}": checkpoint(f"pocketnet-fold{i}") for i in range(5)}
    weight = dict.fromkeys(paths, 1)
    got = merged(tmp_path / "out.safetensors", {"linear": {"weight": weight}}, paths)
    states = [load_file(path) for path in paths.values()]
    for key, tensor in got.items():
        mean = torch.stack([state[key].double() for state in states]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, rtol=2e-7, atol=2e-7)


def test_sweeps_of_density(checkpoint: Checkpoint, tmp_path: Path) -> None:
    paths = {"old": checkpoint("chgnet-0.3.0"), "new": checkpoint("chgnet-r2scan")}
    old, new = (load_file(path) for path in paths.values())
    delta = flat(new) - flat(old)
    out = tmp_path / "out.safetensors"

    def left(method: str, density: float, seed: int = 0) -> torch.Tensor:
        given = {method: {"base": "old", "density": density}}
        return flat(merged(out, given, paths, seed=seed)) - flat(old)

    # The largest parts hold more of a delta's norm than their number, and all of it is all of it.
    norms = [float(left("ties", density).norm() / delta.norm()) for density in (0.1, 0.3, 0.6, 1.0)]
    assert all(low < high for low, high in itertools.pairwise(norms))
    assert norms[0] > np.sqrt(0.1)
    torch.testing.assert_close(left("ties", 1.0), delta, rtol=1e-6, atol=3e-7)
    # DARE drops at random and scales the rest: the expected delta is the delta.
    drawn = [left("dare_linear", 0.5, seed) for seed in range(16)]
    kept = [float((x != 0).sum() / (delta != 0).sum()) for x in drawn]
    assert all(abs(share - 0.5) < 0.01 for share in kept)
    mean = torch.stack(drawn).mean(dim=0)
    # Each drawn element is 0 or twice the delta's: the mean of 16 is off by a quarter.
    assert float((mean - delta).norm() / delta.norm()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("first", "second", "cosine"), UNLIKE)
def test_models_of_other_shapes_are_refused_and_measured_where_they_meet(
    checkpoint: Checkpoint, tmp_path: Path, first: str, second: str, cosine: float
) -> None:
    paths = {"a": checkpoint(first), "b": checkpoint(second)}
    with pytest.raises(LayoutError, match=r"nor do \d+ more units:") as caught:
        merged(tmp_path / "out.safetensors", "linear", paths)
    assert caught.value.hint
    assert not (tmp_path / "out.safetensors").exists()
    found = submerge.diff(paths["a"], paths["b"], layout="generic")
    (pair,) = found.total().pairs
    assert pair.cosine == pytest.approx(cosine, abs=0.01)
    assert any("trained apart" in note for note in found.notes) == (cosine < 0.5)


def test_rules_carry_models_of_other_shapes_through(checkpoint: Checkpoint, tmp_path: Path) -> None:
    paths = {"a": checkpoint("sevennet-11Jul2024"), "b": checkpoint("sevennet-MF_0")}
    a, b = (load_file(path) for path in paths.values())
    unlike = [key for key in a if a[key].shape != b[key].shape]
    rules = [{"where": key, "take": "a"} for key in unlike]
    got = merged(tmp_path / "out.safetensors", "linear", paths, rules=rules)
    assert len(unlike) == 12
    for key, tensor in got.items():
        whole = a[key] if key in unlike else torch.lerp(a[key].double(), b[key].double(), 0.5)
        torch.testing.assert_close(tensor.double(), whole.double(), rtol=2e-7, atol=2e-7)


def test_a_text_encoder_in_half_precision(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint("minilm")
    out = tmp_path / "minilm.safetensors"
    recipe = {
        "models": {"a": {"path": str(path), "layout": "generic"}},
        "output": {"dtype": "bf16"},
    }
    submerge.merge(recipe, out)
    source, got = load_file(path), load_file(out)
    for key, tensor in source.items():
        expected = tensor.bfloat16() if tensor.is_floating_point() else tensor
        assert torch.equal(got[key], expected), key
    submerge.verify(out, layout="generic").require()
