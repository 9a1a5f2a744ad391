"""Scorers given weights: tiny random models, so what is tested is that the numbers are theirs."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from inference.pictures import flat, noise, scene
from submerge.evaluate import Prompt
from submerge.evaluate.prompts import COLOURS, Item
from submerge.evaluate.scorers import clip, diversity, objects, reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ANY = Prompt("any", "a fox")

# LPIPS and its kind, whose backbones are files.


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backbone", ["alex", "squeeze"])
def test_lpips_is_the_packages_with_the_weights_given(backbone: str, tmp_path: Path) -> None:
    import lpips
    import torchvision

    torch.manual_seed(0)
    whole = {"alex": "alexnet", "squeeze": "squeezenet1_1"}[backbone]
    features = getattr(torchvision.models, whole)(weights=None)
    torch.save(features.state_dict(), tmp_path / "backbone.pth")
    theirs = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False).eval()
    places = dict(features.features.named_children())
    for part in theirs.net.children():
        for name, layer in getattr(part, "named_children", dict)():
            layer.load_state_dict(places[name].state_dict())
    pair = [scene().resize((64, 64)), noise(size=64)]
    inputs = [
        torch.from_numpy(np.asarray(i) / 127.5 - 1).permute(2, 0, 1)[None].float() for i in pair
    ]
    ours = reference.Lpips(backbone, str(tmp_path / "backbone.pth"))
    with torch.inference_mode():
        assert ours(*pair) == pytest.approx(float(theirs(*inputs)), rel=1e-5)
    matrix = ours.distances([pair[0], pair[1], pair[0]])
    assert matrix[0, 2] == 0.0
    assert matrix[0, 1] == matrix[1, 0] > 0


# Models of transformers, tiny and random: what is tested is that the numbers are theirs.


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    folder = tmp_path_factory.mktemp("clip")
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = {word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = {**sizes, "vocab_size": 54, "num_attention_heads": 2, "bos_token_id": 0}
    text |= {"eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 16}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(
        CLIPImageProcessor(**size), CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["clip", "pickscore", "hps"])
def test_image_text_scores_are_transformers(kind: str, tiny_clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    images = [scene(), noise(), flat()]
    prompts = [Prompt("a", "a fox"), Prompt("b", "x" * 300), Prompt("c", " ")]
    found = clip.ImageText(kind, str(tiny_clip)).score(images, prompts)
    model, processor = (
        CLIPModel.from_pretrained(tiny_clip),
        CLIPProcessor.from_pretrained(tiny_clip),
    )
    for image, prompt, value in zip(images[:2], prompts, found, strict=False):
        inputs = processor(
            text=prompt.text, images=image, return_tensors="pt", truncation=True, max_length=16
        )
        with torch.inference_mode():
            logit = float(model(**inputs).logits_per_image)
        cosine = logit / float(model.logit_scale.detach().exp())
        expected = max(100 * cosine, 0.0) if kind == "clip" else logit
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert np.isnan(found[2])  # no words, nothing to agree with


def test_features_tell_images_apart(tiny_clip: Path) -> None:
    distance, vendi = diversity.feature_scorers(str(tiny_clip))
    images, prompts = [scene(), noise(), scene()], [ANY] * 3
    matrix = diversity.Features(str(tiny_clip)).similarities(images)
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    assert matrix[0, 2] == pytest.approx(1.0)
    assert matrix[0, 1] < 1.0
    found = distance.score(images, prompts)
    expected = [(1 - matrix[0, 1]) / 2, 1 - matrix[0, 1], (1 - matrix[0, 1]) / 2]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 1.0 < vendi.score(images, prompts)[0] < 2.0


# Objects, counts, colours and positions.


def blobs(image: Image.Image, names: Sequence[str]) -> list[objects.Found]:
    """A detector whose objects are blobs: `ball` is round and `box` is square."""
    from skimage.measure import label, regionprops

    values = np.asarray(image).astype(int)
    found = []
    for region in regionprops(label(np.abs(values - 255).sum(axis=2) > 60)):
        top, left, bottom, right = region.bbox
        name = "box" if region.extent > 0.95 else "ball"
        if name in names:
            found.append(objects.Found(name, 0.9, (left, top, right, bottom)))
    return [*found, objects.Found(names[0], 0.1, (0, 0, 5, 5))]  # one it is not sure of


def drawn() -> Image.Image:
    """Two red balls left of a blue box, on white."""
    image = flat((255, 255, 255))
    draw = ImageDraw.Draw(image)
    draw.ellipse((5, 10, 35, 40), fill=COLOURS["red"])
    draw.ellipse((5, 60, 35, 90), fill=COLOURS["red"])
    draw.rectangle((80, 30, 110, 60), fill=COLOURS["blue"])
    return image


@pytest.mark.parametrize(
    ("prompt", "share"),
    [
        (Prompt("p", "", objects=(Item("ball", 2, "red"), Item("box", 1, "blue"))), 1.0),
        (Prompt("p", "", objects=(Item("ball", 2, "blue"), Item("box", 1, "blue"))), 0.75),
        (Prompt("p", "", objects=(Item("ball", 3), Item("box"))), 0.5),
        (Prompt("p", "", objects=(Item("cat", 1, "red"),)), 0.0),
        (Prompt("p", "", objects=(Item("ball"),), relation=("ball", "left of", "box")), 0.5),
        (
            Prompt(
                "p", "", objects=(Item("box"), Item("ball")), relation=("box", "right of", "ball")
            ),
            1.0,
        ),
        (
            Prompt("p", "", objects=(Item("box"), Item("ball")), relation=("box", "below", "ball")),
            2 / 3,
        ),
        (ANY, np.nan),
    ],
)
def test_objects_are_counted_coloured_and_placed(prompt: Prompt, share: float) -> None:
    found = objects.ObjectChecks(blobs).score([drawn()], [prompt])
    np.testing.assert_allclose(found, [share])


def test_a_detector_of_transformers_is_asked(tmp_path: Path) -> None:
    from transformers import (
        CLIPTokenizer,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        OwlViTProcessor,
    )

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    # It takes a text that begins with token 0 for padding.
    words = {word: i for i, word in enumerate(["!", "<|startoftext|>", "<|endoftext|>", *letters])}
    (tmp_path / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={**sizes, "vocab_size": 55, "max_position_embeddings": 16, "pad_token_id": 1},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    model = OwlViTForObjectDetection(config)
    # Sure of everything it sees, so that something is found.
    torch.nn.init.constant_(model.class_head.logit_shift.bias, 3.0)
    model.save_pretrained(tmp_path)
    OwlViTProcessor(
        OwlViTImageProcessor(size={"height": 32, "width": 32}),
        CLIPTokenizer.from_pretrained(tmp_path, model_max_length=16),
    ).save_pretrained(tmp_path)
    found = objects.TransformersDetector(str(tmp_path))(scene(), ["cat", "dog"])
    assert found
    assert {one.name for one in found} <= {"cat", "dog"}
    assert all(one.confidence >= 0.3 and len(one.box) == 4 for one in found)
