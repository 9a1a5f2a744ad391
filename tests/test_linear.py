"""Readers of text take time that grows as the text does: a megabyte is read, and not for hours.

What takes the square of the length takes 10^12 steps for a megabyte, half an hour at the least.
Each reader has a process of its own, which the system ends after far less than that and far more
than it needs: how quick a machine is decides nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

import factory
import submerge
from factory import KREA
from submerge.cli.terminal import spoken
from submerge.errors import RecipeError, listing, printable
from submerge.evaluate import read_prompts
from submerge.given import shown
from submerge.plan import licence
from submerge.recipe.importers import import_text
from submerge.recipe.importers.mecha import instructions
from test_hostile import READERS, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE = 1_000_000
# Seconds of one core; all texts of a reader take about 10.
CPU_SECONDS = 240

PATTERNS = [
    "a", " ", "\n", "\t", ":", ",", "---\n", "[", "{", "'", '"', "\\", "*a ", "1,", "a=b ", "**.",
    "a.", "[0]", "(", "#\n", "merge_method\n", "merge_method: ", "version 0.1.0\n", '{"a":',
]  # fmt: skip
HEADS = ("", "models: ", "version 0.1.0\nmodel ", "x\t")


def texts(name: str) -> Iterator[str]:
    """Heads that lead into the readers, and what fills them; two share YAML's, which is slow."""
    yaml = {"recipe": 0, "mergekit": 1}
    for at, pattern in enumerate(PATTERNS):
        if at % 2 != yaml.get(name, at % 2):
            continue
        for head in HEADS[at // 2 % 4 :][:1] if name in yaml else HEADS:
            yield head + pattern * ((MEGABYTE - len(head)) // len(pattern))


def read(name: str) -> None:
    for text in texts(name):
        outcome(lambda text=text: READERS[name](text))  # type: ignore[misc]


def letters() -> None:
    """Of a word with escapes. Copying it for each letter is quick, so it takes a longer one."""
    long = "model " + "\\a" * (15 * MEGABYTE)
    ((_, command, _), (_, word, _)) = instructions._words(long, "x")
    assert (command, len(word)) == ("model", 15 * MEGABYTE)


def cards() -> None:
    for filling in (" ", "\n", "-", "---\n", "license: x\n", "license: ", "- a\n", "\ufeff"):
        card = f"---\nlicense: x{filling * (MEGABYTE // len(filling))}y\n---\n"
        list(licence._fields(card))
        with tempfile.TemporaryDirectory() as folder:
            factory.save_folder(Path(folder) / "m", KREA, 1)
            (Path(folder) / "m" / "README.md").write_text(card, encoding="utf-8")
            submerge.plan({"models": {"a": f"{folder}/m"}}, f"{folder}/o.safetensors")


def workflows() -> None:
    for shape in ("chain", "fan", "samplers"):
        graph: dict[str, Any] = {"0": {"class_type": "UNETLoader", "inputs": {"unet_name": "a"}}}
        for i in range(1, 12_000):
            node, source = "ModelSamplingFlux", str(i - 1) if shape == "chain" else "0"
            if shape == "samplers":
                node, source = "KSampler", "m"
            graph[str(i)] = {"class_type": node, "inputs": {"model": [source, 0]}}
        last = "11999" if shape != "samplers" else "0"
        sides = {"model1": [last, 0], "model2": ["0", 0], "ratio": 0.5}
        graph["m"] = {"class_type": "ModelMergeSimple", "inputs": sides}
        text = json.dumps(graph)
        assert 0.7 * MEGABYTE < len(text) < 1.1 * MEGABYTE
        outcome(lambda text=text: import_text(text, "x"))  # type: ignore[misc]


def terminal() -> None:
    """What files say, and hints, on their way to a terminal."""
    command = click.Command("x", params=[click.Option(["--overwrite"])])
    for pattern in ("a", "\n", "`", "`a=", "`a=x` ", "`submerge.a", "\x1b[2J", "\u202e", "\ud800"):
        text = pattern * (MEGABYTE // len(pattern))
        printable(text).encode()
        spoken(text, command)
        shown(text)
        listing([text] * 3)
        RecipeError(text, hint=text).__str__()


def prompts() -> None:
    for pattern in ("a", "\n", ",", "[", '"', "\\", '{"a":'):
        for suffix in ("txt", "jsonl"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"p.{suffix}"
                path.write_text(pattern * (MEGABYTE // len(pattern)), encoding="utf-8")
                outcome(lambda path=path: read_prompts(path))  # type: ignore[misc]


OTHERS: dict[str, Callable[[], None]] = {
    act.__name__: act for act in (letters, cards, workflows, terminal, prompts)
}


@pytest.mark.skipif(sys.platform == "win32", reason="the system limits the time of no process")
@pytest.mark.parametrize("name", [*READERS, *OTHERS])
def test_a_megabyte_is_read(name: str) -> None:
    program = (
        "import resource, sys, test_linear\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS}))\n"
        "name = sys.argv[1]\n"
        "test_linear.OTHERS.get(name, lambda: test_linear.read(name))()\n"
        "print('read')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, name],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr[-2000:]
