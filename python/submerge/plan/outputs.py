"""The files of an output: layout, dtypes, shards, index and config, all from the plan's facts.

Whatever is written agrees with itself: the config is that of the architecture whose tensors are
laid out, the index that of the shards that are planned.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from submerge.blocks import block_of
from submerge.checkpoint.codecs import CODECS, NUMBERS
from submerge.checkpoint.dtypes import DTYPES, WORDS
from submerge.checkpoint.names import is_one_file
from submerge.errors import InternalError, LayoutError, RecipeError, counted, quoted
from submerge.layout import COMFY_PREFIX, OutTensor, family_of, tensors_of
from submerge.plan.form import OutputTensor, Text, Unit
from submerge.plan.sizes import data_key, split_shards

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from submerge.layout import Architecture, Model
    from submerge.plan.unit import Inputs
    from submerge.recipe import Output as Wanted

__all__ = [
    "Filled",
    "Placed",
    "Shape",
    "dtype_of",
    "lay_out",
    "place",
    "precision_notes",
    "shape_of",
]

Filled: TypeAlias = tuple[OutputTensor, list[Unit]]
"""A tensor of the output and the units that fill it, in row order."""

# What numbers of a type are computed to, where that is another: quantised ones would be rounded
# once more by scales that nobody chose.
_COMPUTED = {"F64": "F32", **dict.fromkeys(CODECS, "BF16")}
# diffusers' own default for save_pretrained; decimal.
_SHARD_SIZE = 10_000_000_000


class Shape(NamedTuple):
    """What kind of output is made.

    Attributes:
        layout: `diffusers`, `bfl` or `generic`.
        prefix: what stands before every tensor's name.
        is_folder: whether the target is a folder.
        inside: the folder of the weights inside the target, `transformer/` in a pipeline.
        stem: name of the weight file without its suffix.
        shard_size: bytes of tensors per file at most; None for one file.
    """

    layout: str
    prefix: str
    is_folder: bool
    inside: str
    stem: str
    shard_size: int | None

    @property
    def carries_extras(self) -> bool:
        """Whether this is ComfyUI's all-in-one form, which has places for a VAE and encoders."""
        return self.layout == "bfl" and self.prefix == COMFY_PREFIX

    @property
    def words(self) -> str:
        """The layout by the name users write."""
        return "comfy" if self.carries_extras else self.layout


class Placed(NamedTuple):
    """The tensors in their files: `paths` of the files, outputs and units in data order."""

    paths: tuple[str, ...]
    outputs: tuple[OutputTensor, ...]
    units: tuple[Unit, ...]
    texts: tuple[Text, ...]


def shape_of(wanted: Wanted, first: Model, target: Path) -> Shape:
    """Return the kind of output a recipe asks for.

    Raises:
        RecipeError: wishes that contradict each other or the target.
    """
    is_folder = not is_one_file(target)
    pipeline = wanted.pipeline_from is not None
    layout, prefix = _layout(wanted, first, pipeline=pipeline)
    if wanted.dtype == "fp8" and layout == "generic":
        raise RecipeError(
            "recipe.output.dtype: `fp8` of a generic model, whose blocks are not known, expected "
            "`f8_e4m3` for all of it or another type"
        )
    if wanted.scheduler_from is not None and not pipeline:
        raise RecipeError(
            "recipe.output.scheduler_from: a scheduler without a pipeline, expected "
            "`pipeline_from` beside it",
            hint="add `pipeline_from`",
        )
    if pipeline and not is_folder:
        raise RecipeError(
            f"recipe.output.pipeline_from: {quoted(target.name)} is one file, expected a folder to "
            "write a pipeline into",
            hint=f"leave {quoted(target.suffix)} off the output's name",
        )
    if pipeline and layout != "diffusers":
        raise RecipeError(
            f"recipe.output.layout: {quoted(wanted.layout)} in a pipeline, expected `diffusers`",
            hint="write `layout: diffusers`, or leave `pipeline_from` out",
        )
    if is_folder and layout == "diffusers":
        prefix = ""  # from_pretrained knows no prefixes
    sharded = is_folder and layout != "bfl"
    if wanted.shard_size is not None and not sharded:
        raise RecipeError(
            f"recipe.output.shard_size: the output {quoted(target.name)} is one file, expected "
            "shards only in a folder of the diffusers layout",
            hint="leave `shard_size` out",
        )
    stem = {"diffusers": "diffusion_pytorch_model", "generic": "model"}.get(layout, target.name)
    return Shape(
        layout=layout,
        prefix=prefix,
        is_folder=is_folder,
        inside="transformer/" if pipeline else "",
        stem=stem,
        shard_size=(wanted.shard_size or _SHARD_SIZE) if sharded else None,
    )


