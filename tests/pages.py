"""Runs what a page of the documentation shows, in order, in the current folder."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from submerge import cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Commands of other programs, and of the repository itself.
ELSEWHERE = ("pip ", "make ")


def all_of(page: Path, more: Mapping[str, Sequence[str]] | None = None) -> int:
    """Run the blocks of a page in order and return how many things were run.

    `more` are further options by command, which make it small enough for a test.
    """
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return sum(run(kind, body, more or {}) for kind, note, body in blocks if "notest" not in note)


def run(kind: str, body: str, more: Mapping[str, Sequence[str]]) -> int:
    """Run one block and return how many things were run."""
    if kind == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", body)):
        Path(name[1]).write_text(body, encoding="utf-8")
    elif kind == "console":
        lines = body.replace("\\\n", " ").splitlines()
        commands = [line[2:] for line in lines if line.startswith("$ ")]
        ours = [command for command in commands if not command.startswith(ELSEWHERE)]
        for command in ours:
            program, *arguments = shlex.split(command, comments=True)
            assert program == "submerge"
            execute(arguments, more.get(arguments[0], ()))
        return len(ours)
    elif kind == "python":
        exec(compile(body, "example", "exec"), {})  # noqa: S102 - our own page
        return 1
    return 0


def execute(arguments: list[str], more: Sequence[str]) -> None:
    """Run one command with further options; its output may go to a file: `... > file`."""
    if ">" not in arguments:
        assert cli._run([*arguments, *more]) == 0, arguments
        return
    at = arguments.index(">")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli._run([*arguments[:at], *more]) == 0, arguments
    Path(arguments[at + 1]).write_text(printed.getvalue(), encoding="utf-8")
