"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import click

from submerge.cli.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from submerge.run import RunArguments

__all__ = [
    "adapters_of",
    "allowing",
    "as_json",
    "by_part",
    "check_heatmap",
    "embedded",
    "emit",
    "for_reader",
    "given",
    "heatmap",
    "loras",
    "number_format",
    "number_or_range",
    "nvfp4",
    "output",
    "quantized",
    "quiet",
    "reading",
    "run_arguments",
    "shape",
    "writing",
]

F = TypeVar("F", bound="Callable[..., Any]")

LAYOUTS = ("same", "diffusers", "bfl", "comfy")
# Not imported, so that help stays quick; a test compares them with the tables.
FORMATS = (
    "same", "f32", "f16", "bf16", "fp8", "f8_e4m3", "f8_e5m2", "fp8_scaled", "int8_convrot",
    "mxfp8", "nvfp4", "fp8_row", "sdnq_int8", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k",
    "q5_k", "q6_k",
)  # fmt: skip
READERS = ("comfyui", "diffusers", "sdcpp", "gguf")


class _Told(Protocol):
    """Anything a command can print: as JSON for programs, as text for people."""

    def to_json(self) -> str: ...


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
by_part = click.option(
    "--by",
    type=click.Choice(["part", "block"]),
    default="part",
    show_default=True,
    help="A line for each part of a stack, or for each block.",
)
heatmap = click.option(
    "--heatmap",
    type=click.Path(dir_okay=False),
    metavar="FILE.svg|FILE.png",
    help="Draw blocks against parts.",
)
quantized = click.option(
    "--quantization",
    type=click.Choice(["auto", "fp8", "int8", "int4"]),
    help="Store the transformer's layers so in memory; auto only where the budget asks for it.",
)
embedded = click.option(
    "--embeddings",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Keep prompt embeddings here; prompts that are there need no text encoder.",
)
for_reader = click.option(
    "--for",
    "for_",
    type=click.Choice(READERS),
    help="The program that is to read it: chooses layout and number format where they are left"
    " out.",
)
number_format = click.option(
    "--dtype",
    type=click.Choice(FORMATS),
    metavar="NAME",
    help="Number format: bf16, f16, f32, fp8, fp8_scaled, int8_convrot, q8_0, ...; same is the"
    " models'.  [default: same]",
)
output = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    help="The .safetensors or .gguf file to write, or the folder for shards or a pipeline.",
)


def reading(command: F) -> F:
    """Add the options of every command that reads tensors."""
    for option in (
        click.option("--isa", hidden=True),
        click.option(
            "--io",
            type=click.Choice(["auto", "mmap", "pread"]),
            help="How files are read; auto is what was fastest: pread.  [default: auto]",
        ),
        click.option("--chunk", hidden=True),
        click.option(
            "--memory-budget",
            metavar="SIZE",
            help="Working memory.  [default: 64MiB, for whole matrices up to 512MiB]",
        ),
        click.option(
            "--threads", type=click.IntRange(1, 4096), help="Threads.  [default: all cores]"
        ),
    ):
        command = option(command)
    return command


nvfp4 = click.option(
    "--nvfp4",
    type=click.Choice(["auto", "comfy", "bfl"]),
    default="auto",
    show_default=True,
    help="Whose NVFP4 codes a model has, where its file does not say.",
)


def writing(command: F) -> F:
    """Add the options of every command that writes a model, those for reading among them."""
    option = click.option(
        "--stats/--no-stats",
        default=None,
        help="Measure the models on the way.  [default: stats]",
    )
    return making(option(command))


def making(command: F) -> F:
    """Add the options of every command that writes tensors, those for reading among them."""
    for option in (
        click.option(
            "--statistics-cache",
            metavar="DIR|off",
            help="Where to keep statistics of whole tensors, for later merges of the same"
            " files.  [default: in the user's cache directory]",
        ),
        click.option("--overwrite", is_flag=True, default=None, help="Replace an existing output."),
        click.option(
            "--cache",
            type=click.Choice(["drop", "keep"]),
            help="Keep the output in the page cache for a program that loads it next."
            "  [default: drop]",
        ),
    ):
        command = option(command)
    return reading(command)


