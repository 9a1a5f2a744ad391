"""Commands that write, and the plan of what they would write: merge, plan, convert, export."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from submerge.cli.options import (
    adapters_of,
    as_json,
    check_heatmap,
    emit,
    for_reader,
    given,
    heatmap,
    loras,
    number_or_range,
    nvfp4,
    output,
    quiet,
    run_arguments,
    shape,
    writing,
)
from submerge.cli.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from submerge.plan import Plan
    from submerge.recipe import Recipe
    from submerge.report import Report

__all__ = ["convert", "export", "merge", "plan", "tell_plan", "write"]

_OUTPUT_FIELDS = ("layout", "dtype", "for_", "shard_size", "pipeline_from", "scheduler_from")


def _meaning(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what to merge, in place of a recipe or on top of one."""
    for option in (
        click.option(
            "--scheduler-from",
            metavar="MODEL|PATH",
            help="Take the pipeline's scheduler from there.",
        ),
        click.option(
            "--pipeline-from",
            metavar="MODEL|PATH",
            help="Write a whole diffusers pipeline, with its VAE, text encoders and tokenizers.",
        ),
        click.option(
            "--guidance",
            metavar="POLICY",
            help="keep, scale, drop, scale=SHARE or bake=VALUE: what becomes of the guidance"
            " embedder when a model has none.  [default: keep]",
        ),
        click.option(
            "--take",
            "takes",
            multiple=True,
            metavar="SELECTOR=MODEL",
            help="Take these parts from one model as they are. Repeatable.",
        ),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="SELECTOR=ALPHA",
            help="Another alpha for these parts: 'double[0:8].img.attn=0.2', or a gradient over"
            " the blocks, 'single=0.3..0.8'. Repeatable; the first that matches decides.",
        ),
        click.option(
            "--alpha", type=float, help="Share of the second model.  [default: 0.5 for two models]"
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="RECIPE | MODEL MODEL...")
@output
@_meaning
@loras
@shape
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option(
    "--trace", type=click.Path(dir_okay=False), help="A timeline of time and memory for Perfetto."
)
@heatmap
@writing
@as_json
@quiet
def merge(sources: tuple[str, ...], **options: Any) -> None:
    """Merge the models of a RECIPE, or two MODELs, block by block.

    \b
    submerge merge recipe.yaml -o merged/
    submerge merge schnell/ krea/ --alpha 0.3 -o merged.safetensors
    submerge merge schnell/ krea/ --alpha 0.5 --set 'single[*].mlp=0.3..0.8' -o merged/
    """
    from submerge.merge import plan as compiled

    check_heatmap(options["heatmap"])
    made = compiled(_recipe(sources, options), options["output"])
    if options["dry_run"]:
        tell_plan(made, options)
    else:
        write(made, "merging", options)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="RECIPE | MODEL MODEL...")
@click.option("-o", "--output", default="merged.safetensors", show_default=True, type=click.Path())
@_meaning
@loras
@shape
@writing
@as_json
@quiet
def plan(sources: tuple[str, ...], **options: Any) -> None:
    """Print what `merge` would do: formulas, sizes, memory and disk. Reads headers only."""
    from submerge.merge import plan as compiled

    tell_plan(compiled(_recipe(sources, options), options["output"]), options)


@click.command()
@click.argument("model", type=click.Path())
@output
@loras
@nvfp4
@shape
@heatmap
@writing
@as_json
@quiet
def convert(model: str, **options: Any) -> None:
    """Write MODEL in another layout or dtype.

    \b
    submerge convert flux1-krea-dev.safetensors --layout diffusers -o krea/
    """
    from submerge.merge import plan as compiled
    from submerge.merge import single_model_recipe

    check_heatmap(options["heatmap"])
    fields = _output_fields(options)
    adapters = adapters_of(options["loras"], options["allow"])
    asked = {"extras": options["extras"], "nvfp4": options["nvfp4"]}
    recipe = single_model_recipe(model, fields, adapters=adapters, **asked)
    write(compiled(recipe, options["output"]), "converting", options)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path())
@click.option(
    "--quantization",
    metavar="NAME",
    help="Number format: bf16, f16, f32, fp8, fp8_scaled, int8_convrot, q8_0, ...  [default: same]",
)
@for_reader
@click.option(
    "--layout",
    type=click.Choice(["auto", "same", "diffusers", "bfl", "comfy"]),
    default="auto",
    show_default=True,
    help="Names of the tensors; auto is diffusers for a folder and bfl for a file, comfy if a VAE"
    " and text encoders go along.",
)
@click.option(
    "--extras",
    type=click.Choice(["drop"]),
    help="Leave VAE and text encoders of an all-in-one file behind.",
)
@heatmap
@writing
@as_json
@quiet
def export(model: str, output: str, **options: Any) -> None:
    """Write MODEL to OUTPUT for another program, and read it back to check it.

    \b
    submerge export merged/ merged-fp8.safetensors --quantization fp8
    """
    from submerge.export import export_merged_model
    from submerge.progress import bar

    check_heatmap(options["heatmap"])
    with bar("exporting", quiet=options["quiet"]) as progress:
        report = export_merged_model(
            model,
            output,
            options["quantization"],
            reader=options["for_"],
            layout=options["layout"],
            extras=options["extras"],
            **run_arguments(options, progress=progress),
        )
    if not (options["quiet"] or options["as_json"]):
        for note in report.summary["notes"]:
            if note not in report.remarks:
                say(note, err=True)
    _tell(report, options)


