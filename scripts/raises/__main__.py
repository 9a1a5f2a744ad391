"""Runs the tests and lists the places that raise an error no test reaches: `make raises`.

Slow, and of no use while a test fails. Python's places are watched; the core's are compared by
their texts with what was raised and with what the tests in Rust name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.raises import core, sites

ROOT = Path(__file__).parents[2]
# Beside each other, but for those that measure.
SUITES = (["-n", "2", "-m", "not serial"], ["-m", "serial"])


def main() -> int:
    """Run, compare, and print the places and how many they are."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="PYTHON=TESTS",
        help="Tests that another interpreter runs: .venv-oracle/bin/python=tests/inference.",
    )
    arguments.add_argument("--told", metavar="FOLDER", help="Run nothing: what was told before.")
    options = arguments.parse_args()
    if options.told is not None:
        return tell(Path(options.told))
    with tempfile.TemporaryDirectory() as folder:
        for suite in SUITES:
            run(sys.executable, suite, Path(folder))
        for also in options.also:
            python, _, tests = also.partition("=")
            run(python, tests.split(), Path(folder))
        return tell(Path(folder))


def run(python: str, tests: list[str], folder: Path) -> None:
    """Run tests so that every process of theirs tells what it raises."""
    # The sources, even where a wheel is installed: places are told by their lines.
    path = [str(ROOT / at) for at in ("scripts/raises/hook", ".", "python")]
    path.append(os.environ.get("PYTHONPATH", ""))
    how = {sites.FOLDER: str(folder), "PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    subprocess.run(command, cwd=ROOT, env=os.environ | how, check=False)


def tell(folder: Path) -> int:
    """Print what was not reached."""
    told = [
        json.loads(line)
        for path in folder.glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    python = sites.places(ROOT / "python/submerge")
    missed = sorted(python - {entry["place"] for entry in told if "place" in entry})
    texts = core.texts(ROOT / "rust")
    messages = [entry["message"] for entry in told if "message" in entry]
    rust = sorted(set(texts) - core.reached(texts, messages, tests_of_the_core()))
    print("\n".join(f"python/submerge/{place}" for place in missed))
    print("\n".join(f"rust/{place}  {texts[place]}" for place in rust))
    print(f"Python: {len(missed)} of {len(python)} places are reached by no test")
    print(f"Rust: {len(rust)} of {len(texts)} texts are met in no test")
    return 0


def tests_of_the_core() -> str:
    """Return the text of all tests, those inside the core's sources among them."""
    inside = [path.read_text(encoding="utf-8") for path in (ROOT / "rust").rglob("*.rs")]
    tests = [text.partition("#[cfg(test)]\nmod tests {")[2] for text in inside]
    files = [path for path in sorted((ROOT / "tests").rglob("*")) if path.suffix in (".py", ".rs")]
    tests += [path.read_text(encoding="utf-8") for path in files]
    return "\n".join(tests)


if __name__ == "__main__":
    sys.exit(main())
