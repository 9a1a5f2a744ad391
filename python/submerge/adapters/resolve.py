"""From the names in an adapter to units of a model: rows of its tensors for each of them.

A module of a layout stacks units; rows of what an adapter adds to it are rows of what it adds to
them. `down` is shared by all rows, `up` is cut; so one adapter fits models of either layout, and
the final modulation, whose halves the layouts stack the other way round, is addressing too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from submerge.adapters.deltas import (
    Delta,
    Difference,
    Factors,
    Hadamard,
    Kronecker,
    Magnitude,
    Multiplied,
    Product,
    Replacement,
    Span,
)
from submerge.adapters.places import Target, family_for, targets_of
from submerge.blocks import block_of
from submerge.errors import AdapterError, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from submerge.adapters.adapter import Adapter
    from submerge.adapters.config import PeftConfig
    from submerge.checkpoint import TensorInfo
    from submerge.layout import Architecture

__all__ = ["F32_MAX", "Compat", "Resolved", "resolve", "resolved_on"]

Compat: TypeAlias = Literal["diffusers", "comfyui", "lycoris"]
"""Whose reading to follow where programs differ; see docs/adapters.md."""

F32_MAX = float.fromhex("0x1.fffffep127")
"""The largest number that scales, which are f32 where products are made, may be."""

# LyCORIS adds to every norm what is least in the dtype of the lengths: F32's where they are
# trained, but that of the file where it reads them from one.
_EPSILON = 2.0**-23
_EPSILONS = {"F64": 2.0**-52, "F16": 2.0**-10, "BF16": 2.0**-7}


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
    shapes = family_for(adapter, arch).unit_shapes(arch)
    return resolved_on(shapes, adapter, *targets_of(adapter, arch), compat)


def resolved_on(
    shapes: Mapping[str, tuple[int, ...]],
    adapter: Adapter,
    found: Sequence[Target],
    unmatched: Mapping[str, str],
    compat: Compat | None,
) -> Resolved:
    """Return what modules do to the units of these shapes; raises AdapterError as `resolve`."""
    kept, left = _kept(found, compat)
    common = _first_alpha(kept) if compat == "diffusers" else None
    targets = [t._replace(scale=_scale(t, adapter, compat, common)) for t in kept]
    for target in targets:
        if abs(target.scale) > F32_MAX:
            raise AdapterError(
                f"{adapter.path}: {quoted(target.module.stem)}: a scale of {target.scale:g}, "
                "expected one that f32 holds",
                hint="the scale is alpha over rank; the file or its configuration is damaged",
            )
    wrong = [fault for target in targets for fault in _misfits(target, shapes)]
    if wrong:
        more = f"; and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise AdapterError(
            f"{adapter.path}: {wrong[0]}{more}",
            hint="the adapter was made for a model of other sizes",
        )
    deltas = {u: made for target in targets for u, made in _deltas(target, shapes, compat)}
    return Resolved(deltas, tuple(targets), unmatched, left)


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
    if "weight_up" in tensors:
        rank = tensors["weight_up"].shape[1]
        allowed["weight_up"] = [(columns, rank)] if matrix else []
        allowed["weight_down"] = [(rank, columns)]
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
    tensors = target.module.tensors

    def cut(role: str) -> Span:
        return Span(tensors[role].name, start, end)

    for role in ("set", "weight"):
        if role in tensors:
            yield Replacement(cut(role))
    yield from _of_factors(target, start, end)
    if "diff" in tensors:
        yield Difference(cut("diff"))
    for role in ("magnitude", "magnitude_peft"):
        if role in tensors:
            yield _magnitude(target, role, cut(role), compat)


def _of_factors(target: Target, start: int, end: int) -> Iterator[Delta]:
    """Yield what the factors of a module do to the rows of its weight."""
    tensors, scale = target.module.tensors, target.scale

    def pair(side: str) -> Factors:
        up = Span(tensors[f"{side}up"].name, start, end)
        return Factors(up, _whole(tensors[f"{side}down"]))

    match target.module.kind:
        case "lora":
            yield Product(pair(""), scale)
        case "glora":
            factors = Factors(_whole(tensors["weight_up"]), _whole(tensors["weight_down"]))
            yield Multiplied(factors, scale)
            yield Product(pair(""), scale)
        case "loha":
            yield Hadamard(pair("left_"), pair("right_"), scale)
        case "lokr":
            yield Kronecker(_factor(target, "left"), _factor(target, "right"), start, scale)


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
    epsilon = _EPSILONS.get(tensor.dtype, _EPSILON) if compat == "lycoris" else _EPSILON
    if tensor.shape[0] == 1 and len(tensor.shape) == 2 and tensor.shape[1] > 1:
        return Magnitude(_whole(tensor), "columns", epsilon=epsilon, whole=compat == "lycoris")
    norm: Literal["sum", "base"] = "base" if compat == "comfyui" else "sum"
    return Magnitude(rows, "rows", norm, epsilon, whole=compat == "lycoris")
