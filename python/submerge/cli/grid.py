"""The command that lays images out over a recipe's numbers: grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from submerge.cli.options import adapters_of, as_json, given, quiet
from submerge.cli.paint import LOADING, asked, budget, loading, painting, texts
from submerge.cli.terminal import say, say_json

if TYPE_CHECKING:
    from submerge.grid import Grid


@click.command()
@click.argument("recipe", type=click.Path(exists=True))
@click.option(
    "--x",
    metavar="NAME=VALUE,...",
    help="Across: alpha, set:SELECTOR, adapter:NAME, seed, steps, guidance, true_cfg or shift.",
)
@click.option("--y", metavar="NAME=VALUE,...", help="Down; `0.2..0.8` is a gradient over blocks.")
@click.option("--z", metavar="NAME=VALUE,...", help="A table for each value.")
@click.option("-p", "--prompt", "prompts", multiple=True, help="What to paint. Repeatable.")
@click.option(
    "--prompts",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with one prompt a line.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    default="grid",
    show_default=True,
    help="The folder to write; images already there are not painted again.",
)
@click.option("--title", help="Heading of the page.  [default: the names of the models]")
@click.option("--scorer", multiple=True, metavar="NAME[=PATH]", help="As in clip=PATH.")
@painting
@loading
@as_json
@quiet
def grid(recipe: str, **options: Any) -> int:
    """Paint RECIPE at every point of up to three axes, on one page; nothing is merged into files.

    \b
    submerge grid recipe.yaml --x alpha=0,0.25,0.5 --y steps=4,8 -p "a fox in snow"
    submerge grid recipe.yaml --x 'set:single[*].mlp=0.2..0.8,0.5' --y seed=1,2,3 -p "a fox"
    """
    from submerge.cli import INTERRUPTED, OK
    from submerge.grid import grid as paint_grid
    from submerge.progress import bar

    how = given({name: options.get(name) for name in LOADING})
    how["memory_budget"] = budget(options["memory_budget"])
    if adapters := adapters_of(options["fused"], options["allow"], "--fuse"):
        how["adapters"] = adapters
    folder = options["output"]
    try:
        with bar("painting", quiet=options["quiet"], steps=True) as progress:
            made = paint_grid(
                recipe,
                texts(options["prompts"], options["file"]),
                output=folder,
                x=options["x"],
                y=options["y"],
                z=options["z"],
                options=asked(options),  # type: ignore[arg-type]
                load=how,
                scorers=options["scorer"],
                title=options["title"],
                callback=progress,
            )
    except KeyboardInterrupt:
        say(f"stopped: `{folder}` keeps what is painted; run again to go on", err=True)
        return INTERRUPTED
    _tell(made, options)
    return OK


def _tell(made: Grid, options: dict[str, Any]) -> None:
    if options["as_json"]:
        say_json(made.to_json())
        return
    if options["quiet"]:
        return
    for note in made.data["notes"]:
        say(note, err=True)
    say(made.page)
    say(f"{len(made)} images, {len(made) - made.painted} of them already there", err=True)
