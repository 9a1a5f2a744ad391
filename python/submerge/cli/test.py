"""Paint with a merge and its parents, and judge it beside them: test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from submerge.cli.options import as_json, embedded, given, quantized, quiet
from submerge.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable

# What `--sweep` tries, besides the guidance it paints with anyway.
_SWEEP_STEPS = (1, 2, 4, 8, 20, 28)
_SWEEP_GUIDANCE = (1.0, 2.5, 3.5, 4.5, 6.0)
_LOADING = ("device", "dtype", "memory_budget", "quantization", "components", "embeddings")


def _numbers(kind: type[int | float]) -> Callable[..., tuple[int | float, ...] | None]:
    """Read numbers with commas between them."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else tuple(kind(part) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(f"expected numbers with commas between: {error}") from None

    return read


def _pixels(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Read `1024`, or width and height as `1024x768`."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", value)
    if match is None:
        raise click.BadParameter(f"expected `1024` or `1024x768`, got `{value}`")
    return int(match[1]), int(match[2] or match[1])


@click.command()
@click.argument("merge", type=click.Path())
@click.option("--parents", nargs=2, type=click.Path(), metavar="A B", help="The two parents.")
@click.option("--parent", multiple=True, type=click.Path(), help="A parent; may be repeated.")
@click.option("-o", "--output", required=True, type=click.Path(), help="The folder to write.")
@click.option("--prompts", type=click.Path(), help="JSON Lines, or one prompt a line.")
@click.option("--tag", multiple=True, help="Only prompts with this tag; may be repeated.")
@click.option(
    "--seeds",
    metavar="N,N,...",
    callback=_numbers(int),
    help="Seeds of every prompt.  [default: 0,1]",
)
@click.option("--steps", type=int, help="Denoising steps.  [default: what suits the merge]")
@click.option("--guidance", type=float, help="Guidance.  [default: what suits the merge]")
@click.option("--size", metavar="SIZE", callback=_pixels, help="Pixels, as in 768 or 1024x768.")
@click.option("--native", is_flag=True, help="Paint by each model's own defaults.")
@click.option("--sweep", is_flag=True, help="Try steps 1 to 28 and guidance 1 to 6 as well.")
@click.option("--scorer", multiple=True, metavar="NAME[=PATH]", help="As in clip=PATH.")
@click.option("--references", type=click.Path(), help="A folder with <id>.png as ground truth.")
@click.option(
    "--blur-unsafe",
    is_flag=True,
    help="Blur images that the safety classifier flags.",
)
@click.option("--device", help="cpu, cuda, mps, ...  [default: what is there]")
@click.option("--dtype", type=click.Choice(["bf16", "f16", "f32"]), help="To compute in.")
@click.option(
    "--memory-budget", metavar="SIZE", help="Of the device, as in 12GB.  [default: what is free]"
)
@quantized
@embedded
@click.option("--components", type=click.Path(), help="A pipeline for a transformer alone.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 when a verdict is bad.")
@as_json
@quiet
def test(merge: str, **options: Any) -> int:
    """Paint with MERGE and its parents, and judge it beside them.

    The same prompts, seeds and start latents go through every model. Writes the images and
    evaluation.json; a second run into the same folder paints only what is missing.
    """
    from submerge.cli import NOT_PASSED, OK
    from submerge.cli.options import emit
    from submerge.evaluate import EvaluateOptions, evaluate_guidance

    found = evaluate_guidance(
        merge,
        _prompts(options),
        options["references"],
        parents=[*(options["parents"] or ()), *options["parent"]],
        scorers=["auto", *options["scorer"]],
        options=EvaluateOptions.of(_painting(options)),
        load=given({name: options[name] for name in _LOADING}),
        output=options["output"],
        notify=_silent if options["quiet"] else _told,
    )
    emit(found, found.table(), as_json=options["as_json"], quiet=options["quiet"])
    bad = any(question.verdict == "bad" for question in found.questions)
    return NOT_PASSED if options["exit_code"] and bad else OK


def _prompts(options: dict[str, Any]) -> Any:
    """Return the prompts with one of the tags asked for, or all."""
    from submerge.errors import RecipeError, listing
    from submerge.evaluate.prompts import prompts_of

    prompts = prompts_of(options["prompts"])
    wanted = set(options["tag"])
    known = sorted({tag for prompt in prompts for tag in prompt.tags})
    if unknown := sorted(wanted - set(known)):
        raise RecipeError(
            f"--tag: no prompt has {listing(unknown, noun='tag')}",
            hint=f"the prompts have {listing(known, noun='tag')}",
        )
    return [prompt for prompt in prompts if not wanted or wanted & set(prompt.tags)]


def _painting(options: dict[str, Any]) -> dict[str, Any]:
    width, height = options["size"] or (None, None)
    grid = {"sweep_steps": _SWEEP_STEPS, "sweep_guidance": _SWEEP_GUIDANCE}
    return given(
        {
            **{name: options[name] for name in ("seeds", "steps", "guidance")},
            "width": width,
            "height": height,
            "settings": "native" if options["native"] else "common",
            "blur_unsafe": options["blur_unsafe"],
            **(grid if options["sweep"] else {}),
        }
    )


def _told(line: str) -> None:
    say(line, err=True)


def _silent(_: str) -> None:
    return None
