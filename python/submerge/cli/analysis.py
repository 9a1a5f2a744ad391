"""Commands that look before the leap: analyze and suggest."""

from __future__ import annotations

from typing import Any

import click

from submerge.cli.options import DTYPES, quiet, reading, run_arguments

_LAYOUT = click.option(
    "--layout",
    type=click.Choice(["auto", "diffusers", "bfl", "comfy", "generic"]),
    default="auto",
    show_default=True,
    help="What to expect; generic takes any tensors by name.",
)


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--base", type=click.Path(), help="The model both come from.")
@click.option(
    "--json",
    "json_to",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the analysis as JSON; `-` prints it in place of the table.",
)
@click.option(
    "--heatmap",
    type=click.Path(dir_okay=False),
    metavar="FILE.svg|FILE.png",
    help="Draw blocks against parts.",
)
@click.option(
    "--by",
    type=click.Choice(["part", "block"]),
    default="part",
    show_default=True,
    help="A line for each part of a stack, or for each block.",
)
@click.option(
    "--alpha",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of B in the merge that `lost` asks about.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="same",
    show_default=True,
    help="What that merge would be rounded to; same is A's.",
)
@_LAYOUT
@reading
@quiet
def analyze(a: str, b: str, **options: Any) -> None:
    """Measure how B differs from A, part by part of each block, in one pass.

    \b
    submerge analyze schnell/ krea/ --heatmap krea.svg
    submerge analyze schnell/ krea/ --base dev/ --json analysis.json
    """
    from submerge.analysis import analyze as look
    from submerge.progress import bar

    _check_heatmap(options["heatmap"])
    with bar("analysing", quiet=options["quiet"]) as progress:
        run = run_arguments(options, progress=progress)
        asked = {name: options[name] for name in ("base", "alpha", "dtype", "layout")}
        found = look(a, b, **asked, **run)
    to = options["json_to"]
    if to not in (None, "-"):
        found.save(to)
    if options["heatmap"] is not None:
        found.heatmap(options["heatmap"])
    if to == "-":
        click.echo(found.to_json())
    elif not options["quiet"]:
        click.echo(found.text(options["by"]))


def _check_heatmap(path: str | None) -> None:
    """Refuse what cannot be drawn before anything is read."""
    if path is not None and not path.lower().endswith((".svg", ".png")):
        raise click.BadParameter(
            f"expected a name ending in .svg or .png, got `{path}`", param_hint="--heatmap"
        )