def _layout(wanted: Wanted, first: Model, *, pipeline: bool) -> tuple[str, str]:
    if wanted.layout == "same":
        # A pipeline has one layout; saying so twice is not asked of anybody.
        return ("diffusers", "") if pipeline else (first.layout, first.prefix)
    if wanted.layout == "comfy":
        return ("bfl", COMFY_PREFIX)
    return (wanted.layout, "")


def lay_out(
    shape: Shape, arch: Architecture, units: Mapping[str, Unit], inputs: Inputs, dtype: str
) -> list[Filled]:
    """Return the tensors of the output in module order, each with its units in row order.

    `dtype` is what the recipe says. A generic output has the tensors of its units, by name.

    Raises:
        LayoutError: the architecture has no such layout, or dtypes that cannot share a tensor.
        InternalError: units left over or without a place: a defect of the layout tables.
    """
    if arch.family == "generic" and shape.layout == "generic":
        tensors = [OutTensor(n, inputs.shape(unit), (n,)) for n, unit in sorted(units.items())]
    else:
        tensors = tensors_of(arch, shape.layout, shape.prefix)
    named = [unit for tensor in tensors for unit in tensor.units]
    if sorted(named) != sorted(units):
        odd = sorted(set(named) ^ set(units))
        raise InternalError(f"layout {quoted(shape.layout)}: units do not fit: {odd[:10]}")
    return [_filled(tensor, [units[n] for n in tensor.units], inputs, dtype) for tensor in tensors]


def _filled(tensor: OutTensor, units: Sequence[Unit], inputs: Inputs, dtype: str) -> Filled:
    """Return a tensor of the output, its units below each other."""
    placed, end = [], 0
    for unit in units:
        placed.append(unit._replace(start=end, end=end + unit.end) if end else unit)
        end += unit.end
    trailing = inputs.trailing(units[0])
    if (end, trailing) != (tensor.shape[0] if tensor.shape else 1, tensor.shape[1:]):
        shape = (end, *trailing)
        raise InternalError(f"{tensor.name}: filled as {shape}, expected {tensor.shape}")
    if dtype == "fp8":
        dtype = "f8_e4m3" if _is_block_matrix(tensor) else "same"
    dtypes = frozenset().union(*(inputs.dtypes(unit) for unit in units))
    copied = len(dtypes) == 1 and all(unit.op == "copy" for unit in units)
    if dtype == "same" and copied and not dtypes & CODECS.keys():
        (found,) = dtypes  # the bytes as they are
    else:
        found = dtype_of(tensor.name, dtypes, dtype)
    return OutputTensor(0, tensor.name, found, tensor.shape), placed


def _is_block_matrix(tensor: OutTensor) -> bool:
    """Tell the 99.5 % of the numbers that bear fp8 from embedders, norms and biases.

    Those are little in bytes and most of the error when cast with the rest.
    """
    return len(tensor.shape) == 2 and all(block_of(unit) is not None for unit in tensor.units)


