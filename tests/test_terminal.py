"""What the command line prints: nothing that moves a cursor, and hints in its own words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest

import factory
from factory import KREA
from submerge import cli
from submerge.cli import app
from submerge.cli.terminal import spoken
from submerge.columns import aligned
from submerge.errors import PlanError, printable

if TYPE_CHECKING:
    from pathlib import Path

# Clears the screen; its one-byte form; retypes as input; sets the title; turns the text round.
EVIL = "\x1b[2J\x9b2J\x1b[6n\x1b]0;x\x07\u202eevil\r\x08\x7f\u2028\x85"
CONTROL = re.compile(
    r"[^\S \n]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def test_printable_text_only_shows() -> None:
    assert printable("żółw 狐 a\u3000b\nc\u00a0d") == "żółw 狐 a\u3000b\nc\u00a0d"
    assert not CONTROL.search(printable(EVIL).replace("\u3000", ""))
    assert printable("\x1b\udce9") == r"\u{1b}\u{dce9}"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A model in a folder, with metadata, an index and names that no terminal should see."""
    folder = tmp_path / f"a{EVIL}b"
    folder.mkdir()
    metadata = {f"k{EVIL}": EVIL, "format": "pt"}
    arrays = factory.tensors(KREA, "bfl")
    arrays[f"extra{EVIL}"] = arrays["img_in.bias"]
    return factory.write(folder / f"m{EVIL}.safetensors", arrays, metadata)


COMMANDS: list[list[str]] = [
    ["inspect", "MODEL"],
    ["inspect", "MODEL", "--json"],
    ["verify", "MODEL"],
    ["verify", "MODEL", "--json"],
    ["diff", "MODEL", "MODEL"],
    ["merge", "MODEL", "MODEL", "-o", "OUT", "--dry-run"],
    ["plan", "MODEL", "MODEL", "-o", "OUT", "--json"],
    ["analyze", "MODEL", "MODEL"],
    ["convert", "MODEL", "-o", "OUT", "--layout", "diffusers"],
    ["merge", f"recipe{EVIL}.yaml", "-o", "OUT"],
    ["recipe", "check", f"recipe{EVIL}.yaml"],
    ["recipe", "import", f"{EVIL},{EVIL},{EVIL}"],
    ["recipe", "new", EVIL],
    ["methods", EVIL],
    ["inspect", f"nowhere{EVIL}"],
    [EVIL],
    ["inspect", f"--{EVIL}"],
    ["doctor", "FOLDER"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_no_text_of_files_moves_the_cursor(
    command: list[str], evil: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put = {"MODEL": str(evil), "OUT": str(tmp_path / "o.safetensors"), "FOLDER": str(evil.parent)}
    cli._run([put.get(word, word) for word in command])
    out, err = capfd.readouterr()
    assert out + err
    assert not CONTROL.search(out + err)
    if "--json" in command and out:
        assert json.loads(out)


# -- hints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "hint", "said"),
    [
        ("merge", "pass `overwrite=True` or wait", "pass `--overwrite` or wait"),
        ("merge", "raise `memory_budget`", "raise `--memory-budget`"),
        ("merge", "use `io='auto'`, `stats=False`", "use `--io auto`, `--no-stats`"),
        ("merge", "write `unknown=3` or `x`", "write `unknown=3` or `x`"),
        ("inspect", "see `submerge.analyze`, `submerge.run_inference`",
         "see `submerge analyze`, `submerge generate`"),
        ("generate", 'load with `memory_budget="12GB"`', "load with `--memory-budget 12GB`"),
    ],
)  # fmt: skip
def test_hints_speak_as_the_command_line(command: str, hint: str, said: str) -> None:
    assert spoken(hint, app.get_command(click.Context(app), command)) == said


def test_a_hint_is_told_in_the_words_of_who_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from submerge import merge

    model = str(factory.save_file(tmp_path / "k.safetensors", KREA, "bfl"))
    out = tmp_path / "o.safetensors"
    out.write_text("mine")
    with pytest.raises(PlanError) as caught:
        merge({"models": {"a": model}}, out)
    assert caught.value.hint is not None
    assert "--" not in caught.value.hint
    assert cli._run(["convert", model, "-o", str(out)]) == cli.FAILED
    assert "hint: pass `--overwrite` or choose" in capsys.readouterr().err
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"models: {{a: {model}}}\nlayuot: bfl\nalhpa: 1\n")
    assert cli._run(["merge", str(recipe), "-o", str(out)]) == cli.USAGE
    assert "hint: did you mean `alpha`?" in capsys.readouterr().err


# -- interruptions --------------------------------------------------------------------------------

INTERRUPT = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
sys.argv = ["submerge", "inspect", "nowhere"]
from submerge.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module", ["submerge.cli", "click", "submerge.errors", "submerge.inspection", "submerge.layout"]
)
def test_an_interruption_while_importing_cancels(module: str) -> None:
    script = INTERRUPT.format(module=module)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == cli.INTERRUPTED
    assert done.stderr.decode().strip() == "cancelled: nothing was written"
    assert done.stdout == b""


# -- tables ---------------------------------------------------------------------------------------

LINES = [
    ["", "formula", *(f"figure {i}" for i in range(8))],
    ["double attn.q", "0.70 * schnell + 0.30 * krea", *(f"{i / 7:.6f}" for i in range(8))],
    ["embed", "schnell", *("-" for _ in range(8))],
]


@pytest.mark.parametrize("width", [40, 60, 79, 110, 200])
def test_tables_fit_the_terminal(width: int) -> None:
    lines: Any = aligned(LINES, 2, width).split("\n")
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for figure in (*LINES[0][2:], *LINES[1][2:]):
        assert figure in text
    assert all(line == line.rstrip() for line in lines)


def test_tables_that_go_elsewhere_are_whole() -> None:
    whole = aligned(LINES, 2)
    assert whole == aligned(LINES, 2, 500)
    assert len(whole.split("\n")) == len(LINES)
    assert "0.70 * schnell + 0.30 * krea" in whole
