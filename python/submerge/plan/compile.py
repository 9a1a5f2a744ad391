"""From what the user means to what is done: a recipe and opened models become a plan.

Models meet by canonical unit, never by file, shard or tensor name. No tensor is read; apart from
the headers the models carry, only the small files beside them are looked at: model cards and
licences, and the components of a pipeline that is taken over.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from submerge.errors import LayoutError, RecipeError, counted, listing, quoted
from submerge.plan.about import Draft, about, beside, remarks
from submerge.plan.decide import Decided, decide, union
from submerge.plan.fill import Filled, Filler
from submerge.plan.form import OutFile, Plan
from submerge.plan.guidance import BAKED_INTO, Settled, is_guidance, settle
from submerge.plan.output import Shape, Tensor, laid_out, place, shape_of
from submerge.plan.pipeline import take_over
from submerge.plan.provenance import metadata
from submerge.plan.scope import spanned
from submerge.plan.unused import list_unused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.layout import Architecture, Model
    from submerge.recipe import Recipe

__all__ = ["agree", "compile_plan"]

# What must be equal for block i of one model to be block i of another; channels are a matter of
# single tensors, guidance of a policy.
_SIGNATURE = (
    "family",
    "double",
    "single",
    "hidden",
    "head_dim",
    "mlp",
    "context_dim",
    "pooled_dim",
    "axes_dims_rope",
)


def compile_plan(recipe: Recipe, models: Mapping[str, Model], target: Path) -> Plan:
    """Return what merging the models into `target` takes.

    Args:
        recipe: what is meant.
        models: the opened models, by the recipe's names.
        target: a path ending in `.safetensors` for one file, else a folder.

    Raises:
        RecipeError: the recipe does not fit the models or contradicts itself.
        LayoutError: the models cannot be merged with each other, or not into that layout, or have
            no whole tensors in common that a scope speaks of.
        CheckpointError: a pipeline to take over is damaged.
        OSError: a file of a pipeline cannot be read.
    """
    models = {name: models[name] for name in recipe.models}
    agree(models)
    target = Path(os.path.abspath(target))  # noqa: PTH100 - symlinks stay what the user named
    shape = shape_of(recipe.output, next(iter(models.values())), target)
    owner = _extras_owner(recipe, models, shape)
    filler = Filler(models)
    decided = decide(recipe, union(models))
    settled = settle(recipe, models, decided.choices)
    filled = _fill(filler, decided, settled)
    arch = _architecture(next(iter(models.values())).arch, filled, settled)
    tensors = laid_out(shape, arch, filled, recipe.output.dtype)
    if recipe.scope == "tensor":
        tensors = spanned(tensors, models)
    tensors += _extras(filler, owner)
    placed = place(shape, tensors, arch)
    draft = Draft(
        recipe=recipe,
        models=models,
        target=target,
        shape=shape,
        arch=arch,
        placed=placed,
        contributing=_contributing(models, filled, settled),
        guidance=settled.words,
    )
    unused = list_unused(filler, decided, settled, owner, recipe.extras)
    taken = take_over(recipe.output, models, guidance=arch.guidance)
    texts, licences = beside(draft)
    facts = metadata(draft.public, models, arch, draft.words, draft.licence)
    return Plan(
        target=target,
        is_folder=shape.is_folder,
        overflow=recipe.output.overflow,
        sources=tuple(filler.sources.values()),
        files=tuple(OutFile(path, facts) for path in placed.paths),
        texts=(*placed.texts, *taken.texts, *texts),
        copies=(*taken.copies, *licences),
        outputs=placed.outputs,
        units=placed.units,
        about=about(draft)._replace(
            notes=(*decided.notes, *settled.notes, *taken.notes, *remarks(draft, licences)),
            unused=unused,
        ),
        read_bytes=sum(part.nbytes for tensor in tensors for _, part in tensor.parts),
    )


def agree(models: Mapping[str, Model]) -> None:
    """Refuse models of different architectures: equal names and shapes do not make equal blocks.

    Raises:
        LayoutError: naming two models and what differs.
    """
    (first, reference), *others = models.items()
    for name, model in others:
        pairs = [
            (field, getattr(reference.arch, field), getattr(model.arch, field))
            for field in _SIGNATURE
        ]
        differing = [f"{field} {a} and {b}" for field, a, b in pairs if a != b]
        if differing:
            depth = (reference.arch.double, reference.arch.single)
            same_width = reference.arch.hidden == model.arch.hidden
            pruned = same_width and depth != (model.arch.double, model.arch.single)
            raise LayoutError(
                f"models: {quoted(first)} ({reference.variant}) and {quoted(name)} "
                f"({model.variant}) are of different architectures: {', '.join(differing)}",
                hint="a pruned model (Flux.1-lite, Flex.1) has other blocks under the same "
                "numbers; merge it with its own kind"
                if pruned
                else "only models of one architecture can be merged",
            )


def _fill(filler: Filler, decided: Decided, settled: Settled) -> dict[str, Filled]:
    """Return what fills every unit of the output; guidance as it was settled."""
    mlp = None if settled.baked is None else filler.bake(settled.baked, settled.value)
    filled: dict[str, Filled] = {}
    lost: dict[str, LayoutError] = {}
    for unit, decision in decided.choices.items():
        choice = settled.choices.get(unit) if is_guidance(unit) else decision
        # A vector can be added to a sum, not into another formula.
        baked = mlp is not None and unit == BAKED_INTO
        if choice is None:
            continue
        try:
            filled[unit] = (
                filler.fill(unit, choice.summed(), mlp) if baked else filler.fill(unit, choice)
            )
        except LayoutError as error:
            lost[unit] = error
    if lost:
        raise _all_of(lost)
    return filled


def _all_of(lost: Mapping[str, LayoutError]) -> LayoutError:
    """Return what is wrong with the first unit, and which others cannot be filled either."""
    _, *others = lost
    first = next(iter(lost.values()))
    if not others:
        return first
    message = f"{first.message}; nor do {listing(others, noun='more unit')} fit together"
    return LayoutError(message, hint=first.hint)


def _architecture(
    arch: Architecture, filled: Mapping[str, Filled], settled: Settled
) -> Architecture:
    """Return the architecture of the output: the first model's, with what was decided."""
    if arch.family == "generic":
        return arch
    return replace(
        arch,
        guidance=bool(settled.choices),
        in_channels=math.prod(filled["embed.img.weight"].trailing),
        out_channels=filled["final.linear.weight"].rows,
    )


