"""Images in the studio: those of the written models, side by side, and grids over a recipe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import submerge
from submerge import load_model, run_inference
from submerge.studio.desk import Desk
from submerge.studio.events import Events
from submerge.studio.places import Places
from submerge.studio.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASKED = {"prompt": "a fox in snow", "seeds": "3, 5", "steps": "2", "width": "32", "height": 32}


@pytest.fixture
def desk(pipelines: dict[str, Path], tmp_path: Path) -> Iterator[Desk]:
    roots = [*(path.parents[1] for path in pipelines.values()), tmp_path]
    made = Desk(Store(tmp_path / "studio.sqlite"), Places(roots), Events())
    models = {name: str(pipelines[name]) for name in ("schnell", "krea")}
    recipe = {"models": models, "alpha": 0.5, "output": {"pipeline_from": "krea"}}
    made.change(1, {"recipe": recipe})
    made.settings(1, {"name": "merged", "folder": str(tmp_path)})  # a pipeline is a folder
    yield made
    made.close()


def ended(desk: Desk, ident: int) -> dict[str, Any]:
    for _ in range(1200):
        found = desk.store.one_try(ident)
        if found["state"] not in ("queued", "running"):
            assert found["state"] == "done", found["result"]
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_parents_and_merge_are_painted_beside_each_other(
    desk: Desk, pipelines: dict[str, Path]
) -> None:
    made = desk.start(1, {"kind": "images", "asked": ASKED})["id"]
    images = ended(desk, made)["result"]["images"]
    assert [(i["model"], i["seed"]) for i in images] == [
        (name, seed) for name in ("schnell", "krea", "merge") for seed in (3, 5)
    ]
    options: Any = {"steps": 2, "width": 32, "height": 32, "seeds": [3, 5]}
    for at, name in enumerate(("schnell", "krea", "merged")):
        with load_model(pipelines[name], device="cpu") as model:
            result = run_inference(model, "a fox in snow", options)
        for seed in range(2):
            shown = pixels(desk.folder(made) / images[2 * at + seed]["file"])
            assert np.array_equal(shown, np.asarray(result.images[seed].image))


def test_a_grid_gives_each_image_with_its_recipe(desk: Desk, tmp_path: Path) -> None:
    asked = ASKED | {"x": "alpha=0.25,0.5", "y": "seed=3,4"}
    made = desk.start(1, {"kind": "grid", "asked": asked})["id"]
    result = ended(desk, made)["result"]
    cells = {(cell["at"]["x"], cell["at"]["y"]): cell for cell in result["cells"]}
    assert sorted(cells) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    cell = cells[0, 0]
    recipe = result["recipes"][cell["recipe"]]
    submerge.merge(recipe, tmp_path / "written")
    with load_model(tmp_path / "written", device="cpu") as model:
        options: Any = {"steps": 2, "width": 32, "height": 32, "seed": 3}
        expected = np.asarray(run_inference(model, "a fox in snow", options).images[0].image)
    assert np.array_equal(pixels(desk.folder(made) / cell["file"]), expected)
    # It can become the project's recipe.
    taken = desk.change(1, {"recipe": recipe, "what": "taken"})
    assert taken["error"] is None
    assert {s["share"] for s in taken["plan"]["sliders"]} == {0.25}


def test_painting_is_cancelled(desk: Desk) -> None:
    asked = ASKED | {"steps": 500, "seeds": "1"}
    made = desk.start(1, {"kind": "images", "asked": asked})["id"]
    while desk.store.one_try(made)["state"] == "queued":
        time.sleep(0.05)
    desk.cancel(made)
    while (found := desk.store.one_try(made))["state"] == "running":
        time.sleep(0.05)
    assert found["state"] == "cancelled"
