"""The base install is enough for merging, the demo included, and stays small."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from factory import KREA, SCHNELL, save_file, save_folder
from submerge.progress import Estimate, time_in_words

ROOT = Path(__file__).parents[1]

# Runs commands in a process that has the packages of the base install and no others.
ALONE = """
import importlib.metadata, json, sys, sysconfig
from pathlib import Path

site = Path(sysconfig.get_path("purelib"))
known = {"submerge", "click", "ruamel"}


class Base:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        there = any((site / form).exists() for form in (top, f"{top}.py"))
        if there and top not in known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Base())
from submerge.cli import _run

for command in json.loads(sys.argv[1]):
    assert _run(command) == 0, command
"""


def test_the_base_install_holds_what_the_test_allows() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = {re.split(r"[^a-z.]", name)[0] for name in about["project"]["dependencies"]}
    assert named == {"click", "ruamel.yaml"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "schnell", SCHNELL)
    save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    return tmp_path


def test_every_command_about_weights_runs_in_the_base_install(folder: Path) -> None:
    pair = ["schnell", "krea.safetensors"]
    commands = [
        ["inspect", "schnell"],
        ["diff", *pair],
        ["analyze", *pair, "--json", "analysis.json", "--heatmap", "map.svg"],
        ["suggest", "analysis.json", "-o", "recipe.yaml"],
        ["recipe", "check", "recipe.yaml"],
        ["merge", "recipe.yaml", "-o", "merged"],
        ["verify", "merged", "--recipe", "recipe.yaml"],
        ["convert", "merged", "--layout", "comfy", "-o", "converted.safetensors"],
        ["export", "merged", "exported.safetensors", "--quantization", "fp8"],
        ["report", "--analysis", "analysis.json", "-o", "report.html"],
        ["methods"],
        ["doctor"],
        ["demo", "--keep", "pair"],
    ]
    arguments = [sys.executable, "-c", ALONE, json.dumps(commands)]
    done = subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


# The demo.


def test_the_demo_names_a_command_that_runs_as_it_is_typed(tmp_path: Path) -> None:
    demo = [sys.executable, "-m", "submerge", "demo", "--keep", str(tmp_path / "kept here")]
    done = subprocess.run(demo, capture_output=True, text=True, timeout=120, check=True)
    typed = done.stdout[done.stdout.index("kept in ") :].splitlines()[1:]
    assert len(typed) == 2
    # Elsewhere, without the environment's programs on the path.
    shell = ["sh", "-e", "-c", "\n".join(typed)]
    subprocess.run(shell, cwd="/", env={"PATH": os.defpath}, timeout=120, check=True)
    assert (tmp_path / "kept here" / "merged" / "config.json").is_file()
    # It is the README's first command, and nothing the demo left stood in its way.
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.findall(r"^\$ submerge (.*)$", readme, re.MULTILINE)[0]
    assert shlex.split(typed[1])[-len(first.split()) :] == first.split()


def test_a_demo_that_keeps_nothing_names_nothing_it_deleted(tmp_path: Path) -> None:
    demo = [sys.executable, "-m", "submerge", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        demo, capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    assert str(tmp_path) not in done.stdout
    assert "`--keep FOLDER` leaves them" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_the_same_every_time(tmp_path: Path) -> None:
    from submerge.demo import make_pair

    first, second = make_pair(tmp_path / "a"), make_pair(tmp_path / "b")
    assert first["krea"].read_bytes() == second["krea"].read_bytes()


# Time left.


def test_the_time_left_is_that_of_the_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("submerge.progress.time.monotonic", lambda: now[0])
    estimate = Estimate()
    assert estimate.left(0, 10) is None
    now[0] = 108.0
    assert (estimate.speed(4), estimate.left(4, 10)) == (0.5, 12.0)
    assert estimate.left(10, 10) == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words
