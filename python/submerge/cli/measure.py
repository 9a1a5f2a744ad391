"""Commands that run a model to look at the run itself: measure, reproduce."""

from __future__ import annotations

from typing import Any

import click

from submerge.cli.options import as_json, emit, given, quantized, quiet
from submerge.cli.terminal import say


@click.command()
@click.argument("model", type=click.Path())
@click.option("--parents", nargs=2, type=click.Path(), metavar="A B", help="Measured beside it.")
@click.option("--parent", multiple=True, type=click.Path(), help="A parent; may be repeated.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="NAME=VALUE,...",
    help="As in steps=4,size=512x512,images=5; may be repeated.  [default: three images as the"
    " model paints them]",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Fresh processes for each model; the models take turns.",
)
@click.option("--device", help="cpu, cuda, mps, ...  [default: what is there]")
@click.option("--dtype", type=click.Choice(["bf16", "f16", "f32"]), help="To compute in.")
@click.option(
    "--memory-budget", metavar="SIZE", help="Of the device, as in 12GB.  [default: what is free]"
)
@quantized
@click.option("--components", type=click.Path(), help="A pipeline for a transformer alone.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="The JSON file to write.")
@click.option("--trace", type=click.Path(dir_okay=False), help="A timeline for Perfetto to write.")
@as_json
@quiet
def measure(model: str, **options: Any) -> None:
    """Measure memory and speed of MODEL, beside its parents.

    Each model is loaded in a process of its own and paints every workload; the first image of each
    is a warm-up and told apart. Times are medians, in seconds.
    """
    from submerge.measure import measure as run

    names = ("device", "dtype", "memory_budget", "quantization", "components")
    found = run(
        model,
        parents=[*(options["parents"] or ()), *options["parent"]],
        workloads=options["workloads"],
        load=given({name: options[name] for name in names}),
        rounds=options["rounds"],
        notify=None if options["quiet"] else _told,
    )
    if options["output"]:
        found.save(options["output"])
    if options["trace"]:
        found.save_trace(options["trace"])
    emit(found, found.table(), as_json=options["as_json"], quiet=options["quiet"])


def _place(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Any:
    """Read `NAME=PATH` pairs, or one `PATH` for every model."""
    pairs = [value.partition("=") for value in values]
    if len(pairs) == 1 and not pairs[0][1]:
        return values[0]
    if any(not equals for _, equals, _ in pairs):
        raise click.BadParameter("expected NAME=PATH, or one PATH for all")
    return {name: path for name, _, path in pairs} or None


@click.command()
@click.argument("report", type=click.Path(exists=True))
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=PATH",
    callback=_place,
    help="Where a model lies now, or PATH alone for all; needed for a PNG.",
)
@click.option("--limit", type=click.IntRange(1), help="Images of each model.  [default: all]")
@click.option("--device", help="cpu, cuda, mps, ...  [default: what is there]")
@click.option(
    "--memory-budget", metavar="SIZE", help="Of the device, as in 12GB.  [default: what is free]"
)
@click.option("--components", type=click.Path(), help="A pipeline for a transformer alone.")
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Keep the new images here.")
@as_json
@quiet
def reproduce(report: str, **options: Any) -> int:
    """Paint the images of REPORT again and compare them bit by bit.

    REPORT is the evaluation.json that `test` wrote, its folder, or one PNG. Exits with 4 when a
    pixel differs, and says what has changed since: versions, hardware, models.
    """
    from submerge.cli import NOT_PASSED, OK
    from submerge.reproduce import reproduce as run

    found = run(
        report,
        models=options["models"],
        load=given({name: options[name] for name in ("device", "memory_budget", "components")}),
        limit=options["limit"],
        output=options["output"],
        notify=None if options["quiet"] else _told,
    )
    emit(found, found.text(), as_json=options["as_json"], quiet=options["quiet"])
    return OK if found.identical else NOT_PASSED


def _told(line: str) -> None:
    say(line, err=True)
