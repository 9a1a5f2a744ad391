"""Commands about submerge itself: demo, doctor, methods."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from submerge.cli.options import as_json, emit, quiet
from submerge.cli.terminal import say


@click.command()
@click.option(
    "--keep", metavar="FOLDER", type=click.Path(), help="Leave the models in FOLDER when done."
)
@quiet
def demo(keep: str | None, quiet: bool) -> None:
    """Make a tiny schnell and krea, merge them by blocks, verify and report.

    Needs no download and no torch; takes a second.
    """
    from submerge.demo import demo as run
    from submerge.demo import next_steps

    def told(text: str) -> None:
        if not quiet:
            say(text.replace(away, ""))

    away = ""
    if keep is not None:
        run(Path(keep), told)
        told(next_steps(Path(keep)))
        return
    with tempfile.TemporaryDirectory(prefix="submerge-demo-") as folder:
        away = f"{folder}{os.sep}"  # what is gone when this ends need not be named
        run(Path(folder), told)
    told("The models were made in a temporary folder and are gone; `--keep FOLDER` leaves them.")


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False))
@as_json
def doctor(folders: tuple[str, ...], as_json: bool) -> None:
    """Print versions, instruction sets, memory, and how files in FOLDERS are read.

    Begin a bug report with this.
    """
    from submerge.doctor import doctor as examine

    found = examine(folders or (".",))
    emit(found, found.text(), as_json=as_json, quiet=False)


@click.command()
@click.argument("names", nargs=-1)
@as_json
def methods(names: tuple[str, ...], as_json: bool) -> None:
    """List the merge methods with their formulas, parameters and defaults; or those of NAMES."""
    from submerge.methods.catalogue import catalogue

    found = catalogue().of(names)
    emit(found, found.text(), as_json=as_json, quiet=False)
