"""The models of an evaluation: their names, and how each is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.errors import RecipeError, listing
from submerge.inference.loading import LoadedModel, plan_loading
from submerge.inference.options import defaults_for
from submerge.inference.parts import Parts, find_parts, with_lent
from submerge.inference.request import fetched
from submerge.merge import MergedModel
from submerge.view import View

if TYPE_CHECKING:
    import os
    from typing import TypeAlias

    Model: TypeAlias = LoadedModel | MergedModel | View | str | os.PathLike[str]

__all__ = ["Candidate", "candidates_of"]


class Candidate(NamedTuple):
    """A model that is evaluated.

    Attributes:
        name: names it in tables and folders.
        role: the merge, or a parent it is compared with.
        source: what `load_model` opens, or a loaded model.
        parts: its files.
        load: keywords of `load_model`.
    """

    name: str
    role: Literal["merge", "parent"]
    source: Any
    parts: Parts
    load: Mapping[str, Any]

    @property
    def defaults(self) -> dict[str, Any]:
        """The options it is painted with unless told otherwise."""
        found = self.parts
        size = found.default_size()
        made = defaults_for(guided=found.guided, few_step_parent=found.few_step_parent, size=size)
        return dict(made.values)


def candidates_of(
    model: Model, parents: Sequence[Model] | Mapping[str, Model], load: Mapping[str, Any]
) -> list[Candidate]:
    """Name the models, the merge first, and read their headers.

    All compute in one dtype, the merge's unless `load` says otherwise: noise is drawn in it, so
    start latents would differ between dtypes.

    Raises:
        RecipeError: two models have one name, or loaded ones another dtype.
        SubmergeError, OSError: as `load_model`, for what headers show.
    """
    model = model if isinstance(model, LoadedModel) else fetched(model)
    if isinstance(model, MergedModel | View) and not parents:
        parents = {name: source.path for name, source in model.recipe.models.items()}
    others = parents.values() if isinstance(parents, Mapping) else parents
    sources = [one if isinstance(one, LoadedModel) else fetched(one) for one in (model, *others)]
    unloaded = [one for one in sources if not isinstance(one, LoadedModel)]
    loads = [
        dict(load) if isinstance(one, LoadedModel) else with_lent(load, one, unloaded)
        for one in sources
    ]
    parts = [
        one.parts if isinstance(one, LoadedModel) else find_parts(one, how.get("components"))
        for one, how in zip(sources, loads, strict=True)
    ]
    if isinstance(parents, Mapping):
        names = [*_names(parts[:1]), *map(_plain, parents)]
    else:
        names = _names(parts)
    if len(set(names)) < len(names):
        raise RecipeError(
            f"parents: names must differ, got {listing(names, noun='name')}",
            hint="name the parents: `{'schnell': ..., 'krea': ...}`",
        )
    dtype = _dtype(sources, loads[0])
    return [
        Candidate(name, "parent" if at else "merge", source, found, {**how, "dtype": dtype})
        for at, (name, source, found, how) in enumerate(
            zip(names, sources, parts, loads, strict=True)
        )
    ]


def _dtype(sources: Sequence[Any], load: Mapping[str, Any]) -> str:
    """Return the dtype that all models compute in, as torch names it."""
    merge = sources[0]
    if isinstance(merge, LoadedModel):
        dtype = merge.plan.dtype
    else:
        how = {name: load[name] for name in ("components", "dtype") if name in load}
        dtype = plan_loading(merge, device="cpu", **how).dtype
    others = {one.plan.dtype for one in sources if isinstance(one, LoadedModel)} - {dtype}
    if others:
        raise RecipeError(
            f"parents: expected all models to compute in `{dtype}`, got `{min(others)}`",
            hint="load them with the same `dtype`; start latents are drawn in it",
        )
    return dtype


def _names(models: Sequence[Parts]) -> list[str]:
    """Call each model as in public; those of one name by as much of their paths as tells."""
    names = [_plain(found.name) for found in models]
    paths = [Path(found.model.checkpoint.path).absolute() for found in models]
    for used in range(2, 4):
        names = [
            "-".join(map(_plain, path.parts[-used:])) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    return names


def _plain(name: str) -> str:
    """Return a name that can be a folder's."""
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "-", name.removesuffix(".safetensors")).strip(".-") or "model"
    )
