"""The command that paints: generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from submerge.cli.options import adapters_of, allowing, as_json, embedded, given, quantized, quiet
from submerge.cli.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from submerge.inference import InferenceResult

_OPTIONS = (
    "steps",
    "guidance",
    "negative_prompt",
    "true_cfg",
    "seed",
    "images_per_prompt",
    "batch",
    "max_sequence_length",
    "shift",
)
LOADING = ("device", "dtype", "quantization", "components", "embeddings", "batch")


def loading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a model is loaded."""
    for option in (
        embedded,
        quantized,
        allowing,
        click.option(
            "--fuse",
            "fused",
            multiple=True,
            metavar="FILE[=SCALE]",
            help="Add a LoRA or another adapter to the weights as they are read: any format, at a"
            " strength, `0.8` or `0.3..0.8` over the blocks. Repeatable.",
        ),
        click.option("--dtype", help="bf16, f16 or f32.  [default: the model's own]"),
        click.option("--device", help="cpu, cuda, mps, ...  [default: what torch finds]"),
        click.option(
            "--memory-budget",
            metavar="SIZE",
            help="The most to use: 12GB of the device's memory, or vram=12GB,ram=16GB.",
        ),
        click.option(
            "--components",
            type=click.Path(),
            help="The pipeline to take text encoders, tokenizers, VAE and scheduler from.",
        ),
    ):
        command = option(command)
    return command


def painting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how images are painted."""
    for option in (
        click.option(
            "--lora",
            "loras",
            multiple=True,
            metavar="FILE[=SCALE]",
            help="Put a LoRA on top, as diffusers reads it; see --fuse. Repeatable.",
        ),
        click.option("--shift", type=float, help="A fixed timestep shift."),
        click.option(
            "--max-sequence-length",
            type=click.IntRange(1, 512),
            help="Text tokens.  [default: 512, 256 without guidance]",
        ),
        click.option("--batch", type=click.IntRange(1), help="Images at a time.  [default: 1]"),
        click.option("--size", metavar="WIDTHxHEIGHT", help="Pixels.  [default: 1024x1024]"),
        click.option(
            "-n",
            "--images",
            "images_per_prompt",
            type=click.IntRange(1),
            help="Images of each prompt, with the seeds that follow.  [default: 1]",
        ),
        click.option("--seed", type=click.IntRange(0), help="Of the first image.  [default: 0]"),
        click.option("--true-cfg", type=float, help="Classifier-free guidance; twice the time."),
        click.option("--negative-prompt", help="What not to paint; needs --true-cfg."),
        click.option("--guidance", type=float, help="Distilled guidance.  [default: 3.5]"),
        click.option("--steps", type=click.IntRange(1), help="[default: what fits the model]"),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model", metavar="MODEL")
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
    default="images",
    show_default=True,
    help="The folder to write PNGs into; those already there are not painted again.",
)
@painting
@loading
@click.option("--plan", "only_plan", is_flag=True, help="Print how it would be loaded, and stop.")
@as_json
@quiet
def generate(model: str, **options: Any) -> int:
    """Paint images with MODEL.

    \b
    submerge generate merged/ -p "a fox in snow" --steps 8 --seed 7 -o images/
    submerge generate merged.safetensors --components schnell/ --prompts prompts.txt
    submerge generate merged/ --memory-budget 12GB --plan
    """
    from submerge.cli import INTERRUPTED, OK
    from submerge.inference import InferenceOptions, load_model, plan_loading, run_inference
    from submerge.progress import bar

    how_to = InferenceOptions.of(asked(options))
    how = given({name: options.get(name) for name in LOADING}) | _sides(options["size"])
    how["memory_budget"] = budget(options["memory_budget"])
    if adapters := adapters_of(options["fused"], options["allow"], "--fuse"):
        how["adapters"] = adapters
    if options["only_plan"]:
        made = plan_loading(model, **how)
        say_json(json.dumps(made.to_dict(), indent=2) if options["as_json"] else made.describe())
        return OK
    prompts = texts(options["prompts"], options["file"])
    folder = options["output"]
    try:
        with (
            load_model(model, **how) as loaded,
            bar("painting", quiet=options["quiet"], steps=True) as progress,
        ):
            result = run_inference(loaded, prompts, how_to, output=folder, callback=progress)
    except KeyboardInterrupt:
        say(f"stopped: `{folder}` keeps what is painted; run again to go on", err=True)
        return INTERRUPTED
    _tell(result, options)
    return OK


def budget(text: str | None) -> str | dict[str, str] | None:
    """Return a memory budget as `load_model` takes it."""
    if text is None or "=" not in text:
        return text
    pools = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return {name.strip(): value.strip() for name, value in pools.items()}


def asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `run_inference` that were given."""
    chosen = given({name: options.get(name) for name in _OPTIONS}) | _sides(options["size"])
    loras: dict[str, float] = {}
    for text in options["loras"]:
        path, equals, scale = text.rpartition("=")
        try:
            loras[path if equals else text] = float(scale) if equals else 1.0
        except ValueError:
            raise click.BadParameter(
                f"expected FILE or FILE=SCALE, got `{text}`", param_hint="--lora"
            ) from None
    return chosen | ({"loras": loras} if loras else {})


def _sides(size: str | None) -> dict[str, int]:
    if size is None:
        return {}
    width, _, height = size.lower().partition("x")
    try:
        return {"width": int(width), "height": int(height or width)}
    except ValueError:
        raise click.BadParameter(
            f"expected WIDTHxHEIGHT, got `{size}`", param_hint="--size"
        ) from None


def texts(prompts: Sequence[str], file: str | None) -> list[str]:
    """Return the prompts given and those of a file, one a line."""
    try:
        lines = [] if file is None else Path(file).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise click.UsageError(f"{file}: expected prompts as UTF-8 text, got other bytes") from None
    found = [*prompts, *(line for line in lines if line.strip())]
    if not found:
        raise click.UsageError("expected a prompt\nhint: --prompt 'a fox in snow'")
    return found


def _tell(result: InferenceResult, options: Mapping[str, Any]) -> None:
    if options["as_json"]:
        say_json(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
        return
    if options["quiet"]:
        return
    for note in result.notes:
        say(note, err=True)
    for image in result:
        say(image.path)
    phases = "; ".join(_phase(result, name) for name in result.phases)
    say(f"{len(result)} images, {result.resumed} of them already there; {phases}", err=True)


def _phase(result: InferenceResult, name: str) -> str:
    """Return what a phase took: `denoise 3.1 s, rss 2.4 GB`."""
    from submerge.plan.sizes import bytes_in_words

    most = result.memory.get(name, {})
    held = [
        f"{kind} {bytes_in_words(size)}" for kind in ("rss", "vram") if (size := most.get(kind))
    ]
    return ", ".join([f"{name} {result.phases[name]:.1f} s", *held])
