"""Commands for whoever sits at this machine: open, completion, studio."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from submerge.cli.options import quiet
from submerge.cli.terminal import say

_PAGES = (".html", ".htm")
_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("path", type=click.Path(exists=True))
@quiet
def open(path: str, quiet: bool) -> None:  # noqa: A001 - the command's name
    """Show the page of a report in the browser.

    PATH is a page that `report` or `grid` wrote, or a JSON file that has a page of the same name
    beside it, or a folder that holds one.
    """
    import webbrowser

    from submerge.errors import SubmergeError

    page = _page(Path(path)).resolve()
    # Only ever a page of this machine's disk, handed to the browser: no shell reads its name.
    if not webbrowser.open(page.as_uri()):
        raise SubmergeError(
            f"{page}: no browser was found", hint=f"open it yourself: {page.as_uri()}"
        )
    if not quiet:
        say(page)


def _page(path: Path) -> Path:
    """Return the page that a path stands for.

    Raises:
        RecipeError: there is none, or more than one.
    """
    from submerge.errors import RecipeError, listing

    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in _PAGES and p.is_file())
        if len(found) > 1:
            names = listing([p.name for p in found], noun="page")
            raise RecipeError(f"{path}: expected one page, got {names}", hint="name one of them")
        if found:
            return found[0]
    elif path.suffix in _PAGES:
        return path
    elif (beside := path.with_suffix(".html")).is_file():
        return beside
    raise RecipeError(
        f"{path}: expected a page that ends in .html, or what has one beside it",
        hint="`submerge report --merge merge.json -o report.html` makes one",
    )


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options and files after the tabulator.

    \b
    bash:  submerge completion bash > ~/.local/share/bash-completion/completions/submerge
    zsh:   submerge completion zsh > "${fpath[1]}/_submerge"
    fish:  submerge completion fish > ~/.config/fish/completions/submerge.fish
    """
    from click.shell_completion import get_completion_class

    from submerge.cli import app

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has these three
    click.echo(made(app, {}, "submerge", "_SUBMERGE_COMPLETE").source())


@click.command()
@click.argument("roots", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--file",
    type=click.Path(dir_okay=False),
    help="Where projects and tries are kept.  [default: in the user's data folder]",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one.")
@click.option("--open/--no-open", "show", default=True, help="Show the page in the browser.")
def studio(roots: tuple[str, ...], file: str | None, port: int, show: bool) -> None:
    """Merge in the browser: a page of this machine alone, until it is interrupted.

    It reads and writes below ROOTS, the current folder unless given. The address that is printed
    holds a token; without it nobody gets in.
    """
    from submerge.studio import Settings, serve

    with suppress(KeyboardInterrupt):  # how it is ended
        serve(Settings(roots=roots or (".",), file=file, port=port, open=show), say)
