"""Commands about recipes: new, check, schema, import."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from submerge.cli.options import as_json, quiet
from submerge.cli.terminal import say, say_json


@click.group()
def recipe() -> None:
    """Make, check and import recipes."""


@recipe.command()
@click.argument("template", default="even")
@click.option("--list", "list_all", is_flag=True, help="List the templates.")
def new(template: str, list_all: bool) -> None:
    """Print a recipe to start from.

    \b
    submerge recipe new blocks > recipe.yaml
    """
    from submerge.recipe.template import template as text
    from submerge.recipe.template import template_names

    say("\n".join(template_names()) if list_all else text(template).rstrip())


@recipe.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@as_json
@quiet
def check(files: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Check recipes without opening a model; with --json print their normal form."""
    from submerge.recipe import Recipe

    for file in files:
        loaded = Recipe.load(Path(file))
        if as_json:
            say_json(json.dumps(loaded.to_dict(), indent=2, ensure_ascii=False))
        elif not quiet:
            say(f"{file}: ok, {len(loaded.models)} models, digest {loaded.digest()[:16]}")


@recipe.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    from submerge.recipe import Recipe

    say_json(json.dumps(Recipe.schema(), indent=2, ensure_ascii=False))


@recipe.command("import")
@click.argument("source", type=click.Path(allow_dash=True))
@click.option("--node", help="Id of the node to read, of a ComfyUI workflow or an sd-mecha recipe.")
@click.option("--model-a", help="The first model, where SOURCE names none.", metavar="PATH")
@click.option("--model-b", help="The second model, where SOURCE names none.", metavar="PATH")
@click.option("--model-c", help="The third model, where SOURCE names none.", metavar="PATH")
def import_(
    source: str,
    node: str | None,
    model_a: str | None,
    model_b: str | None,
    model_c: str | None,
) -> None:
    """Turn another tool's recipe into one of submerge.

    SOURCE is a ComfyUI workflow, mergekit YAML, an sd-mecha recipe, a supermerger block vector, or
    a checkpoint merged by sd-mecha, supermerger, ComfyUI or AUTOMATIC1111's web UI, whose header
    holds the recipe.

    How the ratios were read is told on standard error: ComfyUI's are shares of the first model,
    all others' of the second, as submerge's are.
    """
    from submerge.merge import named
    from submerge.recipe.importers import import_recipe, import_text

    given = [path for path in (model_a, model_b, model_c) if path is not None]
    models = named(given) if given else None
    if source == "-":
        found = import_text(sys.stdin.read(), "standard input", models=models, node=node)
    else:
        found = import_recipe(Path(source), models=models, node=node)
    for note in found.notes:
        say(note, err=True)
    say(found.recipe.to_yaml().rstrip())
