"""Recognise a FLUX.1 transformer: layout and prefix by a full match of the table, depth, sizes.

Nothing is guessed from a few names. Of every prefix and layout under which the file has block
tensors, the whole table is expanded to the file's depth and must match name for name and shape for
shape; then the config beside the weights, if any, must agree.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from submerge.errors import LayoutError, counted, listing, quoted
from submerge.layout import flux1, generic
from submerge.layout.model import Architecture, Model, OutTensor, Place, UnitInfo
from submerge.layout.saves import refuse_fused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
# FLUX.1's own depth, width and input channels, to tell its relatives apart.
_DEPTH = (19, 38)
_LITE_DEPTH = (8, 38)
_WIDTH = 3072
_CHANNELS = 64

# What FluxTransformer2DModel assumes for fields that a config does not state.
_CONFIG_DEFAULTS: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
}


class _Candidate(NamedTuple):
    """A layout and prefix under which the file has block tensors, and the block indices found."""

    layout: Literal["bfl", "diffusers"]
    prefix: str
    double: frozenset[int]
    single: frozenset[int]


def recognise(checkpoint: Checkpoint, layouts: Sequence[str]) -> Model:
    """Recognise a FLUX.1 transformer in one of the layouts given.

    Raises:
        LayoutError: no such transformer, several, or one that is incomplete, has tensors or shapes
            that FLUX.1 does not have, or contradicts its config.
    """
    candidate = _only_candidate(checkpoint, layouts)
    double = _depth(checkpoint, "double", candidate.double)
    single = _depth(checkpoint, "single", candidate.single)
    inside, extras, strange = _namespace(checkpoint, candidate.prefix)
    arch = _architecture(checkpoint, candidate, (double, single))
    table = flux1.tensors_of(arch, candidate.layout, candidate.prefix)
    _check_names(checkpoint, candidate, table, inside)
    _check_shapes(checkpoint, candidate, table)
    _check_proportions(checkpoint, arch)
    arch = _check_config(checkpoint, arch)
    return Model(
        checkpoint=checkpoint._replace(warnings=(*checkpoint.warnings, *strange)),
        arch=arch,
        variant=_variant(arch),
        layout=candidate.layout,
        prefix=candidate.prefix,
        units=MappingProxyType(_units(checkpoint, arch, table)),
        extras=tuple(checkpoint.tensors[name].name for name in extras),
    )


def _only_candidate(checkpoint: Checkpoint, layouts: Sequence[str]) -> _Candidate:
    candidates = [found for layout in layouts for found in _candidates(checkpoint, layout)]
    known = [found for found in candidates if found.prefix in PREFIXES]
    if known and len(candidates) > 1:
        # A second one under a name that says nothing is no less a transformer: an EMA copy, say.
        places = [f"{found.prefix}{flux1.LAYOUTS[found.layout].double}" for found in candidates]
        raise LayoutError(
            f"{checkpoint.path}: holds {listing(places, noun='transformer')}, expected one",
            hint="save each transformer to a file of its own",
        )
    if known:
        return known[0]
    if candidates:
        prefix = candidates[0].prefix
        raise LayoutError(
            f"{checkpoint.path}: FLUX.1 tensor names begin with {quoted(prefix)}, expected one of "
            f"the known prefixes ({', '.join(map(quoted, PREFIXES[1:]))}) or none",
            hint="rename the tensors, or use `layout: generic`",
        )
    raise LayoutError(
        f"{checkpoint.path}: expected a FLUX.1 transformer, got {listing(checkpoint.tensors)}",
        hint=_GENERIC_HINT,
    )


def _candidates(checkpoint: Checkpoint, layout: str) -> list[_Candidate]:
    """Return every prefix under which the file has block tensors of this layout."""
    names = flux1.LAYOUTS[layout]
    # The last name of a stack counts: nothing inside a block is called like one.
    blocks = re.compile(
        rf"(?P<prefix>(?:.*\.)?)(?P<stack>{names.double}|{names.single})"
        r"\.(?P<index>0|[1-9][0-9]{0,4})\.(?P<inside>.+)"
    )
    inside = {
        names.double: _parameters(names, names.in_double),
        names.single: _parameters(names, names.in_single),
    }
    found: dict[str, dict[str, set[int]]] = {}
    for name in checkpoint.tensors:
        match = blocks.fullmatch(name)
        if match is not None and match["inside"] in inside[match["stack"]]:
            stacks = found.setdefault(match["prefix"], {stack: set() for stack in inside})
            stacks[match["stack"]].add(int(match["index"]))
    return [
        _Candidate(
            cast(Literal["bfl", "diffusers"], layout),
            prefix,
            frozenset(stacks[names.double]),
            frozenset(stacks[names.single]),
        )
        for prefix, stacks in found.items()
    ]


def _parameters(names: flux1.Names, table: Iterable[tuple[str, tuple[str, ...]]]) -> frozenset[str]:
    """Return what may follow a block's index."""
    return frozenset(
        f"{module}.{parameter}"
        for module, units in table
        for parameter in ((names.norm,) if ".norm." in f".{units[0]}" else ("weight", "bias"))
    )


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
    checkpoint: Checkpoint, candidate: _Candidate, depth: tuple[int, int]
) -> Architecture:
    """Read the sizes off the tensors; what is missing or malformed is 0 and told later."""
    # The names do not depend on the sizes, so a table of zeros finds the tensors to look at.
    arch = replace(
        generic.ARCHITECTURE, family="flux1", double=depth[0], single=depth[1], guidance=True
    )
    table = flux1.tensors_of(arch, candidate.layout, candidate.prefix)
    holder = {unit: tensor.name for tensor in table for unit in tensor.units}

    def size(unit: str, dimension: int) -> int:
        tensor = checkpoint.tensors.get(holder[unit])
        shape = () if tensor is None else tensor.shape
        return shape[dimension] if dimension < len(shape) else 0

    head_dim = size("double.0.img.norm.q.weight", 0)
    return replace(
        arch,
        hidden=size("embed.img.weight", 0),
        head_dim=head_dim,
        mlp=size("double.0.img.mlp.in.weight", 0),
        in_channels=size("embed.img.weight", 1),
        out_channels=size("final.linear.weight", 0),
        context_dim=size("embed.txt.weight", 1),
        pooled_dim=size("embed.vector.in.weight", 1),
        guidance=any(
            holder[unit] in checkpoint.tensors for unit in holder if unit.startswith("guidance.")
        ),
        axes_dims_rope=flux1.rope_axes(head_dim),
    )


