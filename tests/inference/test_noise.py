"""Photographs are no noise, whatever their size; what an untrained pipeline paints is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import skimage
from PIL import Image

from submerge.evaluate import evaluate_guidance
from submerge.evaluate.scorers.pixels import defect
from submerge.inference import load_model, run_inference

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
NAMES = (
    "astronaut.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "color.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png",
    "microaneurysms.png", "moon.png", "motorcycle_left.png", "page.png", "phantom.png",
    "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
LOAD: dict[str, Any] = {"device": "cpu", "dtype": "f32"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [None, 256, 128, 64])
def test_a_photograph_is_no_noise(name: str, side: int | None) -> None:
    with Image.open(PHOTOGRAPHS / name) as file:
        image = file.convert("RGB")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    assert defect(image) is None


@pytest.mark.parametrize("name", ["brick.png", "grass.png", "gravel.png"])
def test_a_texture_without_an_end_is_no_noise(name: str) -> None:
    with Image.open(PHOTOGRAPHS / name) as file:
        assert defect(file.convert("RGB")) is None


@pytest.mark.parametrize("side", [64, 128, 256, 512])
@pytest.mark.parametrize("model", ["schnell", "krea", "merged"])
def test_what_random_weights_paint_is_noise(
    pipelines: dict[str, Path], model: str, side: int
) -> None:
    how: Any = {"width": side, "height": side, "steps": 2, "max_sequence_length": 16}
    with load_model(pipelines[model], **LOAD) as opened:
        made = run_inference(opened, ["a fox in snow"], how | {"seeds": [0, 1]})
    assert [defect(image.image) for image in made] == ["noise", "noise"]


def test_a_merge_of_parents_that_paint_noise_is_not_called_good(
    pipelines: dict[str, Path],
) -> None:
    how: Any = {"width": 64, "height": 64, "steps": 1, "max_sequence_length": 16, "seeds": [0, 1]}
    parents = {name: pipelines[name] for name in ("schnell", "krea")}
    found = evaluate_guidance(
        pipelines["merged"],
        ["a fox", "a house"],
        parents=parents,
        scorers=(),
        options=how | {"sweep_steps": [1, 2]},
        load=LOAD,
    )
    verdicts = {question.question: question.verdict for question in found.questions}
    assert verdicts.pop("Does the same seed paint the same image?") == "good"
    assert set(verdicts.values()) <= {"unknown", "bad"}
    assert verdicts["Does it paint at few steps?"] == "unknown"
    sound = next(q for q in found.questions if q.question == "Is it sound?")
    assert "paint is black, flat or noise as well (schnell 100%, krea 100%" in sound.evidence
    # The two tiny parents share nothing but their shapes, and that is said where it is judged.
    (note,) = found.notes
    assert note.startswith("krea and schnell have the cosine")
    assert note in found.table()
    assert found.to_dict()["notes"] == [note]
