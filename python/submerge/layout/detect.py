"""Recognise a transformer: layout and prefix by a full match of the table, depth, sizes.

Nothing is guessed from a few names. Of every prefix and layout under which the file has block
tensors, the whole table is expanded to the file's depth and must match name for name and shape for
shape; then the config beside the weights, if any, must agree.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

from submerge.errors import LayoutError, counted, listing, quoted
from submerge.layout.family import FAMILIES, Family
from submerge.layout.model import Architecture, LayoutName, Model, OutTensor, Place, UnitInfo
from submerge.layout.saves import COUNTER, refuse_fused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.checkpoint import Checkpoint, TensorInfo

__all__ = ["EXTRAS", "PREFIXES", "recognise"]

# What may stand before a transformer's tensor names; "" first, so that it wins a tie.
PREFIXES = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "model.model.",
    "model.",
    "net.",
    "transformer.",
    "base_model.model.",
)

# Namespaces of the other models in an all-in-one file.
EXTRAS = (
    "vae.",
    "first_stage_model.",
    "text_encoders.",
    "text_encoder.",
    "text_encoder_2.",
    "cond_stage_model.",
    "conditioner.",
)

# How trainers call the running average of a model's weights.
_EMA = re.compile(r"(?:model_|transformer_)?ema(?:_model|_params)?\.|.*\.ema\.|shadow_params\.")

_GENERIC_HINT = "`layout: generic` merges by tensor name and shape alone"


class _Candidate(NamedTuple):
    """A layout and prefix under which the file has block tensors, and the block indices found."""

    family: Family
    layout: LayoutName
    prefix: str
    indices: tuple[frozenset[int], ...]

    @property
    def words(self) -> str:
        """The table that is to match, in words."""
        depth = self.family.depth_words(tuple(map(len, self.indices)))
        return f"{self.family.title} with {depth}"


def recognise(checkpoint: Checkpoint, layouts: Sequence[str]) -> Model:
    """Recognise a transformer of a known family in one of the layouts given; none given: in any.

    Raises:
        LayoutError: no such transformer, several, or one that is incomplete, has tensors or shapes
            that its family does not have, or contradicts its config.
    """
    candidate = _only_candidate(checkpoint, layouts)
    family = candidate.family
    depths = tuple(
        _depth(checkpoint, stack.name, found)
        for stack, found in zip(family.stacks, candidate.indices, strict=True)
    )
    inside, extras, strange = _namespace(checkpoint, candidate.prefix)
    arch = _architecture(checkpoint, candidate, depths)
    table = family.tensors_of(arch, candidate.layout, candidate.prefix)
    _check_names(checkpoint, candidate, table, inside)
    _check_shapes(checkpoint, candidate, table)
    _check_proportions(checkpoint, family, arch)
    arch = _check_config(checkpoint, family, arch)
    return Model(
        checkpoint=checkpoint._replace(warnings=(*checkpoint.warnings, *strange)),
        arch=arch,
        variant=_variant(family, arch),
        layout=candidate.layout,
        prefix=candidate.prefix,
        units=MappingProxyType(_units(checkpoint, family.unit_shapes(arch), table)),
        extras=tuple(checkpoint.tensors[name].name for name in extras),
    )


def _only_candidate(checkpoint: Checkpoint, layouts: Sequence[str]) -> _Candidate:
    candidates = [
        found
        for family in FAMILIES.values()
        for layout in family.layouts
        if layout in layouts or not layouts
        for found in _candidates(checkpoint, family, layout)
    ]
    known = [found for found in candidates if found.prefix in PREFIXES]
    if known and len(candidates) > 1:
        # A second one under a name that says nothing is no less a transformer: an EMA copy, say.
        places = [
            found.prefix + next(iter(found.family.layouts[found.layout].stacks.values()))[0]
            for found in candidates
        ]
        raise LayoutError(
            f"{checkpoint.path}: holds {listing(places, noun='transformer')}, expected one",
            hint="save each transformer to a file of its own",
        )
    if known:
        return known[0]
    if candidates:
        prefix = candidates[0].prefix
        raise LayoutError(
            f"{checkpoint.path}: {candidates[0].family.title} tensor names begin with "
            f"{quoted(prefix)}, expected one of the known prefixes "
            f"({', '.join(map(quoted, PREFIXES[1:]))}) or none",
            hint="rename the tensors, or use `layout: generic`",
        )
    titles = " or ".join(family.title for family in FAMILIES.values())
    raise LayoutError(
        f"{checkpoint.path}: expected a {titles} transformer, got {listing(checkpoint.tensors)}",
        hint=_GENERIC_HINT,
    )


def _candidates(checkpoint: Checkpoint, family: Family, layout: str) -> list[_Candidate]:
    """Return every prefix under which the file has block tensors of this layout."""
    stacks = {called: name for name, (called, _) in family.layouts[layout].stacks.items()}
    # The last name of a stack counts: nothing inside a block is called like one.
    blocks = re.compile(
        rf"(?P<prefix>(?:.*\.)?)(?P<stack>{'|'.join(map(re.escape, stacks))})"
        r"\.(?P<index>0|[1-9][0-9]{0,4})\.(?P<inside>.+)"
    )
    inside = {called: family.block_parameters(layout, name) for called, name in stacks.items()}
    found: dict[str, dict[str, set[int]]] = {}
    for name in checkpoint.tensors:
        match = blocks.fullmatch(name)
        if match is not None and match["inside"] in inside[match["stack"]]:
            indices = found.setdefault(match["prefix"], {name: set() for name in family.by_stack})
            indices[stacks[match["stack"]]].add(int(match["index"]))
    return [
        _Candidate(
            family,
            cast(LayoutName, layout),
            prefix,
            tuple(frozenset(numbers) for numbers in indices.values()),
        )
        for prefix, indices in found.items()
    ]


def _depth(checkpoint: Checkpoint, stack: str, found: frozenset[int]) -> int:
    """Return the number of blocks; they must be numbered from 0 without a gap."""
    if not found:
        raise LayoutError(
            f"{checkpoint.path}: has no {stack} blocks, expected at least one",
            hint="the file is a part of a model, or an adapter",
        )
    depth = max(found) + 1
    if len(found) != depth:
        missing = [str(index) for index in range(min(depth, 10_000)) if index not in found]
        raise LayoutError(
            f"{checkpoint.path}: {stack} blocks are numbered up to {depth - 1}, expected all of "
            f"them, but {listing(missing, noun='block')} missing",
            hint="the file is incomplete; download it again",
        )
    return depth


def _namespace(checkpoint: Checkpoint, prefix: str) -> tuple[list[str], list[str], list[str]]:
    """Split the names into the transformer's and the others; say which of those no model owns.

    Raises:
        LayoutError: among the others is a copy of the transformer that training averaged.
    """
    inside: list[str] = []
    extras: list[str] = []
    for name in checkpoint.tensors:
        own = name.startswith(prefix) and (prefix or not name.startswith(EXTRAS))
        own = own and name != COUNTER
        (inside if own else extras).append(name)
    if averaged := [name for name in extras if _EMA.match(name)]:
        raise LayoutError(
            f"{checkpoint.path}: beside the transformer {listing(averaged)} of an averaged copy of "
            "it (EMA), expected one of the two",
            hint="save the one to merge to a file of its own",
        )
    strange = [name for name in extras if not name.startswith(EXTRAS)]
    if not strange:
        return inside, extras, []
    where = f"outside {quoted(prefix)}" if prefix else "outside the transformer"
    return inside, extras, [f"{checkpoint.path}: {listing(strange)} {where} and of no model known"]


def _architecture(
    checkpoint: Checkpoint, candidate: _Candidate, depths: tuple[int, ...]
) -> Architecture:
    """Read the sizes off the tensors; what is missing or malformed is 0 and refused later."""
    family = candidate.family
    # The names do not depend on the sizes, so a table of zeros finds the tensors to look at.
    arch = Architecture(family.name, depths, guidance=family.guidance is not None)
    table = family.tensors_of(arch, candidate.layout, candidate.prefix)
    holder = {unit: tensor.name for tensor in table for unit in tensor.units}

    def size(unit: str, dimension: int) -> int:
        tensor = checkpoint.tensors.get(holder[unit])
        shape = () if tensor is None else tensor.shape
        return shape[dimension] if dimension < len(shape) else 0

    sizes = {name: size(unit, dimension) for name, (unit, dimension) in family.read.items()}
    guided = any(holder[unit] in checkpoint.tensors for unit in holder if family.guides(unit))
    axes = family.rope_axes(sizes.get("head_dim", 0))
    return Architecture(family.name, depths, guidance=guided, axes_dims_rope=axes, **sizes)


def _check_names(
    checkpoint: Checkpoint,
    candidate: _Candidate,
    table: Sequence[OutTensor],
    inside: Sequence[str],
) -> None:
    refuse_fused(checkpoint, inside)
    expected = {tensor.name for tensor in table}
    what = f"the {candidate.layout} layout of {candidate.words}"
    missing = [tensor.name for tensor in table if tensor.name not in checkpoint.tensors]
    if missing:
        raise LayoutError(
            f"{checkpoint.path}: {counted(len(missing), 'tensor')} of {len(table):,} missing, "
            f"expected {what}: {_names(missing)}",
            hint="the file is incomplete, or another kind of model",
        )
    unexpected = [name for name in inside if name not in expected]
    if unexpected:
        raise LayoutError(
            f"{checkpoint.path}: {counted(len(unexpected), 'tensor')} too many, "
            f"expected {what} and nothing else: {_names(unexpected)}",
            hint=f"another kind of model, perhaps; {_GENERIC_HINT}",
        )


def _check_shapes(
    checkpoint: Checkpoint, candidate: _Candidate, table: Sequence[OutTensor]
) -> None:
    wrong = [tensor for tensor in table if checkpoint.tensors[tensor.name].shape != tensor.shape]
    if wrong:
        first = wrong[0]
        raise LayoutError(
            f"{checkpoint.path}: {counted(len(wrong), 'tensor')} of {len(table):,} with a wrong "
            f"shape for {candidate.words}: {quoted(first.name)} expected "
            f"{list(first.shape)}, got {list(checkpoint.tensors[first.name].shape)}"
            + (f"; also {_names([t.name for t in wrong[1:]], 9)}" if len(wrong) > 1 else ""),
            hint=f"another kind of model, perhaps; {_GENERIC_HINT}",
        )


def _check_proportions(checkpoint: Checkpoint, family: Family, arch: Architecture) -> None:
    """Refuse sizes that fit together but that neither code base can build."""
    ratio, published = family.mlp_ratio, family.published
    heads_fit = arch.head_dim > 0 and arch.hidden > 0 and arch.hidden % arch.head_dim == 0
    if ratio is not None and (not heads_fit or arch.mlp != ratio * arch.hidden):
        raise LayoutError(
            f"{checkpoint.path}: expected heads that divide the width and an mlp of "
            f"{ratio} times the width, got width {arch.hidden}, heads of {arch.head_dim} "
            f"and an mlp of {arch.mlp}",
            hint=_GENERIC_HINT,
        )
    relative = family.relatives.get(arch.depths)
    if relative is None or published is None:
        return
    if (arch.hidden, arch.in_channels) == (published.hidden, published.in_channels):
        full = " + ".join(map(str, published.depths))
        raise LayoutError(
            f"{checkpoint.path}: is {relative} ({family.depth_words(arch.depths)}), "
            f"expected the {full} blocks of {family.title}",
            hint=f"its block i is not {family.title}'s block i although names and shapes agree; "
            "`layout: generic` on every model merges it with its own kind",
        )


def _check_config(checkpoint: Checkpoint, family: Family, arch: Architecture) -> Architecture:
    """Compare the config with the tensors; return the architecture with the config's rope axes."""
    if checkpoint.config is None or family.config is None:
        return arch
    config, truth = {**family.config_defaults, **checkpoint.config}, family.config(arch)
    for found in (config, truth):
        if "out_channels" in found and found["out_channels"] is None:
            found["out_channels"] = found["in_channels"]
    wrong = [name for name in family.config_defaults if config[name] != truth[name]]
    if wrong:
        fields = ", ".join(
            f"{quoted(name)} expected {truth[name]!r}, got {config[name]!r}" for name in wrong
        )
        raise LayoutError(
            f"{checkpoint.path}: config.json contradicts the tensors in "
            f"{counted(len(wrong), 'field')}: {fields}",
            hint="the config belongs to another model; put the right one beside the weights",
        )
    if not arch.axes_dims_rope or family.published is None:
        return arch
    axes = checkpoint.config.get("axes_dims_rope", family.published.axes_dims_rope)
    if not _are_axes(axes, arch.head_dim):
        raise LayoutError(
            f"{checkpoint.path}: config.json: `axes_dims_rope` expected even numbers adding up to "
            f"the head width {arch.head_dim}, got {axes!r}",
            hint="the config belongs to another model; put the right one beside the weights",
        )
    return replace(arch, axes_dims_rope=tuple(axes))


