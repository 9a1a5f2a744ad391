"""Commands about recipes: new, check, schema, import."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from submerge.cli.options import as_json, quiet


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

    click.echo("\n".join(template_names()) if list_all else text(template).rstrip())


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
            click.echo(json.dumps(loaded.to_dict(), indent=2, ensure_ascii=False))
        elif not quiet:
            click.echo(f"{file}: ok, {len(loaded.models)} models, digest {loaded.digest()[:16]}")


@recipe.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    from submerge.recipe import Recipe

    click.echo(json.dumps(Recipe.schema(), indent=2, ensure_ascii=False))


@recipe.command("import")
@click.argument("source", type=click.Path(allow_dash=True))
@click.option("--node", help="Id of the merge node to read, if a ComfyUI workflow has several.")
@click.option("--model-a", help="The first model of a supermerger vector.", metavar="PATH")
@click.option("--model-b", help="The second model of a supermerger vector.", metavar="PATH")
def import_(source: str, node: str | None, model_a: str | None, model_b: str | None) -> None:
    """Turn a ComfyUI workflow, mergekit YAML or a supermerger block vector into a recipe.

    How the ratios were read is told on standard error: ComfyUI's are shares of the first model,
    submerge's and supermerger's of the second; mergekit's `t` is that of the model that is not its
    base.
    """
    from submerge.errors import RecipeError
    from submerge.recipe.mergekit import import_mergekit, looks_like_mergekit
    from submerge.recipe.parse import load_text

    text = sys.stdin.read() if source == "-" else _text(Path(source))
    name = "standard input" if source == "-" else source
    if text.lstrip().startswith("{"):
        from submerge.recipe.comfy import import_workflow
        from submerge.recipe.parse import load_json

        found = import_workflow(load_json(text, name), name, node)
    elif looks_like_mergekit(text):
        found = import_mergekit(load_text(text, name), name)
    else:
        from submerge.merge import named
        from submerge.recipe.supermerger import import_vector

        if model_a is None or model_b is None:
            raise RecipeError(
                f"{name}: a block vector names no models, expected --model-a and --model-b"
            )
        found = import_vector(text, name, named([model_a, model_b]))
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(found.recipe.to_yaml().rstrip())


def _text(path: Path) -> str:
    from submerge.errors import RecipeError

    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: byte {error.start} is not UTF-8, expected a workflow or a block vector"
        ) from None
