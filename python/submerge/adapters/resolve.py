"""From the names in an adapter to units of a model: rows of its tensors for each of them.

A module of a layout stacks units; rows of what an adapter adds to it are rows of what it adds to
them. `down` is shared by all rows, `up` is cut; so one adapter fits models of either layout, and
the final modulation, whose halves the layouts stack the other way round, is addressing too.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from submerge.adapters.deltas import (
    Delta,
    Difference,
    Factors,
    Hadamard,
    Kronecker,
    Magnitude,
    Product,
    Replacement,
    Span,
)
from submerge.adapters.keys import NAMINGS, XLABS
from submerge.blocks import block_of
from submerge.errors import AdapterError, counted, quoted
from submerge.layout import family_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from submerge.adapters.adapter import Adapter, Module
    from submerge.adapters.config import PeftConfig
    from submerge.adapters.keys import Naming
    from submerge.checkpoint import TensorInfo
    from submerge.layout import Architecture, Family

__all__ = ["Compat", "Resolved", "Target", "format_of", "in_words", "resolve", "targets_of"]

Compat: TypeAlias = Literal["diffusers", "comfyui", "lycoris"]
"""Whose reading to follow where programs differ; see docs/adapters.md."""

# LyCORIS adds what is least in F32 to every norm.
_EPSILON = 2.0**-23
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


class Resolved(NamedTuple):
    """An adapter on an architecture.

    Attributes:
        deltas: what is done to each unit.
        targets: the modules, in file order.
        unmatched: keys that have no place in the model, and why.
        left: keys that are left out on purpose, and why.
    """

    deltas: Mapping[str, tuple[Delta, ...]]
    targets: tuple[Target, ...]
    unmatched: Mapping[str, str]
    left: Mapping[str, str]


def resolve(adapter: Adapter, arch: Architecture, compat: Compat | None = None) -> Resolved:
    """Return what an adapter does to each unit of a model.

    Args:
        adapter: the opened file.
        arch: the model's architecture.
        compat: whose reading to follow where programs differ; None for submerge's own.

    Raises:
        AdapterError: a family without tables, names of two formats, or tensors of another shape.
    """
    found, unmatched = targets_of(adapter, arch)
    kept, left = _kept(found, compat)
    common = _first_alpha(kept) if compat == "diffusers" else None
    targets = [t._replace(scale=_scale(t, adapter, compat, common)) for t in kept]
    shapes = _family(adapter, arch).unit_shapes(arch)
    wrong = [fault for target in targets for fault in _misfits(target, shapes)]
    if wrong:
        more = f"; and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise AdapterError(
            f"{adapter.path}: {wrong[0]}{more}",
            hint="the adapter was made for a model of other sizes",
        )
    deltas = {u: made for target in targets for u, made in _deltas(target, shapes, compat)}
    return Resolved(deltas, tuple(targets), unmatched, left)


def targets_of(adapter: Adapter, arch: Architecture) -> tuple[list[Target], dict[str, str]]:
    """Return which modules of an architecture an adapter names, whatever their shapes.

    Beside them the keys that name none, and why. The scales are 1.

    Raises:
        AdapterError: a family without tables, or names of two formats.
    """
    family = _family(adapter, arch)
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


def _family(adapter: Adapter, arch: Architecture) -> Family:
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


def _kept(targets: Sequence[Target], compat: Compat | None) -> tuple[list[Target], dict[str, str]]:
    """Return the targets without what diffusers drops, where its reading is wanted.

    Converting names of BFL it loses every module outside the blocks, and it ignores `dora_scale`.
    """
    if compat != "diffusers":
        return list(targets), {}
    kept: list[Target] = []
    left: dict[str, str] = {}
    for target in targets:
        tensors = dict(target.module.tensors)
        if target.layout == "bfl" and block_of(f"{target.units[0]}.weight") is None:
            left |= dict.fromkeys(target.module.keys, "diffusers does not load it")
            continue
        if "magnitude" in tensors:
            left[tensors.pop("magnitude").name] = "diffusers does not load it"
        kept.append(target._replace(module=target.module._replace(tensors=tensors)))
    return kept, left


def _first_alpha(targets: Sequence[Target]) -> float | None:
    """Return the alpha that diffusers gives to every module of an adapter in its own names."""
    alphas = (t.module.alpha for t in targets if t.layout == "diffusers")
    return next((alpha for alpha in alphas if alpha is not None), None)


def _scale(target: Target, adapter: Adapter, compat: Compat | None, common: float | None) -> float:
    """Return what a module's product is multiplied by."""
    module, config = target.module, adapter.config
    if module.kind == "full":
        return 1.0
    alpha = module.alpha if common is None or target.layout != "diffusers" else common
    rank = module.rank
    if config is not None and not (rank is None and compat == "lycoris"):
        _expect_config(target, adapter, config)
        return config.scale_of(target.name)
    # Two whole factors of LoKr have no rank: LyCORIS and diffusers ignore alpha.
    if alpha is None or rank is None:
        return 1.0
    scale = alpha / rank
    # LyCORIS' `merge_to`, unlike its forward pass.
    return scale * scale if compat == "lycoris" and module.kind in ("loha", "lokr") else scale


