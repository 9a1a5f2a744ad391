"""One model and its adapters, as one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.names import is_one_file
from submerge.files import expanded, path_of
from submerge.merge import carry_out, plan, single_model_recipe
from submerge.run import RunArguments, RunOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from submerge.recipe import Recipe
    from submerge.report import Report

__all__ = ["bake", "baked_recipe"]


def bake(
    model: str | os.PathLike[str],
    adapters: Sequence[str | Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    layout: str = "same",
    dtype: str = "same",
    **run: Unpack[RunArguments],
) -> Report:
    """Write a model with adapters fused in; raises what `merge` raises.

    Every element is one sum in f32, rounded once: `model + scale * alpha / rank * up @ down + ...`.

    Args:
        model: a checkpoint file or folder. Of a pipeline folder the rest is taken over when
            `output` is a folder.
        adapters: paths, or `{"path", "scale", "compat", "allow"}` as in a recipe, added in order.
        output: a `.safetensors` file, or a folder.
        layout: as for `convert`.
        dtype: as for `convert`.
        **run: how to run, see `RunOptions`.
    """
    options = RunOptions.of(run)
    recipe = baked_recipe(model, adapters, output, {"layout": layout, "dtype": dtype})
    return carry_out(plan(recipe, output), options)


def baked_recipe(
    model: str | os.PathLike[str],
    adapters: Sequence[str | Mapping[str, Any]],
    output: str | os.PathLike[str],
    fields: Mapping[str, Any],
) -> Recipe:
    """Return the recipe of `bake`; `fields` are those of its output."""
    recipe = single_model_recipe(model, fields, adapters=adapters)
    pipeline = open_checkpoint(expanded(path_of(model, "model"))).form == "pipeline"
    if pipeline and not is_one_file(Path(path_of(output, "output"))):
        (name,) = recipe.models
        return single_model_recipe(model, {"pipeline_from": name, **fields}, adapters=adapters)
    return recipe
