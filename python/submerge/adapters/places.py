"""Which modules of a model an adapter names, in any of the formats and in either layout."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from submerge.adapters.keys import NAMINGS, XLABS
from submerge.errors import AdapterError, counted, quoted
from submerge.layout import family_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.adapters.adapter import Adapter, Module
    from submerge.adapters.keys import Naming
    from submerge.layout import Architecture, Family

__all__ = ["Target", "family_for", "format_of", "in_words", "targets_of"]

# Blocks beyond the model's own that are still taken for blocks, in messages.
_DEEPER = 64


class Target(NamedTuple):
    """A module of an adapter and what it changes.

    Attributes:
        module: its tensors.
        naming: how it is named.
        layout: whose module name that is.
        name: the module's name in that layout.
        units: the units it stacks, without the parameter's name.
        scale: what its product is multiplied by, `alpha / rank`.
    """

    module: Module
    naming: Naming
    layout: str
    name: str
    units: tuple[str, ...]
    scale: float


def targets_of(adapter: Adapter, arch: Architecture) -> tuple[list[Target], dict[str, str]]:
    """Return which modules of an architecture an adapter names, whatever their shapes.

    Beside them the keys that name none, and why. The scales are 1.

    Raises:
        AdapterError: a family without tables, or names of two formats.
    """
    family = family_for(adapter, arch)
    names = _names(family, arch)
    unmatched = dict.fromkeys(adapter.unknown, "nothing an adapter holds")
    found: dict[str, Target] = {}
    for module in adapter.modules:
        place = _place(module.stem, names)
        if place is None:
            unmatched |= dict.fromkeys(module.keys, _absent(module.stem, family, arch))
            continue
        target = Target(module, *place, 1.0)
        other = found.setdefault(target.name, target)
        if other is not target:
            raise _two_formats(adapter, other, target)
    targets = list(found.values())
    for target in targets:
        if (target.naming, target.layout) != (targets[0].naming, targets[0].layout):
            raise _two_formats(adapter, targets[0], target)
    return targets, unmatched


def in_words(targets: Sequence[Target]) -> str:
    """Return what an adapter is: `LoRA, kohya names, 304 modules, rank 16`."""
    if not targets:
        return "nothing for the transformer"
    kinds = " and ".join(dict.fromkeys(target.module.words for target in targets))
    ranks = sorted({target.module.rank for target in targets if target.module.rank is not None})
    rank = ""
    if ranks:
        few = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        rank = f", rank {few}"
    naming = format_of(targets[0])
    return f"{kinds}, {naming} names, {counted(len(targets), 'module')}{rank}"


def format_of(target: Target) -> str:
    """Return whose names these are: `kohya`, `diffusers`, `xlabs`; `bfl` for bare names of it."""
    naming, layout = target.naming.name, target.layout
    return layout if layout == "xlabs" or naming == "bare" else naming


def _two_formats(adapter: Adapter, one: Target, other: Target) -> AdapterError:
    return AdapterError(
        f"{adapter.path}: {quoted(one.module.stem)} is named as {one.naming.name} does in "
        f"{one.layout} names, {quoted(other.module.stem)} as {other.naming.name} in "
        f"{other.layout} names, expected one format",
        hint="save each adapter to a file of its own",
    )


def family_for(adapter: Adapter, arch: Architecture) -> Family:
    """Return the family of a model that an adapter is for.

    Raises:
        AdapterError: one without tables.
    """
    family = family_of(arch)
    if family is None:
        raise AdapterError(
            f"{adapter.path}: an adapter needs a model whose layers are known, expected FLUX.1",
            hint="leave `layout: generic` out",
        )
    return family


# Separator -> a module's name so separated -> by layout its name and the units it stacks.
_Names: TypeAlias = "Mapping[str, Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]]]"


@functools.lru_cache(maxsize=16)
def _names(family: Family, arch: Architecture) -> _Names:
    found: dict[str, dict[str, dict[str, tuple[str, tuple[str, ...]]]]] = {".": {}, "_": {}}
    for layout, table in {**family.layouts, "xlabs": XLABS}.items():
        for name, units in family.modules(table, arch):
            for separator, known in found.items():
                known.setdefault(name.replace(".", separator), {})[layout] = (name, units)
    return found


def _place(stem: str, names: _Names) -> tuple[Naming, str, str, tuple[str, ...]] | None:
    """Return how a stem names its module, the layout, the module's name there and its units."""
    for naming in NAMINGS:
        if not stem.startswith(naming.prefix):
            continue
        rest = stem[len(naming.prefix) :]
        # Old diffusers: `to_q_lora.down.weight`.
        for word in (rest, rest.removesuffix("_lora")):
            known = names[naming.separator].get(word, {})
            for layout in naming.layouts:
                if layout in known:
                    return naming, layout, *known[layout]
    return None


def _absent(stem: str, family: Family, arch: Architecture) -> str:
    """Say why a stem names no module: guidance, a block too many, or a name nobody has."""
    guided = family.guidance is not None and not arch.guidance
    if guided and _place(stem, _names(family, replace(arch, guidance=True))) is not None:
        return "this model has no guidance embedder"
    deeper = replace(arch, depths=tuple(depth + _DEEPER for depth in arch.depths))
    if _place(stem, _names(family, deeper)) is not None:
        return f"this model has {family.depth_words(arch.depths)}"
    return f"no module of {family.title}"