def shape(command: F) -> F:
    """Add the options that say what the output looks like."""
    for option in (
        click.option(
            "--extras", metavar="MODEL|drop", help="Whose VAE and text encoders to carry."
        ),
        click.option("--shard-size", metavar="SIZE", help="Largest file, as in 10GB."),
        number_format,
        for_reader,
        click.option(
            "--layout",
            type=click.Choice(LAYOUTS),
            help="Names and files; same is the first model's.  [default: same]",
        ),
    ):
        command = option(command)
    return command


_RUN = (
    "threads", "memory_budget", "chunk", "io", "isa", "cache", "overwrite", "stats",
    "statistics_cache",
)  # fmt: skip


allowing = click.option(
    "--allow",
    multiple=True,
    metavar="KEY",
    help="A key of an adapter, or a pattern with *, that may have no place in the model."
    " Repeatable.",
)


def loras(command: F) -> F:
    """Add the options for adapters."""
    return click.option(
        "--lora",
        "loras",
        multiple=True,
        metavar="FILE[=SCALE][@MODEL]",
        help="Fuse a LoRA or another adapter: at a strength, `0.8` or `0.3..0.8` over the blocks,"
        " onto one model or, without a name, onto the result. Repeatable.",
    )(allowing(command))


def adapters_of(
    texts: Sequence[str], allow: Sequence[str], option: str = "--lora"
) -> list[dict[str, Any]]:
    """Return adapters as a recipe has them; a text that is a file's name is that file."""
    if allow and not texts:
        raise click.UsageError(f"--allow speaks of adapters, expected {option} beside it")
    more: dict[str, Any] = {"allow": list(allow)} if allow else {}
    found = []
    for text in texts:
        fields: dict[str, Any] = {}
        path = text
        if not os.path.exists(path):  # noqa: PTH110 - a text that is no path raises nothing
            head, at, model = path.rpartition("@")
            if at and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", model):
                path, fields["onto"] = head, model
        if not os.path.exists(path):  # noqa: PTH110
            head, equals, scale = path.rpartition("=")
            if equals:
                path, fields["scale"] = head, number_or_range(scale, text, option)
                _expect_model_last(path, scale, text, option)
        found.append({"path": path, **fields, **more})
    return found


def _expect_model_last(path: str, scale: str, text: str, option: str) -> None:
    """Refuse `FILE@MODEL=SCALE`, which would be a file of that name that is not there."""
    file, _, model = path.rpartition("@")
    if file and not os.path.exists(path) and os.path.exists(file):  # noqa: PTH110
        raise click.BadParameter(
            f"expected the model last, got `{text}`: write `{file}={scale}@{model}`",
            param_hint=option,
        )


def number_or_range(value: str, text: str, option: str) -> float | dict[str, float]:
    """Return `0.3`, or `0.3..0.8` as a gradient; `text` is what was written."""
    start, dots, end = value.partition("..")
    try:
        return {"from": float(start), "to": float(end)} if dots else float(value)
    except ValueError:
        raise click.BadParameter(
            f"expected NUMBER or FROM..TO after `=`, got `{text}`", param_hint=option
        ) from None


def run_arguments(options: Mapping[str, Any], **more: Any) -> RunArguments:
    """Return how to run, from a command's options; those not given keep their defaults."""
    return cast("RunArguments", given({name: options.get(name) for name in _RUN} | more))


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None and value != ()}


def emit(told: _Told, text: str, *, as_json: bool, quiet: bool) -> None:
    """Print a result on standard output: as JSON, as text, or not at all."""
    if as_json:
        say_json(told.to_json())
    elif not quiet:
        say(text)


def check_heatmap(path: str | None) -> None:
    """Refuse what cannot be drawn before anything is read."""
    from submerge.pictures.canvas import require_pillow

    if path is None:
        return
    if not path.lower().endswith((".svg", ".png")):
        raise click.BadParameter(
            f"expected a name ending in .svg or .png, got `{path}`", param_hint="--heatmap"
        )
    if path.lower().endswith(".png"):
        require_pillow()
