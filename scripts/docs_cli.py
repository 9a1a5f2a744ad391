"""MkDocs hook: writes the command line reference from the commands themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from submerge.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark in docs/cli.md by a section for each command."""
    return markdown.replace(_MARK, "\n".join(_sections())) if _MARK in markdown else markdown


def _sections() -> Iterator[str]:
    for path, command in _commands(app, ("submerge",)):
        context = click.Context(command, info_name=" ".join(path), max_content_width=90)
        context.help_option_names = ["-h", "--help"]
        name = " ".join(path)
        yield f"## `{name}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


def _commands(
    group: click.Group, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command
