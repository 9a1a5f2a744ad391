"""What a plan says is what a process takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from benches.inference import measured, save_wide

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peaks_are_within_15_percent_of_the_plan(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    model = save_wide(tmp_path / "wide.safetensors")
    runs = measured(model, pipelines["krea"])
    resident, streamed = runs["resident"], runs["streamed"]
    assert resident["candidate"] == "everything resident"
    assert streamed["candidate"].startswith("transformer and text encoders streamed")
    for run in runs.values():
        assert run["peak"] == pytest.approx(run["plan"], rel=0.15)
    weights = model.stat().st_size
    assert resident["peak"] - resident["base"] > 0.95 * weights
    assert streamed["peak"] - streamed["base"] < 0.3 * weights
    assert streamed["pixels"] == resident["pixels"]
    # Rounded as they are read: the weights as they are were never in memory as a whole.
    for kind in ("int8", "int4"):
        assert f"{kind} layers" in runs[kind]["candidate"]
        assert runs[kind]["peak"] - runs[kind]["base"] < 0.75 * weights