def _are_axes(axes: object, head_dim: int) -> bool:
    return (
        isinstance(axes, (list, tuple))
        and all(type(axis) is int and axis > 0 and axis % 2 == 0 for axis in axes)
        and sum(axes) == head_dim
    )


def _variant(family: Family, arch: Architecture) -> str:
    """Say in words which member of the family this looks like."""
    full = family.published
    if full is None:
        return family.title
    words = [family.kinds.get(arch.in_channels, family.guided_words[arch.guidance])]
    if arch.in_channels != full.in_channels:
        words.append(f"{arch.in_channels} input channels")
    if arch.depths != full.depths:
        numbers = " + ".join(map(str, full.depths))
        words.append(f"{family.depth_words(arch.depths)} ({family.title} has {numbers})")
    if arch.hidden != full.hidden:
        words.append(f"width {arch.hidden} ({family.title} has {full.hidden})")
    return ", ".join(words)


def _units(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], table: Sequence[OutTensor]
) -> Mapping[str, UnitInfo]:
    """Return where each unit lies, in canonical order."""
    places: dict[str, Place] = {}
    infos: dict[str, TensorInfo] = {}
    for tensor in table:
        start = 0
        for unit in tensor.units:
            infos[unit] = checkpoint.tensors[tensor.name]
            places[unit] = Place(infos[unit].name, start, start + shapes[unit][0])
            start += shapes[unit][0]
    return {
        unit: UnitInfo(
            unit,
            places[unit],
            shape[0],
            infos[unit].row_elements,
            infos[unit].dtype,
        )
        for unit, shape in shapes.items()
    }


def _names(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names of a list whose length stands before it."""
    rest = len(names) - limit
    more = f" and {rest:,} more" if rest > 0 else ""
    return ", ".join(map(quoted, names[:limit])) + more
