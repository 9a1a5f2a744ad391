"""The files of an output: layout, dtypes, shards, index and config, all from the plan's facts.

Whatever is written agrees with itself: the config is that of the architecture whose tensors are
laid out, the index that of the shards that are planned.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from submerge.blocks import block_of
from submerge.checkpoint import DTYPES, FLOATS
from submerge.checkpoint.files import is_one_file
from submerge.errors import InternalError, LayoutError, RecipeError, quoted
from submerge.layout import COMFY_PREFIX, OutTensor, config_of, tensors_of
from submerge.plan.form import Output, Text, Unit
from submerge.plan.sizes import data_key, split_shards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from submerge.layout import Architecture, Model
    from submerge.plan.fill import Filled
    from submerge.recipe import Output as Wanted

__all__ = ["Placed", "Shape", "Tensor", "dtype_of", "laid_out", "place", "shape_of"]

DTYPE_NAMES = {
    "f32": "F32",
    "f16": "F16",
    "bf16": "BF16",
    "f8_e4m3": "F8_E4M3",
    "f8_e5m2": "F8_E5M2",
}
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


class Tensor(NamedTuple):
    """A tensor of the output before it has a file: what fills it, in row order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, Filled], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPES[self.dtype] // 8


class Placed(NamedTuple):
    """The tensors in their files: `paths` of the files, outputs and units in data order."""

    paths: tuple[str, ...]
    outputs: tuple[Output, ...]
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


def laid_out(
    shape: Shape, arch: Architecture, filled: Mapping[str, Filled], dtype: str
) -> list[Tensor]:
    """Return the tensors of the output in module order, each with what fills it.

    `dtype` is what the recipe says. A generic output has the tensors that are filled, by name.

    Raises:
        LayoutError: the architecture has no such layout, or dtypes that cannot share a tensor.
        InternalError: units left over or without a source: a defect of the layout tables.
    """
    if arch.family == "generic" and shape.layout == "generic":
        tensors = [
            OutTensor(n, () if f.scalar else (f.rows, *f.trailing), (n,))
            for n, f in sorted(filled.items())
        ]
    else:
        tensors = tensors_of(arch, shape.layout, shape.prefix)
    named = [unit for tensor in tensors for unit in tensor.units]
    if sorted(named) != sorted(filled):
        odd = sorted(set(named) ^ set(filled))
        raise InternalError(f"layout {quoted(shape.layout)}: units do not fit: {odd[:10]}")
    return [_tensor(tensor, filled, dtype) for tensor in tensors]


def _tensor(tensor: OutTensor, filled: Mapping[str, Filled], dtype: str) -> Tensor:
    parts = tuple((unit, filled[unit]) for unit in tensor.units)
    if dtype == "fp8":
        dtype = "f8_e4m3" if _is_block_matrix(tensor) else "same"
    rows = sum(part.rows for _, part in parts)
    trailing = parts[0][1].trailing
    shape = tensor.shape
    if (rows, trailing) != (shape[0] if shape else 1, shape[1:]):
        raise InternalError(f"{tensor.name}: filled as {(rows, *trailing)}, expected {shape}")
    return Tensor(tensor.name, dtype_of(tensor.name, [p for _, p in parts], dtype), shape, parts)


def _is_block_matrix(tensor: OutTensor) -> bool:
    """Tell the 99.5 % of the numbers that bear fp8 from embedders, norms and biases.

    Those are little in bytes and most of the error when cast with the rest.
    """
    return len(tensor.shape) == 2 and all(block_of(unit) is not None for unit in tensor.units)


def dtype_of(name: str, parts: Sequence[Filled], wanted: str) -> str:
    """Return the dtype of a tensor: the one wanted, or what its operands have in common.

    With `same`, BF16 where the operands disagree. What is no float keeps its dtype.

    Raises:
        LayoutError: floats and others in one tensor.
    """
    found = sorted({dtype for part in parts for dtype in part.dtypes})
    others = [dtype for dtype in found if dtype not in FLOATS]
    if others and len(found) > 1:
        raise LayoutError(
            f"{quoted(name)}: dtypes {', '.join(found)} would share one tensor, expected floats or "
            "one dtype",
            hint="write another layout, in which they are tensors of their own",
        )
    if others:
        return others[0]
    if wanted != "same":
        return DTYPE_NAMES[wanted]
    return found[0] if len(found) == 1 else "BF16"


def place(shape: Shape, tensors: Sequence[Tensor], arch: Architecture) -> Placed:
    """Return the tensors in files, with index and config where the layout has them."""
    sizes = [(tensor.name, tensor.nbytes) for tensor in tensors]
    shards = split_shards(sizes, shape.shard_size) if shape.shard_size else [[n for n, _ in sizes]]
    paths = _paths(shape, len(shards))
    by_name = {tensor.name: tensor for tensor in tensors}
    outputs: list[Output] = []
    units: list[Unit] = []
    for file, names in enumerate(shards):
        inside = sorted((by_name[name] for name in names), key=lambda t: data_key(t.name, t.dtype))
        for tensor in inside:
            units += _units(tensor, len(outputs))
            outputs.append(Output(file, tensor.name, tensor.dtype, tensor.shape))
    texts = []
    if len(shards) > 1:
        total = sum(size for _, size in sizes)
        texts.append(_index(shape, paths, shards, total))
    if shape.is_folder and shape.layout == "diffusers":
        text = json.dumps(config_of(arch), indent=2, sort_keys=True) + "\n"
        texts.append(Text(f"{shape.inside}config.json", text))
    return Placed(tuple(paths), tuple(outputs), tuple(units), tuple(texts))


def _paths(shape: Shape, count: int) -> list[str]:
    if not shape.is_folder:
        return [""]
    if count == 1:
        return [f"{shape.inside}{shape.stem}.safetensors"]
    return [
        f"{shape.inside}{shape.stem}-{i:05d}-of-{count:05d}.safetensors"
        for i in range(1, count + 1)
    ]


def _units(tensor: Tensor, output: int) -> list[Unit]:
    units, start = [], 0
    for name, part in tensor.parts:
        # A baked vector has one value per row, whatever else it is added to.
        unit = Unit(
            name=name,
            output=output,
            start=start,
            end=start + part.rows,
            operands=part.operands,
            op=part.op,
            arguments=part.arguments,
            models=part.models,
            shares=part.shares,
            formula=part.formula,
            reason=part.reason,
        )
        units.append(unit)
        start = unit.end
    return units


def _index(shape: Shape, paths: Sequence[str], shards: Sequence[Sequence[str]], total: int) -> Text:
    """Return the index as diffusers writes it."""
    names = [path.removeprefix(shape.inside) for path in paths]
    weight_map = {
        tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return Text(f"{shape.inside}{shape.stem}.safetensors.index.json", text)
