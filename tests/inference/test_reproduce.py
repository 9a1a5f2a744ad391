"""Images painted again: equal where nothing changed, a measured difference where something did."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import submerge
from submerge import CheckpointError, RecipeError, cli
from submerge.profile import environment

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = ["a fox in snow", "", "seven apples"]
SMALL: Any = {"steps": 2, "width": 64, "height": 32, "max_sequence_length": 32}
CPU: dict[str, Any] = {"device": "cpu", "dtype": "f32"}


@pytest.fixture(scope="module")
def original(pipelines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of two models, as `test` writes it, in as far as images are concerned."""
    folder = tmp_path_factory.mktemp("tested")
    images = []
    for name in ("merged", "schnell"):
        with submerge.load_model(pipelines[name], **CPU) as model:
            how = SMALL | {"seeds": (3, 8), "batch": 2}
            made = submerge.run_inference(model, PROMPTS, how, output=folder / "images" / name)
            facts = environment(device="cpu", dtype=model.plan.dtype)
        for image in made:
            assert image.path is not None
            told = {"prompt": f"p{image.prompt_index}", "seed": image.seed, "model": name}
            told["path"] = str(image.path.relative_to(folder))
            told |= {"seconds": 1.0, "phases": {}, "memory": {}}
            told["sha256"] = hashlib.sha256(image.path.read_bytes()).hexdigest()
            images.append(told)
    models = [
        {"name": name, "path": str(pipelines[name]), "role": role}
        for name, role in (("merged", "merge"), ("schnell", "parent"))
    ]
    told = {"format": "submerge-evaluation/1", "models": models, "images": images}
    told |= {"options": {"batch": 2}, "environment": facts, "prompts": [], "scores": []}
    told |= {key: [] for key in ("comparisons", "signals", "sweep", "questions", "not_run")}
    (folder / "evaluation.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@pytest.fixture
def tested(original: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    import shutil

    return shutil.copytree(original, tmp_path / "tested")


def change(folder: Path, name: str, pixels: list[tuple[int, int, int]]) -> None:
    """Change channels of an image: row, column and by how much, with its metadata kept."""
    path = folder / name
    with Image.open(path) as file:
        array = np.array(file.convert("RGB"))
        info = PngInfo()
        info.add_text("submerge", file.info["submerge"])
    for row, column, by in pixels:
        array[row, column, 1] = array[row, column, 1] ^ by
    Image.fromarray(array).save(path, pnginfo=info)
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    for image in told["images"]:
        if image["path"] == name:
            image["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "evaluation.json").write_text(json.dumps(told), encoding="utf-8")


def test_a_second_run_is_the_same_bit_by_bit(original: Path, tmp_path: Path) -> None:
    found = submerge.reproduce(original, load=CPU, output=tmp_path / "again")
    assert found.identical
    assert [image["different"] for image in found.images] == [0] * 12
    assert dict(found.changed) == {}
    assert found.text() == "12 of 12 images identical, bit by bit"
    for image in found.images:
        again = tmp_path / "again" / image["model"] / image["path"].rpartition("/")[2]
        assert again.read_bytes() == (original / image["path"]).read_bytes()


def test_a_difference_is_counted_in_pixels(tested: Path) -> None:
    change(tested, "images/schnell/0001-8.png", [(0, 0, 1), (31, 63, 1), (5, 6, 1)])
    found = submerge.reproduce(tested, load=CPU)
    assert not found.identical
    (image,) = [image for image in found.images if image["different"]]
    assert (image["path"], image["prompt"], image["seed"]) == ("images/schnell/0001-8.png", "", 8)
    assert (image["pixels"], image["different"], image["max"]) == (64 * 32, 3, 1)
    assert image["mean"] == pytest.approx(3 / (64 * 32 * 3))
    assert "3 of 2,048 pixels differ (0.15%), by at most 1 of 255" in found.text()
    assert json.loads(found.to_json())["identical"] is False


def test_another_model_in_its_place_is_told(tested: Path, pipelines: dict[str, Path]) -> None:
    found = submerge.reproduce(tested, models={"schnell": pipelines["merged"]}, load=CPU, limit=1)
    same, other = found.images
    assert (same["model"], same["different"]) == ("merged", 0)
    assert other["different"]
    assert list(found.changed) == ["fingerprint of schnell"]


@pytest.mark.parametrize("kind", ["fp8", "int8", "int4"])
def test_layers_are_stored_again_as_they_were(
    pipelines: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    small: Any = {"width": 32, "height": 32, "steps": 1, "max_sequence_length": 16}
    with submerge.load_model(pipelines["krea"], quantization=kind, **CPU) as model:
        submerge.run_inference(model, "rain", small, output=tmp_path)
    path = tmp_path / "0000-0.png"
    found = submerge.reproduce(path, models=pipelines["krea"], load=CPU)
    assert found.identical
    other = submerge.reproduce(path, models=pipelines["krea"], load={**CPU, "quantization": None})
    assert [name.partition(" of")[0] for name in other.changed] == ["quantization"]


def test_what_changed_in_the_environment_is_told(tested: Path) -> None:
    path = tested / "evaluation.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["environment"] |= {"torch": "1.0", "cpu": "another", "memory": 1}
    path.write_text(json.dumps(told), encoding="utf-8")
    found = submerge.reproduce(path, load=CPU, limit=1)
    assert found.identical
    assert set(found.changed) == {"torch", "cpu"}
    assert found.changed["torch"][0] == "1.0"
    assert "torch: 1.0, now " in found.text()


def test_one_image_is_painted_again_from_what_it_says(
    original: Path, pipelines: dict[str, Path]
) -> None:
    # Batches of one: the last bits may be other than in batches of two.
    path = original / "images" / "merged" / "0000-3.png"
    found = submerge.reproduce(path, models=pipelines["merged"], load=CPU)
    (image,) = found.images
    assert (image["path"], image["prompt"], image["seed"]) == (path.name, PROMPTS[0], 3)
    assert image["max"] in (0, 1)


def test_what_cannot_be_repeated_is_refused(tested: Path) -> None:
    path = tested / "images" / "merged" / "0000-3.png"
    with pytest.raises(RecipeError, match="expected the place of 1 model: `image`, got none"):
        submerge.reproduce(path)
    with pytest.raises(RecipeError, match="expected `merged`, `schnell`, got `krea`"):
        submerge.reproduce(tested, models={"krea": "krea/"})
    change(tested, "images/merged/0000-3.png", [])
    told = json.loads((tested / "evaluation.json").read_text(encoding="utf-8"))
    told["images"][0]["sha256"] = "0" * 64
    (tested / "evaluation.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected the sha256 0000000000000000"):
        submerge.reproduce(tested)
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(CheckpointError, match="expected an image painted by submerge"):
        submerge.reproduce(path, models="anywhere")
    (tested / "evaluation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        RecipeError, match="expected the format `submerge-evaluation/1`, got nothing"
    ):
        submerge.reproduce(tested)


def test_options_an_image_does_not_hold_are_refused(tested: Path) -> None:
    path = tested / "images" / "merged" / "0000-3.png"
    with Image.open(path) as file:
        metadata = json.loads(file.info["submerge"])
        metadata["options"]["controlnet"] = {"model": "canny/"}
        info = PngInfo()
        info.add_text("submerge", json.dumps(metadata))
        file.save(path, pnginfo=info)
    with pytest.raises(RecipeError, match="painted with 1 option: `controlnet`"):
        submerge.reproduce(path, models="anywhere")


def test_the_command_exits_with_4_where_a_pixel_differs(tested: Path, capfd: Any) -> None:
    how = ["--device", "cpu", "--limit", "1", "--json", "-q"]
    assert cli._run(["reproduce", str(tested), *how]) == 0
    change(tested, "images/merged/0000-3.png", [(1, 1, 128)])
    capfd.readouterr()
    assert cli._run(["reproduce", str(tested / "evaluation.json"), *how]) == 4
    told = json.loads(capfd.readouterr().out)
    assert [image["max"] for image in told["images"]] == [128, 0]


def test_places_are_given_as_name_and_path(capfd: Any, tmp_path: Path) -> None:
    from submerge.cli.measure import _place

    context: Any = None
    assert _place(context, context, ()) is None
    assert _place(context, context, ("models/a",)) == "models/a"
    assert _place(context, context, ("a=x", "b=y=z")) == {"a": "x", "b": "y=z"}
    assert cli._run(["reproduce", str(tmp_path), "--model", "a=x", "--model", "b"]) == 2
    assert "expected NAME=PATH" in capfd.readouterr().err
