"""Every example in the README and the documentation runs as it stands, on a tiny pair."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from factory import KREA, SCHNELL, Flux, save_file, save_folder
from submerge import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "quickstart.md"]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Its recipes name blocks of FLUX.1's whole depth.
COOKBOOK = ROOT / "docs" / "cookbook.md"
# Commands of other programs, and of the repository itself.
ELSEWHERE = ("pip ", "make ")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "schnell", SCHNELL, shards=2)
    save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    monkeypatch.chdir(tmp_path)
    assert all_of(page)


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


def all_of(page: Path) -> int:
    """Run the blocks of a page in order and return how many things were run."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return sum(run(kind, body) for kind, note, body in blocks if "notest" not in note)


def run(kind: str, body: str) -> int:
    """Run one block and return how many things were run."""
    if kind == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", body)):
        Path(name[1]).write_text(body, encoding="utf-8")
    elif kind == "console":
        commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
        ours = [command for command in commands if not command.startswith(ELSEWHERE)]
        for command in ours:
            program, *arguments = shlex.split(command, comments=True)
            assert program == "submerge"
            assert cli._run(arguments) == 0, command
        return len(ours)
    elif kind == "python":
        exec(compile(body, "example", "exec"), {})  # noqa: S102 - our own page
        return 1
    return 0


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