def write(made: Plan, what: str, options: dict[str, Any]) -> None:
    """Carry a plan out and print its report; `what` stands beside the progress bar."""
    from submerge.merge import carry_out
    from submerge.profile import profile, span
    from submerge.progress import bar
    from submerge.run import RunOptions

    silent = options["quiet"] or options["as_json"]
    if not silent:
        for note in made.about.notes:
            say(note, err=True)
    traced = profile() if options.get("trace") else nullcontext()
    with bar(what, quiet=options["quiet"]) as progress, traced as seen, span(what):
        report = carry_out(made, RunOptions.of(run_arguments(options, progress=progress)))
    if seen is not None:
        seen.save(options["trace"])
    _tell(report, options)


def _tell(report: Report, options: dict[str, Any]) -> None:
    """Draw what writing lost, if that is wanted, and print the report."""
    if options.get("heatmap") is not None:
        report.heatmap(options["heatmap"])
    emit(report, _summary(report), as_json=options["as_json"], quiet=options["quiet"])


def _summary(report: Report) -> str:
    from submerge.errors import listing

    left = [
        f"not in the output, from {gone['model']}: {listing(gone['tensors'])} ({gone['reason']})"
        for gone in report.summary["unused"]
    ]
    return "\n".join([report.table(), *left, f"{report.path}: {report.run.line()}"])


def tell_plan(made: Plan, options: dict[str, Any]) -> None:
    """Print a plan, as text or as JSON."""
    from submerge.run import RunOptions, fit

    run = RunOptions.of(run_arguments(options))
    if options["as_json"]:
        say_json(json.dumps(made.plain(), indent=2, ensure_ascii=False))
    elif not options["quiet"]:
        say(made.describe(fit(made, run)))


def _recipe(sources: Sequence[str], options: dict[str, Any]) -> Recipe:
    """Return the recipe meant: the file, or the models, with the options on top."""
    from submerge.merge import named
    from submerge.recipe import Recipe

    if len(sources) == 1:
        base = Recipe.load(_recipe_source(sources[0])).to_dict()
    else:
        base = {"models": named(sources)}
    return Recipe.load(_on_top(base, options)) if _changed(options) else Recipe.load(base)


def _recipe_source(source: str) -> Any:
    """Return the one argument as a recipe, `-` for standard input.

    A model alone is a mistake, unless submerge wrote it and its recipe with it.
    """
    if source == "-":
        return sys.stdin.read() + "\n"
    from submerge.checkpoint import open_checkpoint
    from submerge.recipe.saved import KEY, is_checkpoint

    path = Path(source)
    if is_checkpoint(path) and KEY not in open_checkpoint(path).files[0].metadata:
        raise click.UsageError(
            f"`{source}` is one model, expected two models, a recipe, or an output of submerge, "
            "which carries its recipe"
            "\nhint: `submerge convert` writes one model in another layout or dtype"
        )
    return path


def _changed(options: dict[str, Any]) -> bool:
    names = ("alpha", "sets", "takes", "guidance", "extras", "loras", "allow")
    return bool(given({name: options.get(name) for name in (*names, *_OUTPUT_FIELDS)}))


def _on_top(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's plain form with the options laid over it; their rules go first."""
    recipe = dict(base)
    if options["alpha"] is not None:
        for name in ("method", "weight", "take"):
            recipe.pop(name, None)
        recipe["alpha"] = options["alpha"]
    rules: list[dict[str, Any]] = [
        {"where": _split(t, "--take")[0], "take": _split(t, "--take")[1]} for t in options["takes"]
    ]
    for text in options["sets"]:
        where, alpha = _split(text, "--set")
        rules.append({"where": where, "alpha": number_or_range(alpha, text, "--set")})
    if rules:
        recipe["rules"] = [*rules, *recipe.get("rules", ())]
    if options["guidance"] is not None:
        recipe["guidance"] = _guidance(options["guidance"])
    if options["extras"] is not None:
        recipe["extras"] = options["extras"]
    if adapters := adapters_of(options["loras"], options["allow"]):
        recipe["adapters"] = [*recipe.get("adapters", ()), *adapters]
    if fields := _output_fields(options):
        recipe["output"] = recipe.get("output", {}) | fields
    return recipe


def _output_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the output that were given, as recipes call them."""
    return {
        name.rstrip("_"): value
        for name, value in given({name: options.get(name) for name in _OUTPUT_FIELDS}).items()
    }


def _split(text: str, option: str) -> tuple[str, str]:
    where, equals, value = text.rpartition("=")
    if not equals:
        raise click.BadParameter(f"expected SELECTOR=VALUE, got `{text}`", param_hint=option)
    return where.strip(), value.strip()


def _guidance(text: str) -> str | dict[str, float]:
    policy, equals, value = text.partition("=")
    if not equals:
        return text
    try:
        return {policy: float(value)}
    except ValueError:
        raise click.BadParameter(
            f"expected bake=VALUE or scale=SHARE, got `{text}`", param_hint="--guidance"
        ) from None
