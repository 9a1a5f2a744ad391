"""Embeddings in a folder: the same image without a text encoder, and never from a wrong file."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

from inference.plans import CANDIDATES, on_a_gpu
from submerge.errors import SubmergeError
from submerge.inference import load_model, loading, run_inference

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.inference import InferenceResult

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
PROMPTS = ["a fox in snow", "a bowl of figs \u2014 \U0001f347", ""]


def painted(path: Path, folder: Path | None, **how: Any) -> InferenceResult:
    with load_model(path, device="cpu", embeddings=folder, **how) as model:
        return run_inference(model, PROMPTS, SMALL)


def pixels(result: InferenceResult) -> list[bytes]:
    return [np.asarray(image.image).tobytes() for image in result]


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading T5 fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the text encoder was loaded")

    monkeypatch.setattr(T5EncoderModel, "__init__", refuse)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_prompts_that_are_there_need_no_text_encoder(
    pipelines: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    candidate: str,
) -> None:
    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    plain = painted(pipelines["krea"], None)
    first = painted(pipelines["krea"], tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == len(PROMPTS)
    request.getfixturevalue("no_encoder")
    second = painted(pipelines["krea"], tmp_path / "kept")
    assert pixels(plain) == pixels(first) == pixels(second)
    with load_model(pipelines["krea"], device="cpu", embeddings=tmp_path / "kept") as model:
        run_inference(model, PROMPTS, SMALL)
        assert model.pipe.text_encoder is model.pipe.text_encoder_2 is None
        with pytest.raises(SubmergeError, match="was loaded"):
            run_inference(model, "another prompt", SMALL)


def test_models_with_the_same_encoders_share_and_others_do_not(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    for name in ("krea", "schnell"):
        painted(pipelines[name], kept)
    assert len(list(kept.iterdir())) == len(PROMPTS)
    painted(pipelines["krea"], kept, dtype="f32")
    assert len(list(kept.iterdir())) == 2 * len(PROMPTS)
    tuned = tmp_path / "tuned"
    shutil.copytree(pipelines["krea"], tuned)
    path = tuned / "text_encoder_2" / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    weights["encoder.block.0.layer.0.SelfAttention.q.weight"][0, 0] += 1
    save_file(weights, path, {"format": "pt"})
    painted(tuned, kept)
    assert len(list(kept.iterdir())) == 3 * len(PROMPTS)


@pytest.mark.parametrize("harm", ["cut", "foreign", "other", "shape", "names"])
def test_a_file_that_is_damaged_or_foreign_is_made_again_and_told(
    pipelines: dict[str, Path], tmp_path: Path, harm: str
) -> None:
    expected = pixels(painted(pipelines["krea"], tmp_path))
    files = sorted(tmp_path.iterdir())
    good = [path.read_bytes() for path in files]
    if harm == "cut":
        files[0].write_bytes(good[0][:-7])
    elif harm == "foreign":
        files[0].write_text("not a safetensors file")
    elif harm == "other":
        files[0].write_bytes(good[1])
    elif harm == "shape":
        save_file({"t5": torch.zeros(1, 3, 4), "clip": torch.zeros(1, 4)}, files[0])
    else:
        save_file({"something": torch.zeros(1)}, files[0], {"key": "{}"})
    again = painted(pipelines["krea"], tmp_path)
    assert pixels(again) == expected
    assert [note for note in again.notes if "computed again" in note and files[0].name in note]
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == good


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_loaded(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        load_model(pipelines["krea"], device="cpu", embeddings=tmp_path / "file" / "kept")
