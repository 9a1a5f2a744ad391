"""What becomes of guidance, judged by running the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import submerge
from factory import Flux, save_folder
from oracles.models import State, equal, forward, loaded, merged, model_of, state_of

if TYPE_CHECKING:
    from pathlib import Path

# In float32 only the order of a few sums differs between a folded and a computed embedding: one
# part in a million of the answer's size here, and the bound is ten times that.
CLOSE = 1e-5
GUIDED = Flux(guidance=True, seed=1, dtype="F32")
OTHER = Flux(guidance=True, seed=2, dtype="F32")
PLAIN = Flux(dtype="F32")


def _merge(folder: Path, pair: tuple[Flux, Flux], guidance: object) -> Path:
    """Merge 0.7/0.3 under a policy; the second model is guided."""
    models = {
        name: save_folder(folder / name, flux)
        for name, flux in zip(("first", "second"), pair, strict=True)
    }
    out = folder / "merged"
    recipe: dict[str, Any] = {"models": models, "alpha": 0.3, "guidance": guidance}
    submerge.merge(recipe, out, overwrite=True)
    return out


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference relative to the largest number."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("value", [0.0, 1.0, 3.5, 30.0])
@pytest.mark.parametrize("pair", [(PLAIN, GUIDED), (OTHER, GUIDED)])
def test_baked_model_runs_as_the_unbaked_one_at_that_guidance(
    tmp_path: Path, pair: tuple[Flux, Flux], value: float
) -> None:
    kept = loaded(_merge(tmp_path / "kept", pair, "keep"))
    baked = loaded(_merge(tmp_path / "baked", pair, {"bake": value}))
    assert (kept.config.guidance_embeds, baked.config.guidance_embeds) == (True, False)
    answer = forward(baked)
    assert _apart(answer, forward(kept, value)) < CLOSE
    assert _apart(answer, forward(kept, value + 1.5)) > 100 * CLOSE


def _guidance(state: State) -> set[str]:
    return {name for name in state if "guidance_embedder" in name}


def test_keep_takes_the_guided_parents_embedder_as_it_is(tmp_path: Path) -> None:
    made = state_of(_merge(tmp_path, (PLAIN, GUIDED), "keep"))
    second = state_of(tmp_path / "second")
    names = _guidance(made)
    assert len(names) == 4
    assert equal({n: made[n] for n in names}, {n: second[n] for n in names})


@pytest.mark.parametrize(("policy", "share"), [("scale", 0.3), ({"scale": 0.5}, 0.5)])
def test_scale_multiplies_the_embedders_output_layer(
    tmp_path: Path, policy: object, share: float
) -> None:
    out = _merge(tmp_path, (PLAIN, GUIDED), policy)
    expected = merged(state_of(tmp_path / "first"), state_of(tmp_path / "second"), 0.3)
    for name in _guidance(expected):
        if "linear_2" in name:
            expected[name] = expected[name] * share
    assert equal(state_of(out), expected)
    reference = model_of(expected, tmp_path / "second" / "config.json")
    assert torch.equal(forward(loaded(out), 3.5), forward(reference, 3.5))


def test_drop_leaves_a_model_without_guidance(tmp_path: Path) -> None:
    out = _merge(tmp_path, (PLAIN, GUIDED), "drop")
    expected = merged(state_of(tmp_path / "first"), state_of(tmp_path / "second"), 0.3)
    for name in _guidance(expected):
        del expected[name]
    assert equal(state_of(out), expected)
    reference = model_of(expected, tmp_path / "first" / "config.json")
    assert torch.equal(forward(loaded(out)), forward(reference))


def test_guidance_matters_in_these_models(tmp_path: Path) -> None:
    """Were the embedder's part too small to see, nothing above could fail."""
    kept = loaded(_merge(tmp_path, (PLAIN, GUIDED), "keep"))
    assert _apart(forward(kept, 1.0), forward(kept, 5.0)) > 1000 * CLOSE