def _expect_config(target: Target, adapter: Adapter, config: PeftConfig) -> None:
    """Refuse a module that contradicts peft's configuration."""
    module, here = target.module, f"{adapter.path}: {quoted(target.module.stem)}"
    if module.kind != config.kind:
        raise AdapterError(
            f"{here}: is {module.words}, expected a {config.kind} by {config.where}",
            hint="the configuration belongs to another adapter",
        )
    rank = config.rank_of(target.name)
    if module.rank is not None and rank != module.rank:
        raise AdapterError(
            f"{here}: rank {module.rank}, expected {rank:g} by {config.where}",
            hint="the configuration belongs to another adapter",
        )
    if module.alpha is not None and module.alpha != config.alpha_of(target.name):
        raise AdapterError(
            f"{here}: alpha {module.alpha:g}, and {config.alpha_of(target.name):g} by "
            f"{config.where}, expected one",
            hint="remove one of the two",
        )


def _misfits(target: Target, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield what is wrong with the shapes of a module's tensors for this model."""
    units = target.units
    rows = sum(shapes[f"{unit}.weight"][0] for unit in units)
    whole = (rows, *shapes[f"{units[0]}.weight"][1:])
    allowed = _allowed(target, whole, biased=f"{units[0]}.bias" in shapes)
    for role, tensor in target.module.tensors.items():
        expected = allowed.get(role, [tensor.shape])
        if tensor.shape not in expected:
            wanted = " or ".join(str(list(shape)) for shape in expected) or "no such tensor"
            yield f"{quoted(tensor.name)}: expected {wanted}, got {list(tensor.shape)}"
    if target.module.kind == "lokr" and len(whole) == 2:
        left, right = _side(target, "left"), _side(target, "right")
        product = [a * b for a, b in zip(left, right, strict=True)]
        if product != list(whole):
            yield (
                f"{quoted(target.module.stem)}: {list(left)} and {list(right)} make "
                f"{product}, expected {list(whole)}"
            )


def _allowed(
    target: Target, whole: tuple[int, ...], *, biased: bool
) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes that tensors may have at a module of a shape; roles left out may any."""
    rows, columns = whole[0], math.prod(whole[1:])
    tensors = target.module.tensors
    allowed: dict[str, list[tuple[int, ...]]] = {
        **{role: [whole] for role in ("diff", "set", "weight")},
        **{role: [(rows,)] if biased else [] for role in ("diff_bias", "bias", "up_bias")},
    }
    matrix = len(whole) == 2
    for side in ("", "left_", "right_"):
        up, down = f"{side}up", f"{side}down"
        if up in tensors and not (matrix and target.module.kind == "lokr"):
            rank = tensors[up].shape[1]
            allowed |= {up: [(rows, rank)], down: [(rank, columns)]} if matrix else {up: []}
    # Of columns over a part of the rows, no other part would know the norm.
    along = [(1, columns)] if len(target.units) == 1 else []
    allowed["magnitude"] = [(rows, 1), (rows,), *along] if matrix else []
    allowed["magnitude_peft"] = [(rows,), (rows, 1)] if matrix else []
    return allowed | ({} if matrix else {"left": [], "right": []})


def _side(target: Target, side: str) -> tuple[int, int]:
    """Return the shape of one factor of a Kronecker product."""
    tensors = target.module.tensors
    if side in tensors:
        rows, columns = tensors[side].shape
        return rows, columns
    return tensors[f"{side}_up"].shape[0], tensors[f"{side}_down"].shape[1]


def _deltas(
    target: Target, shapes: Mapping[str, tuple[int, ...]], compat: Compat | None
) -> Iterator[tuple[str, tuple[Delta, ...]]]:
    """Yield what a module does to each unit it stacks."""
    start = 0
    for unit in target.units:
        end = start + shapes[f"{unit}.weight"][0]
        if weight := tuple(_of_weight(target, start, end, compat)):
            yield f"{unit}.weight", weight
        if bias := tuple(_of_bias(target, start, end)):
            yield f"{unit}.bias", bias
        start = end


def _of_weight(target: Target, start: int, end: int, compat: Compat | None) -> Iterator[Delta]:
    tensors, scale = target.module.tensors, target.scale

    def cut(role: str) -> Span:
        return Span(tensors[role].name, start, end)

    for role in ("set", "weight"):
        if role in tensors:
            yield Replacement(cut(role))
    if target.module.kind == "lora":
        yield Product(Factors(cut("up"), _whole(tensors["down"])), scale)
    elif target.module.kind == "loha":
        left, right = (
            Factors(cut(f"{side}_up"), _whole(tensors[f"{side}_down"]))
            for side in ("left", "right")
        )
        yield Hadamard(left, right, scale)
    elif target.module.kind == "lokr":
        yield Kronecker(_factor(target, "left"), _factor(target, "right"), start, scale)
    if "diff" in tensors:
        yield Difference(cut("diff"))
    for role in ("magnitude", "magnitude_peft"):
        if role in tensors:
            yield _magnitude(target, role, cut(role), compat)


def _of_bias(target: Target, start: int, end: int) -> Iterator[Delta]:
    tensors = target.module.tensors
    if "bias" in tensors:
        yield Replacement(Span(tensors["bias"].name, start, end))
    if "up_bias" in tensors:
        yield Difference(Span(tensors["up_bias"].name, start, end), target.scale)
    if "diff_bias" in tensors:
        yield Difference(Span(tensors["diff_bias"].name, start, end))


def _whole(tensor: TensorInfo) -> Span:
    return Span(tensor.name, 0, tensor.rows)


def _factor(target: Target, side: str) -> Span | Factors:
    tensors = target.module.tensors
    if side in tensors:
        return _whole(tensors[side])
    return Factors(_whole(tensors[f"{side}_up"]), _whole(tensors[f"{side}_down"]))


def _magnitude(target: Target, role: str, rows: Span, compat: Compat | None) -> Magnitude:
    """Return the magnitude of a unit; its axis follows from the shape."""
    tensor = target.module.tensors[role]
    if role == "magnitude_peft":
        return Magnitude(rows, "rows")
    if tensor.shape[0] == 1 and len(tensor.shape) == 2 and tensor.shape[1] > 1:
        return Magnitude(_whole(tensor), "columns", epsilon=_EPSILON, whole=compat == "lycoris")
    norm: Literal["sum", "base"] = "base" if compat == "comfyui" else "sum"
    return Magnitude(rows, "rows", norm, _EPSILON, whole=compat == "lycoris")
