"""What the planner reckons with is what torch's own accounting finds, at full width and small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from benches.activations import FLUX, PHASES, formula, held, transformer
from submerge.inference.activations import Shapes, Work, activations

SMALL = Shapes(
    hidden=512, head_dim=64, text=256, text_inner=640, text_heads=4, vae=(64, 128, 256, 256)
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("shapes", "work"),
    [
        (FLUX, Work()),
        (FLUX, Work(512, 768, batch=2, tokens=256)),
        (SMALL, Work(1024, 768, batch=3, tokens=64)),
    ],
    ids=["flux", "batch", "small"],
)
def test_formulas_are_within_3_percent_of_the_count(
    phase: str, shapes: Shapes, work: Work, dtype: torch.dtype
) -> None:
    """No module is computed: the tensors are fake, of real shapes."""
    found = held(PHASES[phase][0], work, dtype, shapes)
    assert formula(phase, work, dtype, shapes) == pytest.approx(found, rel=0.03)


def test_depth_does_not_count() -> None:

    def deeper(shapes: Shapes, work: Work) -> Any:
        made, call = transformer(shapes, work)
        config: Any = made.config
        more = FluxTransformer2DModel.from_config({**config, "num_single_layers": 4})
        made.single_transformer_blocks = more.single_transformer_blocks
        return made, call

    work = Work(512, 512)
    one = held(transformer, work, torch.bfloat16, SMALL)
    assert held(deeper, work, torch.bfloat16, SMALL) == pytest.approx(one, rel=0.01)


def test_attention_that_writes_out_its_scores_takes_them_twice() -> None:
    fused = activations(FLUX, Work(), tiles=False, device="cuda")
    written = activations(FLUX, Work(), tiles=False, device="mps")
    scores = 24 * 4608 * 4608 * 2
    assert written["denoise"] - fused["denoise"] == pytest.approx(2.4 * 2 * scores, rel=1e-6)
    assert written["text"] > fused["text"]


def test_what_flux_takes_on_a_gpu_is_what_was_published() -> None:
    """1.1 GiB denoising and 4.7 GiB decoding, FLUX.1-dev at 1024 x 1024 in bf16."""
    taken = activations(FLUX, Work(), tiles=False, device="cuda")
    assert taken["denoise"] == pytest.approx(1.1 * 2**30, rel=0.02)
    assert taken["decode"] == pytest.approx(4.7 * 2**30, rel=0.02)
    wider = activations(replace(FLUX, itemsize=4), Work(), tiles=False, device="cuda")
    assert wider["decode"] == pytest.approx(2 * taken["decode"])