def _contributing(
    models: Mapping[str, Model], filled: Mapping[str, Filled], settled: Settled
) -> frozenset[str]:
    """Return the models that numbers of the transformer come from."""
    names = {model for part in filled.values() for model in part.models if model in models}
    baked = {model for choice in (settled.baked or {}).values() for model in choice.models}
    return frozenset(names | baked)


def _extras_owner(recipe: Recipe, models: Mapping[str, Model], shape: Shape) -> str | None:
    """Return the model whose VAE and text encoders are carried along, if any is.

    Raises:
        RecipeError: several have them, the one named has none, or the output has no place for them.
    """
    having = [name for name, model in models.items() if model.extras]
    if recipe.extras == "drop" or (not having and (recipe.extras is None or len(models) == 1)):
        return None
    if recipe.extras is not None and recipe.extras not in having:
        raise RecipeError(
            f"recipe.extras: {quoted(recipe.extras)} has no tensors outside the transformer",
            hint=f"name {' or '.join(map(quoted, having))}" if having else "leave `extras` out",
        )
    if recipe.extras is None and len(having) > 1:
        raise RecipeError(
            f"recipe.extras: {counted(len(having), 'model')} have tensors outside the transformer "
            f"(VAE, text encoders): {', '.join(map(quoted, having))}, expected one to be named",
            hint=f"write `extras: {having[0]}`, or `extras: drop`",
        )
    owner = recipe.extras or having[0]
    same_form = (models[owner].layout, models[owner].prefix) == (shape.layout, shape.prefix)
    if not shape.carries_extras and (shape.is_folder or not same_form):
        raise RecipeError(
            f"recipe.extras: {quoted(owner)} has {counted(len(models[owner].extras), 'tensor')} "
            f"outside the transformer, for which the layout {quoted(shape.words)} has no place",
            hint="write `extras: drop`, or `output: {layout: comfy}` and a target ending in "
            "`.safetensors`",
        )
    return owner


def _extras(filler: Filler, owner: str | None) -> list[Tensor]:
    """Return the carried tensors as they are: same name, dtype and bytes."""
    if owner is None:
        return []
    model = filler.models[owner]
    tensors = []
    for name in sorted(model.extras):
        info = model.checkpoint.tensors[name]
        tensors.append(Tensor(name, info.dtype, info.shape, ((name, filler.tensor(owner, name)),)))
    return tensors
