"""Commands that look before the leap: analyze and suggest."""

from __future__ import annotations

from typing import Any

import click

from submerge.cli.options import (
    adapters_of,
    by_part,
    check_heatmap,
    heatmap,
    loras,
    quiet,
    reading,
    run_arguments,
)
from submerge.cli.terminal import say, say_json

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
@heatmap
@by_part
@click.option(
    "--alpha",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of B in the merge that `lost` asks about.",
)
@click.option(
    "--dtype",
    type=click.Choice(["same", "bf16", "f16", "f32", "fp8", "f8_e4m3", "f8_e5m2"]),
    default="same",
    show_default=True,
    help="What that merge would be rounded to; same is A's.",
)
@loras
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

    check_heatmap(options["heatmap"])
    with bar("analysing", quiet=options["quiet"]) as progress:
        run = run_arguments(options, progress=progress)
        asked = {name: options[name] for name in ("base", "alpha", "dtype", "layout")}
        adapters = adapters_of(options["loras"], options["allow"])
        found = look(a, b, **asked, adapters=adapters, **run)
    to = options["json_to"]
    if to not in (None, "-"):
        found.save(to)
    if options["heatmap"] is not None:
        found.heatmap(options["heatmap"])
    if to == "-":
        say_json(found.to_json())
    elif not options["quiet"]:
        say(found.text(options["by"]))


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="A B | ANALYSIS.json")
@click.option("--base", type=click.Path(), help="The model both come from.")
@click.option(
    "--goal",
    type=click.Choice(["few-step", "quality", "balanced"]),
    default="balanced",
    show_default=True,
    help="Stay near A, near B, or between them.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="The recipe to write.  [default: print it]",
)
@_LAYOUT
@reading
@quiet
def suggest(sources: tuple[str, ...], **options: Any) -> None:
    """Suggest a recipe for A, whose few steps are kept, and B, whose look is wanted.

    Every choice stands in the recipe with its evidence. No image is made.

    \b
    submerge suggest schnell/ krea/ --base dev/ --goal few-step -o recipe.yaml
    submerge suggest analysis.json
    """
    from submerge.analysis import suggest as advise
    from submerge.progress import bar

    if len(sources) > 2 or (len(sources) == 1) != sources[0].endswith(".json"):
        raise click.UsageError(f"expected two models or one saved analysis, got {len(sources)}")
    with bar("analysing", quiet=options["quiet"] or len(sources) == 1) as progress:
        run = run_arguments(options, progress=progress)
        asked = {name: options[name] for name in ("base", "goal", "layout")}
        found = advise(*sources, **asked, **run)
    if options["output"] is None:
        say(found.text, nl=False)
        return
    found.save(options["output"])
    if not options["quiet"]:
        say(f"{options['output']}: submerge merge {options['output']} -o merged/")
