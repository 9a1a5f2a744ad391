"""From what the user means to what is done: a recipe and opened models become a plan.

Models meet by canonical unit, never by file, shard or tensor name. No tensor is read; apart from
the headers the models carry, only the small files beside them are looked at: model cards and
licences, and the components of a pipeline that is taken over.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.marks import description_of
from submerge.errors import LayoutError, RecipeError, counted, listing, quoted
from submerge.given import clean_path
from submerge.layout import depths_of, family_of
from submerge.plan.adapted import expect_used
from submerge.plan.decide import decide, union
from submerge.plan.draft import Draft, about, beside, remarks
from submerge.plan.encoders import open_encoders
from submerge.plan.extracted import expect_plain, factored, making_of, placed_in_one
from submerge.plan.finite import factors_plan
from submerge.plan.form import OutFile, OutputTensor, Plan
from submerge.plan.gguf import gguf_file
from submerge.plan.guidance import decide_guidance
from submerge.plan.outputs import lay_out, place, shape_of
from submerge.plan.pipeline import Taken, take_over
from submerge.plan.provenance import metadata
from submerge.plan.scope import spanned
from submerge.plan.unit import Inputs, bake, compile_unit
from submerge.plan.unused import list_unused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.adapters import Adapter
    from submerge.layout import Architecture, Model
    from submerge.plan.about import About
    from submerge.plan.form import Unit
    from submerge.plan.guidance import GuidanceOutcome
    from submerge.plan.making import Making
    from submerge.plan.outputs import Filled, Placed, Shape
    from submerge.recipe import Recipe

__all__ = ["agree", "compile_plan"]

# What must be equal for block i of one model to be block i of another; channels are a matter of
# single tensors, guidance of a policy.
_SIGNATURE = ("hidden", "head_dim", "mlp", "context_dim", "pooled_dim", "axes_dims_rope")


def compile_plan(
    recipe: Recipe, models: Mapping[str, Model], target: Path, adapters: Sequence[Adapter] = ()
) -> Plan:
    """Return what merging the models into `target` takes.

    Args:
        recipe: what is meant.
        models: the opened models, by the recipe's names.
        target: a path ending in `.safetensors` or `.gguf` for one file, else a folder.
        adapters: the opened files of the recipe's adapters, in its order.

    Raises:
        RecipeError: the recipe does not fit the models or contradicts itself.
        AdapterError: an adapter does not fit the model it is for.
        LayoutError: the models cannot be merged with each other, or not into that layout, or have
            no whole tensors in common that a scope speaks of.
        CheckpointError: a pipeline to take over is damaged.
        OSError: a file of a pipeline cannot be read.
    """
    models = {name: models[name] for name in recipe.models}
    agree(models)
    target = _target(recipe, target)
    shape = shape_of(recipe.output, next(iter(models.values())), target)
    owner = _extras_owner(recipe, models, shape)
    names = union(models)
    encoders = open_encoders(recipe, models, adapters)
    inputs = Inputs(models, encoders.fused(recipe.adapters, adapters, models, names))
    decided, notes = decide(recipe, names)
    guidance = decide_guidance(recipe, models, decided)
    units = _compile(decided, guidance, inputs)
    expect_used(inputs.adapters, units)
    arch = _architecture(next(iter(models.values())).arch, units, guidance, inputs)
    read_bytes = sum(map(inputs.nbytes, units.values()))
    made = None if recipe.output.adapter is None else factored(recipe, units, inputs)
    carried = [] if made is not None else _carried(inputs, owner)
    placed, precision = (
        (placed_in_one(made.filled), made.notes)
        if made is not None
        else _placed((recipe, shape, arch), units, inputs, carried)
    )
    encoded = encoders.changed(inputs, len(placed.paths), len(placed.outputs))
    draft = Draft(
        recipe=recipe,
        models=models,
        target=target,
        shape=shape,
        arch=arch,
        placed=placed,
        contributing=_contributing(models, units, guidance),
        guidance=guidance.words,
        adapters=inputs.adapters,
        adapting=frozenset(inputs.adapting),
    )
    taken = take_over(recipe.output, models, guidance=arch.guidance) if made is None else Taken()
    taken = encoded.in_place_of(taken)
    texts, licences = beside(draft)
    facts = _facts(draft)
    making = None if made is None else making_of(recipe.output, made, facts)
    said = facts if making is None else making.longest()
    return Plan(
        target=target,
        is_folder=shape.is_folder,
        overflow=recipe.output.overflow,
        sources=inputs.sources,
        files=(*_files(draft, said), *encoded.files),
        texts=(*placed.texts, *taken.texts, *texts),
        copies=(*taken.copies, *licences),
        outputs=(*placed.outputs, *encoded.outputs),
        units=(*placed.units, *encoded.units),
        about=_about(draft, making)._replace(
            notes=(*notes, *precision, *guidance.notes, *taken.notes, *remarks(draft, licences)),
            unused=list_unused(
                inputs, decided, guidance, owner, recipe.extras, {o.name for o in placed.outputs}
            ),
        ),
        read_bytes=read_bytes + encoded.read_bytes + sum(tensor.nbytes for tensor, _ in carried),
        making=making,
        factors=factors_plan(a for a in inputs.adapters if a.name in inputs.adapting),
    )


def _target(recipe: Recipe, target: Path) -> Path:
    """Return the absolute path of the output; raises where an adapter cannot be put there."""
    # Symlinks stay what the user named.
    target = Path(clean_path(os.path.abspath(target), "output"))  # noqa: PTH100
    if recipe.output.adapter is not None:
        expect_plain(recipe.output, target)
    return target


def _placed(
    what: tuple[Recipe, Shape, Architecture],
    units: Mapping[str, Unit],
    inputs: Inputs,
    carried: list[Filled],
) -> tuple[Placed, Sequence[str]]:
    """Return where the tensors of a model go, and remarks on their precision."""
    recipe, shape, arch = what
    made = lay_out(shape, arch, units, inputs)
    whole = spanned(made.tensors, inputs) if recipe.scope == "tensor" else made.tensors
    return place(shape, [*whole, *made.beside, *carried], arch), made.notes


def _facts(draft: Draft) -> dict[str, str]:
    """Return the metadata of every file; an adapter is of the model that it is for."""
    asked, models = draft.recipe.output.adapter, draft.models
    arch = draft.arch if asked is None else models[asked.onto].arch
    found = metadata(draft.public, models, arch, draft.words, draft.licence, draft.adapters)
    carried = {unit.name: unit.models[0] for unit in draft.placed.units if unit.reason == "extras"}
    for owner in dict.fromkeys(carried.values()):
        found |= description_of(models[owner].checkpoint, carried)
    return found


def _files(draft: Draft, said: Mapping[str, str]) -> list[OutFile]:
    """Return the weight files with what they say of themselves."""
    placed = draft.placed
    if draft.shape.encoding.container == "gguf":
        return [gguf_file(said, draft.arch, placed.outputs)]
    return [OutFile(path, said) for path in placed.paths]


def _about(draft: Draft, making: Making | None) -> About:
    """Return what the plan says of itself; an adapter has a form and a dtype of its own."""
    said = about(draft)
    return said if making is None else said._replace(layout=making.form, dtype=making.dtype)


def _signature(arch: Architecture) -> dict[str, Any]:
    sizes = {field: getattr(arch, field) for field in _SIGNATURE}
    return {"family": arch.family, **depths_of(arch), **sizes}


def agree(models: Mapping[str, Model]) -> None:
    """Refuse models of different architectures: equal names and shapes do not make equal blocks.

    Raises:
        LayoutError: naming two models and what differs.
    """
    (first, reference), *others = models.items()
    for name, model in others:
        ours, theirs = _signature(reference.arch), _signature(model.arch)
        differing = [
            f"{field} {ours.get(field, 0)} and {theirs.get(field, 0)}"
            for field in {**ours, **theirs}
            if ours.get(field, 0) != theirs.get(field, 0)
        ]
        if differing:
            same_width = reference.arch.hidden == model.arch.hidden
            pruned = same_width and reference.arch.depths != model.arch.depths
            raise LayoutError(
                f"models: {quoted(first)} ({reference.variant}) and {quoted(name)} "
                f"({model.variant}) are of different architectures: {', '.join(differing)}",
                hint="a pruned model (Flux.1-lite, Flex.1) has other blocks under the same "
                "numbers; merge it with its own kind"
                if pruned
                else "only models of one architecture can be merged",
            )


def _compile(
    decided: Mapping[str, Unit], guidance: GuidanceOutcome, inputs: Inputs
) -> dict[str, Unit]:
    """Return every unit of the output with the rows it is made of."""
    mlp = bake(guidance, inputs)
    units: dict[str, Unit] = {}
    lost: dict[str, LayoutError] = {}
    for name, unit in decided.items():
        if guidance.has(name) and name not in guidance.units:
            continue
        added = mlp if guidance.network and name == guidance.network.added_to else None
        try:
            units[name] = compile_unit(guidance.units.get(name, unit), inputs, added)
        except LayoutError as error:
            lost[name] = error
    if lost:
        raise _all_of(lost)
    return units


def _all_of(lost: Mapping[str, LayoutError]) -> LayoutError:
    """Return what is wrong with the first unit, and which others cannot be made either."""
    _, *others = lost
    first = next(iter(lost.values()))
    if not others:
        return first
    message = f"{first.message}; nor do {listing(others, noun='more unit')} fit together"
    return LayoutError(message, hint=first.hint)


def _architecture(
    arch: Architecture, units: Mapping[str, Unit], guidance: GuidanceOutcome, inputs: Inputs
) -> Architecture:
    """Return the architecture of the output: the first model's, with what was decided."""
    family = family_of(arch)
    if family is None:
        return arch
    channels = {
        name: inputs.models[units[unit].models[0]].arch
        for name, (unit, _) in family.read.items()
        if name in ("in_channels", "out_channels")
    }
    sizes = {name: getattr(found, name) for name, found in channels.items()}
    return replace(arch, guidance=bool(guidance.units), **sizes)


def _contributing(
    models: Mapping[str, Model], units: Mapping[str, Unit], guidance: GuidanceOutcome
) -> frozenset[str]:
    """Return the models that numbers of the transformer come from."""
    made = (*units.values(), *guidance.baked.values())
    return frozenset(model for unit in made for model in unit.models if model in models)


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


def _carried(inputs: Inputs, owner: str | None) -> list[Filled]:
    """Return the carried tensors as they are: same name, dtype and bytes."""
    if owner is None:
        return []
    model = inputs.models[owner]
    found = []
    for name in sorted(model.extras):
        info = model.checkpoint.tensors[name]
        tensor = OutputTensor(0, name, info.dtype, info.shape)
        found.append((tensor, [inputs.carried(owner, name)]))
    return found