def dtype_of(name: str, dtypes: Collection[str], wanted: str) -> str:
    """Return the dtype of a tensor: the one wanted, or with `same` the widest of its operands.

    Of two as wide as each other (F16 and BF16, or the two of 8 bits) neither holds the other's
    numbers: BF16 is taken. Sums are formed in F32, so that is what F64 becomes; quantised numbers
    become BF16. What is no number keeps its dtype.

    Raises:
        LayoutError: numbers and others in one tensor.
    """
    found = sorted(dtypes)
    others = [dtype for dtype in found if dtype not in NUMBERS]
    if others and len(found) > 1:
        raise LayoutError(
            f"{quoted(name)}: dtypes {', '.join(found)} would share one tensor, expected floats or "
            "one dtype",
            hint="write another layout, in which they are tensors of their own",
        )
    if others:
        return others[0]
    if wanted != "same":
        return WORDS[wanted]
    floats = {_COMPUTED.get(dtype, dtype) for dtype in found}
    bits = max(DTYPES[dtype].bits for dtype in floats)
    widest = [dtype for dtype in floats if DTYPES[dtype].bits == bits]
    return widest[0] if len(widest) == 1 else "BF16"


def precision_notes(tensors: Sequence[Filled], inputs: Inputs, wanted: str) -> tuple[str, ...]:
    """Return what `same` made of the tensors that no model or not every model has in that type."""
    if wanted != "same":
        return ()
    changed: Counter[tuple[tuple[str, ...], str]] = Counter()
    for tensor, units in tensors:
        dtypes = frozenset().union(*(inputs.dtypes(unit) for unit in units))
        if dtypes != {tensor.dtype}:
            changed[tuple(sorted(dtypes)), tensor.dtype] += 1
    return tuple(
        f"{counted(count, 'tensor')} of {' and '.join(dtypes)} written in {dtype}; "
        "`dtype` chooses another type"
        for (dtypes, dtype), count in changed.items()
    )


def place(shape: Shape, tensors: Sequence[Filled], arch: Architecture) -> Placed:
    """Return the tensors in files, with index and config where the layout has them."""
    sizes = [(tensor.name, tensor.nbytes) for tensor, _ in tensors]
    shards = split_shards(sizes, shape.shard_size) if shape.shard_size else [[n for n, _ in sizes]]
    paths = _paths(shape, len(shards))
    by_name = {tensor.name: (tensor, units) for tensor, units in tensors}
    outputs: list[OutputTensor] = []
    placed: list[Unit] = []
    for file, names in enumerate(shards):
        inside = [by_name[name] for name in names]
        for tensor, units in sorted(inside, key=lambda found: data_key(*found[0][1:3])):
            placed += [unit._replace(output=len(outputs)) for unit in units]
            outputs.append(tensor._replace(file=file))
    texts = []
    if len(shards) > 1:
        total = sum(size for _, size in sizes)
        texts.append(_index(shape, paths, shards, total))
    family = family_of(arch)
    if shape.is_folder and shape.layout == "diffusers" and family is not None and family.config:
        text = json.dumps(family.config(arch), indent=2, sort_keys=True) + "\n"
        texts.append(Text(f"{shape.inside}config.json", text))
    return Placed(tuple(paths), tuple(outputs), tuple(placed), tuple(texts))


def _paths(shape: Shape, count: int) -> list[str]:
    if not shape.is_folder:
        return [""]
    if count == 1:
        return [f"{shape.inside}{shape.stem}.safetensors"]
    return [
        f"{shape.inside}{shape.stem}-{i:05d}-of-{count:05d}.safetensors"
        for i in range(1, count + 1)
    ]


def _index(shape: Shape, paths: Sequence[str], shards: Sequence[Sequence[str]], total: int) -> Text:
    """Return the index as diffusers writes it."""
    names = [path.removeprefix(shape.inside) for path in paths]
    weight_map = {
        tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return Text(f"{shape.inside}{shape.stem}.safetensors.index.json", text)