def _check_names(
    checkpoint: Checkpoint,
    candidate: _Candidate,
    table: Sequence[OutTensor],
    inside: Sequence[str],
) -> None:
    refuse_fused(checkpoint, inside)
    expected = {tensor.name for tensor in table}
    what = f"the {candidate.layout} layout of FLUX.1 with {_depth_text(candidate)}"
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
            f"shape for FLUX.1 with {_depth_text(candidate)}: {quoted(first.name)} expected "
            f"{list(first.shape)}, got {list(checkpoint.tensors[first.name].shape)}"
            + (f"; also {_names([t.name for t in wrong[1:]], 9)}" if len(wrong) > 1 else ""),
            hint=f"another kind of model, perhaps; {_GENERIC_HINT}",
        )


def _check_proportions(checkpoint: Checkpoint, arch: Architecture) -> None:
    """Refuse sizes that fit together but that neither code base can build."""
    heads_fit = arch.head_dim > 0 and arch.hidden > 0 and arch.hidden % arch.head_dim == 0
    if not heads_fit or arch.mlp != flux1.MLP_RATIO * arch.hidden:
        raise LayoutError(
            f"{checkpoint.path}: expected heads that divide the width and an mlp of "
            f"{flux1.MLP_RATIO} times the width, got width {arch.hidden}, heads of {arch.head_dim} "
            f"and an mlp of {arch.mlp}",
            hint=_GENERIC_HINT,
        )
    depth = (arch.double, arch.single)
    if depth == _LITE_DEPTH and arch.hidden == _WIDTH and arch.in_channels == _CHANNELS:
        raise LayoutError(
            f"{checkpoint.path}: is Flux.1-lite or Flex.1-alpha (8 double + 38 single blocks), "
            "expected the 19 + 38 blocks of FLUX.1",
            hint="its block i is not FLUX.1's block i although names and shapes agree; "
            "`layout: generic` on every model merges it with its own kind",
        )


def _check_config(checkpoint: Checkpoint, arch: Architecture) -> Architecture:
    """Compare the config with the tensors; return the architecture with the config's rope axes."""
    if checkpoint.config is None:
        return arch
    config = {**_CONFIG_DEFAULTS, **checkpoint.config}
    if config["out_channels"] is None:
        config["out_channels"] = config["in_channels"]
    truth = {**flux1.config_of(arch), "out_channels": arch.out_channels}
    wrong = [field for field in _CONFIG_DEFAULTS if config[field] != truth[field]]
    if wrong:
        told = ", ".join(
            f"{quoted(field)} expected {truth[field]!r}, got {config[field]!r}" for field in wrong
        )
        raise LayoutError(
            f"{checkpoint.path}: config.json contradicts the tensors in "
            f"{counted(len(wrong), 'field')}: {told}",
            hint="the config belongs to another model; put the right one beside the weights",
        )
    axes = checkpoint.config.get("axes_dims_rope", (16, 56, 56))
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


def _variant(arch: Architecture) -> str:
    """Say in words which member of the family this looks like."""
    kinds = {
        128: "FLUX.1-Canny-dev or FLUX.1-Depth-dev",
        384: "FLUX.1-Fill-dev",
        196: "Flex.2",
    }
    base = "FLUX.1 [dev] kind (guidance)" if arch.guidance else "FLUX.1-schnell kind (no guidance)"
    words = [kinds.get(arch.in_channels, base)]
    if arch.in_channels != _CHANNELS:
        words.append(f"{arch.in_channels} input channels")
    if (arch.double, arch.single) != _DEPTH:
        words.append(f"{arch.double} double + {arch.single} single blocks (FLUX.1 has 19 + 38)")
    if arch.hidden != _WIDTH:
        words.append(f"width {arch.hidden} (FLUX.1 has {_WIDTH})")
    return ", ".join(words)


def _units(
    checkpoint: Checkpoint, arch: Architecture, table: Sequence[OutTensor]
) -> Mapping[str, UnitInfo]:
    """Return where each unit lies, in canonical order."""
    shapes = flux1.unit_shapes(arch)
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


def _depth_text(candidate: _Candidate) -> str:
    return f"{len(candidate.double)} double + {len(candidate.single)} single blocks"


def _names(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names of a list whose length has been told already."""
    rest = len(names) - limit
    more = f" and {rest:,} more" if rest > 0 else ""
    return ", ".join(map(quoted, names[:limit])) + more
