"""The tool that lists untested errors: what is a place, and when one counts as reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.raises import core, sites

ROOT = Path(__file__).parents[1]
PYTHON = """
from submerge.errors import InternalError, RecipeError

def made():
    return RecipeError("two")

def raising(error):
    raise RecipeError(f"one {max(1, 2)}")
    raise InternalError("a defect")
    raise made() from None
    raise
    raise error
"""
RUST = """
fn check() {
    return Err(Error::plan(format!("`{name}`: rows differ, expected \\
        {expected}")));
    Err("not so, expected otherwise".to_owned())
    Error::internal(format!("a defect of the core"));
    file.read().map_err(|e| Error::io(e, &path, "cannot be read at all"))
}
#[cfg(test)]
mod tests {
    fn it() { Error::plan("only a test") }
}
"""


def test_places_are_raises_and_errors_made_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON)
    assert sites.places(tmp_path) == {"a.py:5", "a.py:8", "a.py:10", "a.py:12"}


def test_texts_of_the_core_are_those_outside_of_tests(tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text(RUST)
    found = core.texts(tmp_path)
    assert list(found.values()) == [
        "`{name}`: rows differ, expected {expected}",
        "not so, expected otherwise",
        "cannot be read at all",
    ]
    first, second, third = found
    assert core.reached(found, ["plan: `x`: rows differ, expected 3"], "") == {first}
    assert core.reached(found, ["rows differ"], 'assert!("not so, expected otherwise")') == {second}
    assert core.reached(found, [], "") == set()
    assert third.startswith("a.rs:")


def test_a_process_tells_what_it_raises(tmp_path: Path) -> None:
    script = "import submerge\ntry:\n    submerge.RunOptions(threads=0)\nexcept ValueError: pass\n"
    path = os.pathsep.join(map(str, (ROOT / "scripts/raises/hook", ROOT, ROOT / "python")))
    watched = os.environ | {sites.FOLDER: str(tmp_path), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], env=watched, check=True)
    (told,) = tmp_path.glob("*.jsonl")
    kinds = (ROOT / "python/submerge/given/kinds.py").read_text()
    line = kinds.split('raise _wrong(f"a whole number {between}"')[0].count("\n") + 1
    assert f'"place": "given/kinds.py:{line}"' in told.read_text()
    assert '"message": "threads: expected a whole number from 1 to 4096, got 0"' in told.read_text()
