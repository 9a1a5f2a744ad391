"""The command that tells a merge in one page: report."""

from __future__ import annotations

import click

from submerge.cli.options import given, quiet
from submerge.cli.terminal import say

_FILE = click.Path(exists=True, dir_okay=False)


@click.command()
@click.option("--merge", type=_FILE, help="What `merge --json` printed.")
@click.option("--analysis", type=_FILE, help="What `analyze --json` wrote.")
@click.option(
    "--evaluation", type=click.Path(exists=True), help="The folder `test` wrote, or its JSON."
)
@click.option("--measure", type=_FILE, help="What `measure` wrote.")
@click.option("--title", help="Heading of the page.  [default: the merge's title]")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False),
    help="The .html file to write; .md and .json appear beside it.",
)
@quiet
def report(output: str, quiet: bool, **inputs: str | None) -> None:
    """Write one HTML page about a merge: recipe, images, scores, blocks, memory, licence.

    Give at least one input. The page is one file that loads nothing from anywhere.
    """
    from submerge.page import build

    page = build(**given(inputs))
    page.save(output)
    if not quiet:
        say(output)
