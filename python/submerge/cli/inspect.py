"""Commands that read models and write nothing: inspect, diff, verify."""

from __future__ import annotations

from typing import Any

import click

from submerge.cli.options import (
    adapters_of,
    as_json,
    by_part,
    emit,
    loras,
    nvfp4,
    quiet,
    reading,
    run_arguments,
)

_LAYOUT = click.option(
    "--layout",
    type=click.Choice(["auto", "diffusers", "bfl", "comfy", "generic"]),
    default="auto",
    show_default=True,
    help="What to expect; generic takes any tensors by name.",
)


@click.command()
@click.argument("model", type=click.Path())
@_LAYOUT
@nvfp4
@as_json
def inspect(model: str, layout: str, nvfp4: str, as_json: bool) -> None:
    """Say what MODEL is, from its headers."""
    from submerge.inspection import inspect

    found = inspect(model, layout=layout, nvfp4=nvfp4)
    emit(found, found.text(), as_json=as_json, quiet=False)


@click.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@_LAYOUT
@nvfp4
@by_part
@loras
@click.option("--exit-code", is_flag=True, help="Exit with 4 when the models differ.")
@reading
@as_json
@quiet
def diff(first: str, second: str, **options: Any) -> int:
    """Compare SECOND with FIRST block by block.

    Layouts, shards and dtypes may differ; what counts is the value of each element. Adapters are
    put onto SECOND unless they name the other model.
    """
    from submerge.cli import NOT_PASSED, OK
    from submerge.diff import diff as compare
    from submerge.progress import bar

    with bar("comparing", quiet=options["quiet"]) as progress:
        run = run_arguments(options, progress=progress)
        adapters = adapters_of(options["loras"], options["allow"])
        expected = {"layout": options["layout"], "nvfp4": options["nvfp4"]}
        found = compare(first, second, adapters=adapters, **expected, **run)
    emit(found, found.text(options["by"]), as_json=options["as_json"], quiet=options["quiet"])
    return NOT_PASSED if options["exit_code"] and not found.equal else OK


@click.command()
@click.argument("model", type=click.Path())
@click.option(
    "--recipe",
    type=click.Path(),
    help="Recompute MODEL from this recipe and compare byte for byte.",
)
@_LAYOUT
@nvfp4
@reading
@as_json
@quiet
def verify(model: str, **options: Any) -> int:
    """Check that MODEL, or an adapter, is sound: complete, of known parts, every number finite."""
    from submerge.cli import NOT_PASSED, OK
    from submerge.progress import bar
    from submerge.verify import verify as check

    with bar("checking", quiet=options["quiet"]) as progress:
        run = run_arguments(options, progress=progress)
        expected = {"layout": options["layout"], "nvfp4": options["nvfp4"]}
        found = check(model, recipe=options["recipe"], **expected, **run)
    emit(found, found.text(), as_json=options["as_json"], quiet=options["quiet"])
    return OK if found.passed else NOT_PASSED
