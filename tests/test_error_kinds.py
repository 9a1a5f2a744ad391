"""Every kind of error there is has a test.

What is counted is where in the source an exception is made, and what the core can say: the tests of
refusals are run once more, watched by `error_sites`, and each place must have been reached.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "submerge"
RUST = ROOT / "rust"
# What has no refusals and takes long; every other module is run once more.
ELSEWHERE = {
    *("benches", "disks", "docs", "embedding", "error_kinds", "house"),
    *("invariance", "memory", "merge", "numbers"),
}
CLASSES = {"RecipeError", "LayoutError", "CheckpointError", "PlanError", "AdapterError"}
# Messages of the core that only its own tests reach, with the test that pins them.
BY_RUST = {
    "a process forked inside `progress`": "test_embedding.py",
}


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Where exceptions were made, and what they said, in the tests of refusals."""
    notes = tmp_path_factory.mktemp("sites") / "sites.json"
    every = sorted((ROOT / "tests").glob("test_*.py"))
    modules = [str(p) for p in every if p.stem.removeprefix("test_") not in ELSEWHERE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "error_sites", "-m", "not serial"]
    environment = os.environ | {"ERROR_SITES": str(notes), "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [*command, *modules], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found: dict[str, list[str]] = json.loads(notes.read_text(encoding="utf-8"))
    return found


def sites() -> Iterator[tuple[str, int, int]]:
    """Every place in the package that makes an exception: file, first and last line."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), lineno=first, end_lineno=last):
                    if name in CLASSES:
                        yield path.relative_to(PACKAGE).as_posix(), first, last or first


def test_every_error_in_python_is_reached_by_a_test(reached: dict[str, list[str]]) -> None:
    lines = {tuple(site.rsplit(":", 1)) for site in reached["sites"]}
    every = list(sites())
    assert len(every) > 120  # they are still found
    missed = [
        f"{name}:{first}"
        for name, first, last in every
        if not any((name, str(line)) in lines for line in range(first, last + 1))
    ]
    assert not missed, missed


MADE = re.compile(r"Error::(?:plan|checkpoint)\(\s*(?!message)")
WORDS = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
WHAT = re.compile(r'let what =\s*(?:format!\(\s*)?"((?:[^"\\]|\\.)*)"', re.DOTALL)


def templates() -> Iterator[tuple[str, str]]:
    """Every message of the core with its file; those of headers have a table in Rust."""
    for path in sorted(RUST.rglob("*.rs")):
        name = path.relative_to(RUST).as_posix()
        text = path.read_text(encoding="utf-8").split("#[cfg(test)]")[0]
        for made in MADE.finditer(text) if not name.startswith("checkpoint") else ():
            inline = re.match(r'(?:format!\(\s*)?"', text[made.end() :])
            before = list(WHAT.finditer(text[: made.start()]))
            found = WORDS.search(text, made.end()) if inline else before[-1] if before else None
            assert found is not None, f"{name}: no words for {text[made.start() :][:60]}"
            yield name, re.sub(r"\\\n\s*", "", found[1])


def pattern(template: str) -> str:
    return ".*".join(map(re.escape, re.split(r"\{[^}]*\}", template)))


def test_every_error_of_the_core_is_reached_by_a_test(reached: dict[str, list[str]]) -> None:
    every = [(name, words) for name, words in templates() if re.search(r"[a-z]{4}", words)]
    every = [(name, words) for name, words in every if re.sub(r"\{\w*\}|\W", "", words)]
    assert len(every) > 35
    said = reached["messages"]
    missed = [
        f"{name}: {words}"
        for name, words in every
        if not any(re.fullmatch(pattern(words), message, re.DOTALL) for message in said)
        and not any(words.startswith(known) for known in BY_RUST)
    ]
    assert not missed, missed


def test_what_only_other_tests_reach_is_there() -> None:
    every = [words for _, words in templates()]
    for words in BY_RUST:
        assert any(template.startswith(words) for template in every)
