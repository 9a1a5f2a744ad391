"""Tensors that are not rows of their files as they are: made by the core, as a merge would."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.dtypes import WORDS
from submerge.layout import generic
from submerge.merge import single_model_recipe
from submerge.opened import Opened
from submerge.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from submerge.checkpoint import Checkpoint
    from submerge.layout import Model
    from submerge.plan.adapted import Fused

__all__ = ["of_component", "of_transformer"]

# What a plan would be written to; nothing is.
_NOWHERE = Path("painted.safetensors")


def of_transformer(
    model: Model,
    dtype: str,
    adapters: Sequence[Fused] = (),
    given: Sequence[str | Mapping[str, Any]] = (),
) -> Opened:
    """Return a transformer in diffusers' names and a dtype.

    Args:
        model: the transformer.
        dtype: as torch writes it: `bfloat16`, `float16` or `float32`.
        adapters: what is added to it.
        given: the same as it was asked for.

    Raises:
        AdapterError: an adapter holds numbers that are not finite.
        OSError: a file cannot be read.
    """
    extras = "drop" if model.extras else None
    wanted = {"layout": "diffusers", "dtype": WORDS[dtype].lower()}
    recipe = single_model_recipe(model.checkpoint.path, wanted, extras=extras, adapters=given)
    models = dict.fromkeys(recipe.models, model)
    return Opened(compile_plan(recipe, models, _NOWHERE, [a.adapter for a in adapters]))


def of_component(checkpoint: Checkpoint, names: Collection[str], dtype: str) -> Opened:
    """Return tensors of a component by their names, in a dtype.

    Args:
        checkpoint: its tensors as the numbers that they stand for.
        names: those that are wanted.
        dtype: as torch writes it.

    Raises:
        OSError: a file cannot be read.
    """
    wanted = {"dtype": WORDS[dtype].lower()}
    recipe = single_model_recipe(checkpoint.path, wanted, layout="generic")
    tensors = {name: info for name, info in checkpoint.tensors.items() if name in names}
    part = checkpoint._replace(tensors=MappingProxyType(tensors))
    models = dict.fromkeys(recipe.models, generic.identify(part, part))
    return Opened(compile_plan(recipe, models, _NOWHERE))
