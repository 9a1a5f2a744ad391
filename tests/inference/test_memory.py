"""What a plan says is what a process takes."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

import submerge
from benches.inference import measured, save_wide
from factory import read, write, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array


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


def with_wide_t5(pipeline: Path, folder: Path) -> Path:
    """The pipeline with a T5 of scaled fp8 that is 200 MB in f32."""
    shutil.copytree(pipeline, folder)
    encoder = folder / "text_encoder_2"
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    inner = 1 << 18
    write_json(encoder / "config.json", {**config, "d_ff": inner})
    found: dict[str, Array] = {}
    random = np.random.default_rng(5)
    for name, array in read(encoder / "model.safetensors").items():
        stem, _, leaf = name.rpartition(".DenseReluDense.")
        if not stem:
            found[name] = array
            continue
        shape = (inner, array.shape[1]) if leaf.startswith("wi") else (array.shape[0], inner)
        drawn = random.standard_normal(shape, dtype=np.float32)
        found[name] = drawn.astype(ml_dtypes.float8_e4m3fn)
        found[f"{name.removesuffix('weight')}scale_weight"] = np.asarray(1e-3, np.float32)
    write(encoder / "model.safetensors", found)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_quantised_parts_take_what_the_plan_says(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    plain = save_wide(tmp_path / "wide.safetensors")
    numbers = plain.stat().st_size
    model = tmp_path / "coded.safetensors"
    submerge.convert(plain, model, dtype="fp8_scaled")
    plain.unlink()
    runs = measured(
        model, with_wide_t5(pipelines["krea"], tmp_path / "p"), ("resident", "streamed")
    )
    resident, streamed = runs["resident"], runs["streamed"]
    assert resident["candidate"] == "everything resident, layers in the file's codes"
    assert streamed["candidate"].startswith("transformer and text encoders streamed")
    for run in runs.values():
        print(run["candidate"], run["base"], run["plan"], run["peak"])
        assert run["peak"] == pytest.approx(run["plan"], rel=0.15)
    assert resident["peak"] - resident["base"] < 0.9 * numbers
    assert streamed["peak"] - streamed["base"] < 0.5 * numbers
    assert streamed["pixels"] == resident["pixels"]
