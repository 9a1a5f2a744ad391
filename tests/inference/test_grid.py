"""Grids of images: each is what its recipe, written and loaded, paints; a second run goes on."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import submerge
from submerge import Cancelled, InferenceOptionsDict, LoadedModel, RecipeError, load_model
from submerge.cli import app
from submerge.documents import GridDocument, read

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = ["a fox in snow", "two cats"]
OPTIONS: InferenceOptionsDict = {"steps": 2, "width": 32, "height": 32, "seed": 3}


@pytest.fixture
def recipe(pipelines: dict[str, Path]) -> dict[str, Any]:
    parents = {name: str(pipelines[name]) for name in ("schnell", "krea")}
    return {"models": parents, "alpha": 0.5, "output": {"pipeline_from": "krea"}}


@pytest.fixture
def merged_anew(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts of the parameters that each merge in place changed."""
    counts: list[int] = []
    real = LoadedModel.remerge

    def counted(self: LoadedModel, *args: Any, **fields: Any) -> tuple[str, ...]:
        changed = real(self, *args, **fields)
        counts.append(len(changed))
        return changed

    monkeypatch.setattr(LoadedModel, "remerge", counted)
    return counts


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_every_cell_is_what_its_written_merge_paints(
    tmp_path: Path, recipe: dict[str, Any], merged_anew: list[int]
) -> None:
    made = submerge.grid(
        recipe,
        PROMPTS,
        output=tmp_path / "grid",
        x={"alpha": [0.0, 0.5]},
        y="set:single[*].mlp=0.2..0.8,0.5",
        options=OPTIONS,
        load={"device": "cpu"},
    )
    assert len(made) == made.painted == 8
    assert len(merged_anew) == 3  # the first is loaded
    assert len({cell["sha256"] for cell in made.data["cells"]}) == 8
    shares = [{"from": 0.2, "to": 0.8}, 0.5]
    for x, alpha in enumerate((0.0, 0.5)):
        for y, share in enumerate(shares):
            written = tmp_path / f"{x}-{y}"
            rules = [{"where": "single[*].mlp", "alpha": share}]
            submerge.merge(recipe | {"alpha": alpha, "rules": rules}, written)
            found = submerge.run_inference(written, PROMPTS, OPTIONS)
            for prompt, image in enumerate(found):
                cell = made.cell(prompt, x=x, y=y)
                assert np.array_equal(pixels(made.folder / cell["path"]), np.asarray(image.image))
            again = submerge.Recipe.load(recipe | {"alpha": alpha, "rules": rules})
            assert made.recipe(x=x, y=y).to_dict() == again.to_dict()


def test_seeds_steps_and_guidance_merge_nothing_anew(
    tmp_path: Path, recipe: dict[str, Any], merged_anew: list[int]
) -> None:
    made = submerge.grid(
        recipe,
        "a fox",
        output=tmp_path,
        x="seed=1,2",
        y={"steps": [1, 2]},
        z="guidance=1.5,4",
        options=OPTIONS,
        load={"device": "cpu"},
    )
    assert merged_anew == []
    assert len({cell["sha256"] for cell in made.data["cells"]}) == 8
    cell = made.cell(x=1, y=0, z=1)
    found = submerge.run_inference(
        submerge.open(recipe), "a fox", {**OPTIONS, "seed": 2, "steps": 1, "guidance": 4.0}
    )
    assert np.array_equal(pixels(made.folder / cell["path"]), np.asarray(found[0].image))
    assert (cell["seed"], cell["options"]["steps"], cell["options"]["guidance"]) == (2, 1, 4.0)


