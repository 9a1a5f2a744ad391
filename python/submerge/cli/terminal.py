"""What reaches the terminal: text that only shows, and hints in the words of the command line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["say", "say_json", "spoken"]

# `name`, or `name=value`, as hints name the keywords of a verb.
_KEYWORD = re.compile(r"`([a-z_]+)(?:=([^`]{0,60}))?`")
_VERB = re.compile(r"`submerge\.([a-z_]+)`")
_VERBS = {"evaluate_guidance": "test", "export_merged_model": "export", "run_inference": "generate"}


def say(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, whatever stands in it, without moving a cursor or ending in an error."""
    from submerge.errors import printable

    click.echo(printable(str(text)), err=err, nl=nl)


def say_json(text: str) -> None:
    """Print JSON; what would not only show stands in it as JSON's own escape."""
    from submerge.errors import printable

    plain = text if text.isascii() else "".join(map(_escaped(printable), text))
    click.echo(plain)


def _escaped(printable: Callable[[str], str]) -> Callable[[str], str]:
    return lambda c: c if printable(c) == c else json.dumps(c)[1:-1]


def spoken(hint: str, command: click.Command | None) -> str:
    """Return a hint for Python in the words of the command line.

    Keywords that are options of the command become those: `overwrite=True` is `--overwrite`.
    """
    options = {param.name: param for param in command.params} if command is not None else {}

    def option(match: re.Match[str]) -> str:
        found = options.get(match[1])
        if not isinstance(found, click.Option):
            return match[0]
        names = found.secondary_opts if match[2] == "False" else found.opts
        flag = max(names or found.opts, key=len)
        value = None if match[2] in (None, "True", "False") else match[2].strip("\"'")
        return f"`{flag}`" if value is None else f"`{flag} {value}`"

    said = _VERB.sub(lambda match: f"`submerge {_VERBS.get(match[1], match[1])}`", hint)
    return _KEYWORD.sub(option, said)
