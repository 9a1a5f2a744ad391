"""Commands whose result is an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from submerge.cli.options import (
    adapters_of,
    allowing,
    as_json,
    by_part,
    emit,
    given,
    making,
    quiet,
    run_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from submerge.lora import MadeAdapter

__all__ = ["convert", "extract", "merge", "resize"]

_OUTPUT = click.option(
    "-o", "--output", required=True, type=click.Path(), help="The .safetensors file to write."
)
_RANK = click.option("--rank", type=int, help="Rank of each module, or the most an energy takes.")
_ENERGY = click.option(
    "--energy",
    type=float,
    help="Share of each difference's sum of squares to hold, with the smallest rank that does.",
)
_FORM = click.option(
    "--to",
    "form",
    type=click.Choice(["peft", "kohya", "comfy"]),
    help="Whose names it has.  [default: peft]",
)
_DTYPES = click.Choice(["bf16", "f16", "f32"])
_DTYPE = click.option("--dtype", type=_DTYPES, help="Type of the factors.  [default: as read]")
_BASE = click.option(
    "--base",
    type=click.Path(),
    metavar="MODEL",
    help="A model of their sizes, if not FLUX.1's.",
)


def _write(
    make: Callable[..., MadeAdapter], options: dict[str, Any], doing: str, *names: str
) -> None:
    """Make an adapter with the options of these names, and tell what was made."""
    from submerge.progress import bar

    with bar(doing, quiet=options["quiet"]) as progress:
        asked = given({name: options[name] for name in names})
        made = make(options["output"], **asked, **run_arguments(options, progress=progress))
    emit(made, made.text(options["by"]), as_json=options["as_json"], quiet=options["quiet"])


@click.command()
@click.argument("tuned", type=click.Path())
@click.argument("base", type=click.Path())
@_OUTPUT
@_RANK
@_ENERGY
@click.option("--dtype", type=_DTYPES, help="Type of the factors.  [default: bf16]")
@_FORM
@by_part
@making
@as_json
@quiet
def extract(tuned: str, base: str, **options: Any) -> None:
    """Write what TUNED has beyond BASE as a LoRA.

    \b
    submerge lora extract tuned/ krea/ --rank 32 -o tuned-lora.safetensors
    submerge lora extract tuned/ krea/ --energy 0.95 --rank 128 -o tuned-lora.safetensors
    """
    import functools

    from submerge.lora import extract as take

    make = functools.partial(take, tuned, base)
    _write(make, options, "extracting", "rank", "energy", "dtype", "form")


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER[=SCALE]...")
@_OUTPUT
@_RANK
@_ENERGY
@_DTYPE
@_FORM
@_BASE
@allowing
@click.option(
    "--method",
    type=click.Choice(
        ["cat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "knots"]
    ),
    help="How adapters are merged: factors beside each other (cat), number by number as peft does,"
    " or by a vote in shared directions (knots); only the first is the sum.  [default: cat]",
)
@click.option("--density", type=float, help="Share of numbers those leave.  [default: 0.5]")
@click.option("--seed", type=int, help="Seed of dare_linear and dare_ties.  [default: 0]")
@by_part
@making
@as_json
@quiet
def merge(adapters: tuple[str, ...], **options: Any) -> None:
    """Write the sum of ADAPTERs as one LoRA.

    Without --rank or --energy their factors stand beside each other.

    \b
    submerge lora merge style.safetensors=0.7 person.safetensors -o both.safetensors
    submerge lora merge style.safetensors person.safetensors=0.3..1 --rank 32 -o both.safetensors
    """
    import functools

    from submerge.lora import merge as combine

    more: Any = given({name: options[name] for name in ("method", "density", "seed")})
    make = functools.partial(combine, adapters_of(adapters, options["allow"], "ADAPTER"), **more)
    _write(make, options, "merging", "rank", "energy", "dtype", "form", "base")


@click.command()
@click.argument("adapter", metavar="ADAPTER[=SCALE]")
@_OUTPUT
@_RANK
@_ENERGY
@_DTYPE
@_FORM
@_BASE
@allowing
@by_part
@making
@as_json
@quiet
def resize(adapter: str, **options: Any) -> None:
    """Write ADAPTER with another rank.

    \b
    submerge lora resize style.safetensors --rank 16 -o style-16.safetensors
    """
    import functools

    from submerge.lora import resize as smaller

    (source,) = adapters_of((adapter,), options["allow"], "ADAPTER")
    make = functools.partial(smaller, source)
    _write(make, options, "resizing", "rank", "energy", "dtype", "form", "base")


@click.command()
@click.argument("adapter", type=click.Path())
@_OUTPUT
@click.option(
    "--to",
    "form",
    required=True,
    type=click.Choice(["peft", "kohya", "comfy"]),
    help="Whose names it is to have.",
)
@_BASE
@allowing
@by_part
@making
@as_json
@quiet
def convert(adapter: str, **options: Any) -> None:
    """Write ADAPTER in another form, its numbers as they are.

    Alphas and scales are kept, too.

    \b
    submerge lora convert style-kohya.safetensors --to peft -o style.safetensors
    """
    import functools

    from submerge.lora import convert as rename

    source = {"path": adapter, "allow": list(options["allow"])}
    make = functools.partial(rename, source)
    _write(make, options, "converting", "form", "base")