def test_a_second_run_paints_what_is_missing_alone(
    tmp_path: Path, recipe: dict[str, Any], merged_anew: list[int]
) -> None:
    def run(x: str, **how: Any) -> submerge.Grid:
        return submerge.grid(
            recipe, "a fox", output=tmp_path, x=x, options=OPTIONS, load={"device": "cpu"}, **how
        )

    seen: list[tuple[int, int]] = []

    def stops(done: int, total: int) -> bool:
        seen.append((done, total))
        return done < 3

    with pytest.raises(Cancelled):
        run("alpha=0,0.25,0.5", callback=stops)
    # Schnell alone is painted with the steps asked for as well.
    assert seen == [(1, 6), (2, 6), (3, 6)]
    assert not (tmp_path / "grid.json").exists()
    assert not (tmp_path / "index.html").exists()
    (first,) = tmp_path.rglob("*.png")
    written = first.stat().st_mtime_ns
    made = run("alpha=0,0.25,0.5")
    assert made.painted == 2
    assert first.stat().st_mtime_ns == written
    merged_anew.clear()
    more = run("alpha=0,0.25,0.5,0.75")
    assert more.painted == 1
    assert len(merged_anew) == 1  # 0.25 is what is loaded
    assert [c["sha256"] for c in more.data["cells"]][:3] == [
        c["sha256"] for c in made.data["cells"]
    ]
    # A damaged image is painted again.
    first.write_bytes(first.read_bytes()[:100])
    assert run("alpha=0,0.25,0.5").painted == 1


def test_adapters_have_an_axis(tmp_path: Path, recipe: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(3)
    name = "transformer.transformer_blocks.0.attn.to_q"
    down, up = (torch.randn(shape, generator=draw) for shape in ((4, 64), (64, 4)))
    path = tmp_path / "style.safetensors"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    made = submerge.grid(
        recipe | {"adapters": [{"path": str(path)}]},
        "a fox",
        output=tmp_path / "grid",
        x=f"adapter:{path.stem}=0,1",
        options=OPTIONS,
        load={"device": "cpu"},
    )
    one, other = (made.cell(x=x) for x in (0, 1))
    assert one["sha256"] != other["sha256"]
    with load_model(recipe, device="cpu") as plain:
        image = submerge.run_inference(plain, "a fox", OPTIONS)[0].image
    assert np.array_equal(pixels(made.folder / one["path"]), np.asarray(image))
    assert made.recipe(x=1).adapters[0].scale.plain() == 1.0


def test_the_page_holds_each_image_and_its_recipe(tmp_path: Path, recipe: dict[str, Any]) -> None:
    made = submerge.grid(
        recipe,
        PROMPTS,
        output=tmp_path,
        x="alpha=0,1",
        y="steps=1,2",
        options=OPTIONS,
        load={"device": "cpu"},
        title="shares <of> B",
    )
    page = made.page.read_text(encoding="utf-8")
    assert len(re.findall(r'<img src="data:image/webp;base64,', page)) == 8
    assert "shares &lt;of&gt; B" in page
    assert page.count("<details") >= 4  # two prompts, two recipes
    assert "http" not in re.sub(r"http-equiv", "", page)
    markdown = (tmp_path / "index.md").read_text(encoding="utf-8")
    for cell in made.data["cells"]:
        assert cell["path"] in markdown.replace("\\", "")
    document = read(GridDocument, tmp_path / "grid.json")
    second = submerge.Recipe.load(document["recipes"][1])
    assert second.to_dict() == submerge.Recipe.load(recipe | {"alpha": 1.0}).to_dict()
    assert {score["cell"] for score in document["scores"]} == set(range(8))


def test_the_command_paints_and_says_where(tmp_path: Path, recipe: dict[str, Any]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(submerge.Recipe.load(recipe).to_yaml(), encoding="utf-8")
    out = tmp_path / "out"
    words = ["grid", str(file), "--x", "alpha=0,1", "-p", "a fox", "--steps", "1", "--size", "32"]
    words += ["-o", str(out), "--device", "cpu", "--json", "-q"]
    result = CliRunner().invoke(app, words, standalone_mode=False)
    assert result.exception is None
    told = json.loads(result.stdout)
    assert [axis["name"] for axis in told["axes"]] == ["alpha"]
    assert all((out / cell["path"]).is_file() for cell in told["cells"])
    assert (out / "index.html").is_file()


def test_a_point_that_is_no_recipe_is_refused_before_anything_is_written(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match=r"alpha"):
        submerge.grid(recipe, "a fox", output=tmp_path / "out", x="alpha=0,1e40")
    with pytest.raises(RecipeError, match=r"dubble"):
        submerge.grid(recipe, "a fox", output=tmp_path / "out", x="set:dubble[0]=0,1")
    assert not (tmp_path / "out").exists()
