"""The verbs that write: merge, convert, and the plan either would carry out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.adapters import open_adapter
from submerge.checkpoint import open_checkpoint
from submerge.files import expanded, path_of
from submerge.layout import identify
from submerge.plan import Plan, compile_plan
from submerge.recipe import Recipe
from submerge.report import Report
from submerge.run import RunArguments, RunOptions, build_info, execute, expect_finite_adapters

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Unpack

__all__ = [
    "MergedModel",
    "carry_out",
    "convert",
    "merge",
    "merge_flux_models",
    "named",
    "plan",
    "single_model_recipe",
]

# Names of files and folders that say nothing about the model in them.
_ANONYMOUS = {"", "diffusion_pytorch_model", "flux", "model", "transformer"}
_RESERVED = {"default", "drop", "same"}


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A merged model on disk.

    Attributes:
        path: the file or folder written.
        report: what the merge did.
        recipe: the recipe it was made from.
    """

    path: Path
    report: Report
    recipe: Recipe

    def __repr__(self) -> str:
        return f"<MergedModel {str(self.path)!r} of {' and '.join(self.recipe.models)}>"

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it."""
        return self.report._repr_html_()


def plan(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    output: str | os.PathLike[str],
) -> Plan:
    """Return what merging `recipe` into `output` would do, reading headers only.

    Args:
        recipe: a YAML or JSON file, its text, a dict, or a `Recipe`.
        output: a `.safetensors` or `.gguf` file, or a folder for shards or a pipeline.

    Raises:
        RecipeError: the recipe is malformed or does not fit the models.
        CheckpointError, LayoutError: an input is damaged or not a model that can be merged.
        AdapterError: an adapter does not fit the model it is for.
        OSError: an input cannot be read.
    """
    loaded = Recipe.load(recipe)
    models = {
        name: identify(
            open_checkpoint(expanded(source.path)), layout=source.layout, nvfp4=source.nvfp4
        )
        for name, source in loaded.models.items()
    }
    adapters = [open_adapter(source.path) for source in loaded.adapters]
    return compile_plan(loaded, models, path_of(output, "output"), adapters)


def merge(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    output: str | os.PathLike[str],
    **run: Unpack[RunArguments],
) -> Report:
    """Merge the models of `recipe` into `output`, which appears complete or not at all.

    Args:
        recipe: as for `plan`.
        output: as for `plan`.
        **run: how to run, see `RunOptions`; decides no byte of the output.

    Raises:
        RecipeError, CheckpointError, LayoutError, AdapterError: as `plan`, before anything is
            written; the last also where numbers of an adapter are not finite.
        PlanError: a file changed since the plan was made, or the output is in the way.
        Cancelled: the run was cancelled; nothing is left behind.
        OSError: reading or writing failed, or the disk has too little space.
    """
    options = RunOptions.of(run)
    return carry_out(plan(recipe, output), options)


def convert(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    layout: str = "same",
    dtype: str = "same",
    adapters: Sequence[str | Mapping[str, Any]] = (),
    nvfp4: str = "auto",
    **run: Unpack[RunArguments],
) -> Report:
    """Write a model in another layout or dtype; raises what `merge` raises.

    Args:
        model: a checkpoint file or folder.
        output: a `.safetensors` file, or a folder for shards.
        layout: `diffusers`, `bfl`, `comfy`, or `same` as the model.
        dtype: a number format, `bf16`, `fp8_scaled` or `q8_0` say (docs/outputs.md lists them), or
            `same` as the model, tensor by tensor.
        adapters: what is fused into it: paths, or `{"path", "scale", ...}` as in a recipe.
        nvfp4: whose NVFP4 codes it has, where the file does not say: `comfy` or `bfl`.
        **run: how to run, see `RunOptions`.
    """
    options = RunOptions.of(run)
    output_fields = {"layout": layout, "dtype": dtype}
    recipe = single_model_recipe(model, output_fields, adapters=adapters, nvfp4=nvfp4)
    return carry_out(plan(recipe, output), options)


def merge_flux_models(
    model_a: str | os.PathLike[str],
    model_b: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    adapters: Sequence[str | Mapping[str, Any]] = (),
    **run: Unpack[RunArguments],
) -> MergedModel:
    """Merge two FLUX checkpoints.

    Args:
        model_a: the first model, a file or folder; its layout and dtype are the output's.
        model_b: the second model; every `alpha` is its share.
        config: the fields of a recipe without `models`, `{"alpha": 0.5}` say, or a file with them.
            A dict may also name the `output_path`; the default is a folder in the current
            directory named after the two models, `schnell-krea`. Models are called by the names
            of their files or folders.
        adapters: LoRAs and others, after those of the configuration: paths, or `{"path", "onto",
            "scale", ...}` as in a recipe.
        **run: how to run, see `RunOptions`.

    Raises:
        SubmergeError, OSError: as `merge`.
    """
    options = RunOptions.of(run)
    models = named([model_a, model_b])
    output: object = None
    if isinstance(config, Mapping):
        config = dict(config)
        output = config.pop("output_path", None)
    path = Path("-".join(models)) if output is None else path_of(output, "config.output_path")
    recipe = Recipe.for_models(models, config).with_adapters(adapters)
    report = carry_out(plan(recipe, path), options)
    return MergedModel(path, report, recipe)


def carry_out(made: Plan, options: RunOptions) -> Report:
    """Write what a plan describes and report what was done; raises what `merge` raises."""
    expect_finite_adapters(made.factors, options)
    return Report.of(made, execute(made, options, "write"), build_info())


def single_model_recipe(
    model: str | os.PathLike[str],
    output: Mapping[str, Any] | None = None,
    *,
    layout: str = "auto",
    nvfp4: str = "auto",
    extras: str | None = None,
    adapters: Sequence[str | Mapping[str, Any]] = (),
) -> Recipe:
    """Return the recipe that takes one model as it is, with adapters on it.

    `output` holds the recipe's output fields, `layout` and `nvfp4` are what to expect of the model,
    and `extras` is `drop` to leave a VAE and text encoders in the same file behind.
    """
    ((name, path),) = named([model]).items()
    source = {"path": path, "layout": layout, "nvfp4": nvfp4}
    recipe = {"models": {name: source}, "take": name, "extras": extras or name}
    return Recipe.load(recipe | {"output": dict(output or {})}).with_adapters(adapters)


def named(paths: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """Name models after their files or folders: `{"schnell": "models/schnell/"}`.

    Models whose names would be equal or say nothing become `a`, `b`, ...
    """
    names = [_name(path_of(path, "model")) for path in paths]
    letters = [chr(ord("a") + i) for i in range(len(paths))]
    plain = [
        letter if not name or names.count(name) > 1 else name
        for name, letter in zip(names, letters, strict=True)
    ]
    if len(set(plain)) < len(plain):
        plain = letters
    return {name: str(path) for name, path in zip(plain, paths, strict=True)}


def _name(path: Path) -> str:
    """Return what a model's path calls it, in the letters a recipe allows, or nothing."""
    absolute = path.absolute()
    stems = [re.sub(r"(\.safetensors(\.index\.json)?|\.sft|\.gguf)$", "", absolute.name)]
    stems += [folder.name for folder in absolute.parents]
    for stem in stems[:3]:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")
        name = re.sub(r"_(bfl|diffusers|comfy)$", "", name)
        if name.lower() not in _ANONYMOUS | _RESERVED:
            return name if re.match(r"[A-Za-z_]", name) else f"model_{name}"
    return ""
