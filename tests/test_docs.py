"""Every example in the README and the documentation runs as it stands, on a tiny pair."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import adapter_files
from factory import KREA, SCHNELL, Flux, save_file, save_folder
from pages import all_of
from quantised_files import quantised

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "quickstart.md"]
# Its recipes name blocks of FLUX.1's whole depth.
COOKBOOK = ROOT / "docs" / "cookbook.md"


def save_models(folder: Path) -> None:
    """The tiny pair, and adapters for it."""
    save_folder(folder / "schnell", SCHNELL, shards=2)
    save_file(folder / "krea.safetensors", KREA, "bfl")
    for name in ("style", "light"):
        found = adapter_files.pairs(KREA, adapter_files.MODULES, seed=name)
        adapter_files.save(folder / f"{name}.safetensors", adapter_files.diffusers(found))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert all_of(page)


def test_the_page_about_looking_first_runs_after_the_first_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    for page in (PAGES[0], PAGES[2]):
        assert all_of(page)
    assert all_of(ROOT / "docs" / "analyze.md") == 4


def test_the_page_about_adapters_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert all_of(ROOT / "docs" / "adapters.md") == 19


def test_the_page_about_number_formats_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a width that every block divides.
    save_folder(tmp_path / "schnell", replace(SCHNELL, hidden=256))
    save_file(tmp_path / "krea.safetensors", replace(KREA, hidden=256), "bfl")
    monkeypatch.chdir(tmp_path)
    assert all_of(ROOT / "docs" / "outputs.md")
    made = {"merged-fp8.safetensors", "merged.gguf", "mixed.gguf", "merged-int8", "lost.svg"}
    assert made <= {path.name for path in tmp_path.iterdir()}


def test_the_page_about_quantised_models_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised(tmp_path, KREA, "fp8").path.rename(tmp_path / "krea_fp8_scaled.safetensors")
    quantised(tmp_path, SCHNELL, "sdnq", "diffusers").path.rename(tmp_path / "schnell-int8")
    monkeypatch.chdir(tmp_path)
    assert all_of(ROOT / "docs" / "formats.md") == 2


def test_the_cookbook_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Flux(double=19, single=38, hidden=16)
    save_folder(tmp_path / "schnell", deep)
    for name, seed in (("krea", 1), ("dev", 2)):
        guided = replace(deep, guidance=True, seed=seed)
        save_file(tmp_path / f"{name}.safetensors", guided, "bfl")
    monkeypatch.chdir(tmp_path)
    recipes = COOKBOOK.read_text(encoding="utf-8").count("\n```yaml\n")
    assert all_of(COOKBOOK) > recipes
    assert len(list(tmp_path.glob("*.yaml"))) == recipes
    assert all(list((tmp_path / p.stem).glob("*.safetensors")) for p in tmp_path.glob("*.yaml"))


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
