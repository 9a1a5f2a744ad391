"""Commands about adapters: what one is, and a model with some fused in."""

from __future__ import annotations

from typing import Any

import click

from submerge.cli.lora_results import convert, extract, merge, resize
from submerge.cli.options import (
    LAYOUTS,
    adapters_of,
    allowing,
    as_json,
    by_part,
    check_heatmap,
    emit,
    given,
    heatmap,
    number_format,
    output,
    quiet,
    reading,
    run_arguments,
    writing,
)


@click.group()
def lora() -> None:
    """LoRAs and other adapters: look at, fuse, extract, merge, resize and convert them."""


_COMPAT = click.option(
    "--compat",
    type=click.Choice(["diffusers", "comfyui", "lycoris"]),
    help="Whose reading of the file to follow where programs differ.",
)


@lora.command()
@click.argument("file", type=click.Path())
@click.option("--base", type=click.Path(), metavar="MODEL", help="The model to look at it on.")
@by_part
@heatmap
@_COMPAT
@reading
@as_json
@quiet
def info(file: str, **options: Any) -> int:
    """Say what the adapter in FILE is, and how strong in each block.

    \b
    submerge lora info style.safetensors
    submerge lora info style.safetensors --base krea/ --heatmap style.svg
    """
    from submerge.cli import BAD_INPUT, OK
    from submerge.lora import info as look
    from submerge.progress import bar

    check_heatmap(options["heatmap"])
    with bar("measuring", quiet=options["quiet"]) as progress:
        run = run_arguments(options, progress=progress)
        found = look(file, options["base"], compat=options["compat"], **run)
    if options["heatmap"] is not None:
        found.heatmap(options["heatmap"])
    emit(found, found.text(options["by"]), as_json=options["as_json"], quiet=options["quiet"])
    return OK if found.problem is None or options["base"] is None else BAD_INPUT


@lora.command()
@click.argument("model", type=click.Path())
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER[=SCALE]...")
@output
@click.option("--layout", type=click.Choice(LAYOUTS), help="Names and files.  [default: same]")
@number_format
@_COMPAT
@allowing
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@writing
@as_json
@quiet
def bake(model: str, adapters: tuple[str, ...], **options: Any) -> None:
    """Write MODEL with adapters fused in.

    \b
    submerge lora bake krea/ style.safetensors=0.8 -o krea-style/
    submerge lora bake flux1-dev.safetensors a.safetensors b.safetensors=0.3..1 -o ab.safetensors
    """
    from submerge.cli.write import tell_plan, write
    from submerge.lora.bake import baked_recipe
    from submerge.merge import plan

    more = given({"compat": options["compat"]})
    found = adapters_of(adapters, options["allow"], "ADAPTER")
    sources = [{**source, **more} for source in found]
    fields = given({name: options[name] for name in ("layout", "dtype")})
    recipe = baked_recipe(model, sources, options["output"], fields)
    made = plan(recipe, options["output"])
    if options["dry_run"]:
        tell_plan(made, options)
    else:
        write(made, "baking", options)


for _command in (extract, merge, resize, convert):
    lora.add_command(_command)
