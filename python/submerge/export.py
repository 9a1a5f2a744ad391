"""Write a model in the number format that the program it goes to reads.

The formats are those of `submerge.formats.FORMATS`, one table for recipes, `--dtype` and here;
docs/outputs.md says what each is and who reads it. Names that torch has for plain types are taken
too: `bfloat16`, `float8_e4m3fn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.names import container_of
from submerge.errors import CheckpointError, RecipeError, counted, nearest, quoted
from submerge.files import path_of
from submerge.findings import nonfinite_inputs
from submerge.formats import ALIASES, FORMATS
from submerge.inference import LoadedModel
from submerge.layout import identify
from submerge.merge import MergedModel, carry_out, named, plan
from submerge.recipe import Recipe
from submerge.run import RunArguments, RunOptions, execute
from submerge.verify import verify

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, Literal, Unpack

    from submerge.plan import Plan
    from submerge.report import Report

__all__ = ["QUANTIZATIONS", "export_merged_model"]

# What users call the formats -> what a recipe calls them.
QUANTIZATIONS = {
    **{name: name for name in FORMATS},
    **ALIASES,
    **dict.fromkeys(("fp8_e4m3fn", "float8_e4m3fn"), "fp8"),
}


def export_merged_model(
    model: MergedModel | LoadedModel | str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    quantization: str | None = None,
    *,
    reader: Literal["comfyui", "diffusers", "sdcpp", "gguf"] | None = None,
    layout: str = "auto",
    extras: Literal["drop"] | None = None,
    **run: Unpack[RunArguments],
) -> Report:
    """Write a model for another program, and read it back to check every byte.

    Args:
        model: what `merge_flux_models` or `load_model` returned, or a file or folder.
        output_path: a `.safetensors` or `.gguf` file, or a folder. From a pipeline a folder becomes
            a whole pipeline again.
        quantization: one of `QUANTIZATIONS`; None keeps the numbers as they are, or with a `reader`
            is `bf16`, in a GGUF `q8_0`.
        reader: the program it is for, as `output.for` of recipes: what it does not read is refused.
        layout: `bfl`, `comfy`, `diffusers` or `same`; `auto` is `diffusers` for a folder and `bfl`
            for a file, which ComfyUI and diffusers' `from_single_file` read; `comfy` when the model
            is an all-in-one file, whose VAE and text encoders go along as they are.
        extras: `drop` leaves VAE and text encoders of an all-in-one file behind; without it a
            layout that has no place for them is refused.
        **run: how to run, see `RunOptions`; decides no byte of the output.

    Raises:
        RecipeError: a format that is not there, or that does not fit the output.
        CheckpointError, LayoutError: the model is damaged or unknown, or holds numbers that are not
            finite or do not fit the format (before anything is written), or what was written does
            not read back as it should.
        PlanError, Cancelled, OSError: as `merge`.
    """
    options = RunOptions.of(run)
    source = _path(model)
    output = path_of(output_path, "output_path")
    wanted = _output(source, output, quantization, layout)
    if reader is not None:
        wanted["for"] = reader
    if wanted["layout"] == "bfl" and layout == "auto" and extras is None:
        has_place = container_of(output) == "file" and not FORMATS[wanted["dtype"]].codec
        carries = has_place and identify(open_checkpoint(source)).extras
        wanted["layout"] = "comfy" if carries else "bfl"
    recipe = _recipe(source, wanted, extras)
    made = plan(recipe, output_path)
    _refuse_nonfinite(source, made, execute(made, options.with_(stats=True), "measure"))
    report = carry_out(made, options)
    checked = verify(output_path, recipe=recipe, threads=options.threads, cancel=options.cancel)
    # A block of zeros was one before.
    if any(not check.passed for check in checked.checks if check.name != "zeros"):
        raise CheckpointError(
            f"{output_path}: does not read back as it was written: {checked.text()}",
            hint="the disk may be failing; export to another one",
        )
    return report


def _refuse_nonfinite(source: Path, made: Plan, figures: Mapping[str, Any]) -> None:
    """Refuse numbers that would be infinite or NaN in the output; fp8 saturates instead."""
    if spots := nonfinite_inputs(made, figures):
        raise CheckpointError(
            f"{source}: {spots[0]._replace(model='').words('infinite or NaN')}"
            + (f"; so in {counted(len(spots) - 1, 'more unit')}" if len(spots) > 1 else ""),
            hint="a model with such numbers paints noise or black; `submerge verify` counts them",
        )
    units = [(made.units[f["unit"]], f["nonfinite_out"]) for f in figures["units"]]
    over = {unit.name: count for unit, count in units if count}
    if over:
        worst = max(over, key=lambda name: over[name])
        raise CheckpointError(
            f"{source}: {counted(sum(over.values()), 'element')} too large for {made.about.dtype}, "
            f"expected all within its range; {over[worst]:,} of them in {quoted(worst)}",
            hint="bf16 and f32 have the range; fp8 saturates, formats with scales follow it",
        )


def _recipe(source: Path, wanted: dict[str, Any], extras: str | None) -> Recipe:
    """Return the recipe that takes one model into the form asked for."""
    ((label, path),) = named([source]).items()
    recipe = {"models": {label: path}, "take": label, "output": wanted}
    return Recipe.load(recipe | ({} if extras is None else {"extras": extras}))


def _output(source: Path, output: Path, quantization: str | None, layout: str) -> dict[str, Any]:
    """Return the recipe's output fields."""
    name = (quantization or "same").lower()
    if name not in QUANTIZATIONS:
        close = nearest(name, QUANTIZATIONS)
        known = ", ".join(dict.fromkeys(QUANTIZATIONS.values()))
        raise RecipeError(
            f"quantization: expected one of {known}, got {quoted(name)}",
            hint=f"did you mean {quoted(close[0])}?"
            if close
            else "docs/outputs.md says what each is",
        )
    is_folder = container_of(output) == "folder"
    wanted: dict[str, Any] = {"dtype": QUANTIZATIONS[name]}
    wanted["layout"] = layout if layout != "auto" else "diffusers" if is_folder else "bfl"
    if is_folder and wanted["layout"] == "diffusers":
        pipeline = open_checkpoint(source).pipeline
        wanted |= {} if pipeline is None else {"pipeline_from": str(pipeline.absolute())}
    return wanted


def _path(model: MergedModel | LoadedModel | str | os.PathLike[str]) -> Path:
    if isinstance(model, MergedModel):
        return model.path
    return model.source if isinstance(model, LoadedModel) else path_of(model, "model")
