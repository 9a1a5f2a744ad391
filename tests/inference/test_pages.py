"""The pages about painting run as they stand, in the folder that README and quickstart leave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import adapter_files
import submerge
from factory import KREA, SCHNELL, save_file, save_folder
from oracles.pipelines import save_pipeline
from pages import all_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# What is shown at the size of a picture is run at that of a stamp: the same commands and options.
STAMP = re.compile(r"\b(1024|512)(x\d+)?\b")
SMALL = {
    "test": ["--size", "64", "--tag", "counts", "--seeds", "0", "--steps", "1", "--device", "cpu"],
    "generate": ["--device", "cpu"],
    "grid": ["--device", "cpu"],
    "measure": [*["--rounds", "1", "--device", "cpu", "--workload"], "steps=1,size=64,images=1"],
}


@pytest.fixture
def small_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SMALL is to commands, to the same verbs in Python."""
    judge = submerge.evaluate_guidance
    options: Any = {"seeds": [0], "painting": {"steps": 1, "width": 64, "height": 64}}

    def judged(model: Any, *, load: Any, **how: Any) -> object:
        on_cpu = {**load, "device": "cpu"}
        return judge(model, ["a fox"], load=on_cpu, options=options, **how)

    monkeypatch.setattr(submerge, "evaluate_guidance", judged)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A whole schnell as it is downloaded, krea as one file, and what the first pages made."""
    folder = tmp_path_factory.mktemp("pages")
    transformer = save_folder(folder / "parts", SCHNELL)
    save_pipeline(folder / "made", transformer, dynamic=False).rename(folder / "schnell")
    save_file(folder / "krea.safetensors", KREA, "bfl")
    pairs = adapter_files.pairs(KREA, ["double_blocks.0.img_attn.qkv"], layout="bfl")
    adapter_files.save(folder / "style.safetensors", adapter_files.kohya(pairs, 2.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for page in (ROOT / "README.md", ROOT / "docs" / "quickstart.md"):
            assert all_of(page)
        yield folder


# In the order of the site's own index; each leaves for the next what it made.
@pytest.mark.usefixtures("small_verbs")
@pytest.mark.parametrize(
    "name", ["analyze", "inference", "views", "grid", "evaluate", "measure", "report"]
)
def test_a_page_runs_as_it_stands(folder: Path, name: str, tmp_path: Path) -> None:
    assert Path.cwd() == folder
    page = ROOT / "docs" / f"{name}.md"
    text = STAMP.sub(lambda found: "64" + ("x64" if found[2] else ""), page.read_text("utf-8"))
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert all_of(tmp_path / "page.md", SMALL)
