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
from submerge.checkpoint.names import container_of, is_one_file
from submerge.errors import InternalError, LayoutError, RecipeError, counted, quoted
from submerge.formats import READERS
from submerge.layout import COMFY_PREFIX, OutTensor, family_of, tensors_of
from submerge.plan.encoding import beside_units, encoding_of, marker_of, quantization_config
from submerge.plan.form import OutputTensor, Text, Unit
from submerge.plan.sizes import data_key, split_shards
from submerge.plan.taken import taken

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from submerge.formats import Format
    from submerge.layout import Architecture, Model
    from submerge.plan.encoding import Encoding
    from submerge.plan.unit import Inputs
    from submerge.recipe import Output as Wanted

__all__ = [
    "Filled",
    "LaidOut",
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
        encoding: how the numbers are written.
    """

    layout: str
    prefix: str
    is_folder: bool
    inside: str
    stem: str
    shard_size: int | None
    encoding: Encoding

    @property
    def carries_extras(self) -> bool:
        """Whether this is ComfyUI's all-in-one form, which has places for a VAE and encoders."""
        # No program looks for them in a GGUF.
        has_place = self.encoding.container != "gguf"
        return has_place and self.layout == "bfl" and self.prefix == COMFY_PREFIX

    @property
    def words(self) -> str:
        """The layout by the name users write."""
        return "comfy" if self.carries_extras else self.layout


class LaidOut(NamedTuple):
    """The tensors of a model with their units, those that go with their formats, and remarks."""

    tensors: list[Filled]
    beside: list[Filled]
    notes: tuple[str, ...]


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
    encoding = encoding_of(wanted, container_of(target))
    layout, prefix = _layout(wanted, first, encoding)
    for form in encoding.forms:
        if form.blocks and layout == "generic":
            raise RecipeError(
                f"recipe.output.dtype: {quoted(form.name)} of a generic model, whose blocks are "
                "not known, expected `f8_e4m3` for all of it or another type"
            )
    _expect_pipeline(wanted, target, layout)
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
        inside="transformer/" if wanted.pipeline_from is not None else "",
        stem=stem,
        shard_size=(wanted.shard_size or _SHARD_SIZE) if sharded else None,
        encoding=encoding,
    )


def _expect_pipeline(wanted: Wanted, target: Path, layout: str) -> None:
    """Refuse a pipeline, or a part of one, where none can be."""
    if wanted.pipeline_from is None:
        if wanted.scheduler_from is not None:
            raise RecipeError(
                "recipe.output.scheduler_from: a scheduler without a pipeline, expected "
                "`pipeline_from` beside it",
                hint="add `pipeline_from`",
            )
        return
    if is_one_file(target):
        raise RecipeError(
            f"recipe.output.pipeline_from: {quoted(target.name)} is one file, expected a folder to "
            "write a pipeline into",
            hint=f"leave {quoted(target.suffix)} off the output's name",
        )
    if layout != "diffusers":
        raise RecipeError(
            f"recipe.output.layout: {quoted(wanted.layout)} in a pipeline, expected `diffusers`",
            hint="write `layout: diffusers`, or leave `pipeline_from` out",
        )


def _layout(wanted: Wanted, first: Model, encoding: Encoding) -> tuple[str, str]:
    """Return the layout and the prefix: those asked for, or what suits the rest."""
    layouts = encoding.layouts
    if wanted.layout not in ("same", *(layouts or (wanted.layout,))):
        raise RecipeError(
            f"recipe.output.layout: {quoted(wanted.layout)}, expected "
            f"{' or '.join(map(quoted, layouts))} for {encoding.what}",
            hint="leave `layout` out",
        )
    if wanted.layout == "comfy":
        return ("bfl", COMFY_PREFIX)
    if wanted.layout != "same":
        return (wanted.layout, "")
    if wanted.pipeline_from is not None:
        # A pipeline has one layout; saying so twice is not asked of anybody.
        return ("diffusers", "")
    if first.layout == "generic" or not layouts:
        return (first.layout, first.prefix)
    all_in_one = "comfy" in layouts and first.prefix == COMFY_PREFIX
    return ("bfl", COMFY_PREFIX) if all_in_one else (layouts[0], "")


def lay_out(shape: Shape, arch: Architecture, units: Mapping[str, Unit], inputs: Inputs) -> LaidOut:
    """Return the tensors of the output in module order, each with its units in row order.

    A generic output has the tensors of its units, by name.

    Raises:
        RecipeError: formats that fit no tensor, or differ within one.
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
    chosen = shape.encoding.chosen(tensors)
    filled: list[Filled] = []
    beside: list[Filled] = []
    for tensor in tensors:
        inside = _stacked(tensor, [units[n] for n in tensor.units], inputs)
        form, asked = chosen[tensor.name]
        if (as_is := taken(tensor, form, inside, inputs)) is not None:
            filled.append(as_is.codes)
            beside += as_is.beside
            continue
        rest = _rest(tensor, inside, inputs, form)
        filled.append((shape.encoding.tensor(tensor, form, rest, asked=asked), inside))
    written = {tensor.name: tensor.written for tensor, _ in filled}
    precision = precision_notes(filled, inputs) if "same" in shape.encoding.formats.names else ()
    notes = (*_for_whom(shape), *precision, *shape.encoding.notes(tensors, written))
    beside += [marker for tensor, _ in filled if (marker := marker_of(tensor)) is not None]
    return LaidOut(filled, beside, notes)


def _for_whom(shape: Shape) -> list[str]:
    """Say what was chosen for the program that the output is for."""
    reader = READERS.get(shape.encoding.reader or "")
    if reader is None:
        return []
    names = f"names begin with {quoted(shape.prefix)}" if shape.prefix else "bare names"
    formats = ", ".join(shape.encoding.formats.names)
    return [f"for {reader.title}: layout {shape.words}, {names}, {formats}"]


def _stacked(tensor: OutTensor, units: Sequence[Unit], inputs: Inputs) -> list[Unit]:
    """Return the units of a tensor below each other."""
    placed, end = [], 0
    for unit in units:
        placed.append(unit._replace(start=end, end=end + unit.end) if end else unit)
        end += unit.end
    trailing = inputs.trailing(units[0])
    if (end, trailing) != (tensor.shape[0] if tensor.shape else 1, tensor.shape[1:]):
        shape = (end, *trailing)
        raise InternalError(f"{tensor.name}: filled as {shape}, expected {tensor.shape}")
    return placed


def _rest(tensor: OutTensor, units: Sequence[Unit], inputs: Inputs, form: Format) -> str:
    """Return the dtype of a tensor that is not in a format of its own."""
    dtypes = frozenset().union(*(inputs.dtypes(unit) for unit in units))
    all_alike = form.dtype and not form.codec and (not form.blocks or _is_block_matrix(tensor))
    wanted = form.dtype.lower() if all_alike else "same"
    copied = len(dtypes) == 1 and all(unit.op == "copy" for unit in units)
    if wanted == "same" and copied and not dtypes & CODECS.keys():
        (found,) = dtypes  # the bytes as they are
        return found
    return dtype_of(tensor.name, dtypes, wanted)


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


def precision_notes(tensors: Sequence[Filled], inputs: Inputs) -> tuple[str, ...]:
    """Return what `same` made of the tensors that no model or not every model has in that type."""
    changed: Counter[tuple[tuple[str, ...], str]] = Counter()
    for tensor, units in tensors:
        dtypes = frozenset().union(*(inputs.dtypes(unit) for unit in units))
        if dtypes != {tensor.dtype} and not tensor.format:
            changed[tuple(sorted(dtypes)), tensor.dtype] += 1
    return tuple(
        f"{counted(count, 'tensor')} of {' and '.join(dtypes)} written in {dtype}; "
        "`dtype` chooses another type"
        for (dtypes, dtype), count in changed.items()
    )


def place(shape: Shape, tensors: Sequence[Filled], arch: Architecture) -> Placed:
    """Return the tensors in files, with index and config where the layout has them.

    What stands beside a tensor stands in its file, next to it: the core writes it in one go.
    """
    sizes = [(tensor.name, _whole_size(tensor)) for tensor, _ in tensors]
    shards = split_shards(sizes, shape.shard_size) if shape.shard_size else [[n for n, _ in sizes]]
    paths = _paths(shape, len(shards))
    by_name = {tensor.name: (tensor, units) for tensor, units in tensors}
    outputs: list[OutputTensor] = []
    placed: list[Unit] = []
    for file, names in enumerate(shards):
        inside = [by_name[name] for name in names]
        for tensor, units in sorted(inside, key=lambda found: _order(found[0])):
            for written, its in _beside(tensor, units, len(outputs)):
                placed += [unit._replace(output=len(outputs)) for unit in its]
                outputs.append(written._replace(file=file, beside=()))
    texts = []
    if len(shards) > 1:
        texts.append(_index(shape, paths, outputs))
    family = family_of(arch)
    if shape.is_folder and shape.layout == "diffusers" and family is not None and family.config:
        config = family.config(arch) | quantization_config(outputs)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        texts.append(Text(f"{shape.inside}config.json", text))
    return Placed(tuple(paths), tuple(outputs), tuple(placed), tuple(texts))


def _whole_size(tensor: OutputTensor) -> int:
    return tensor.nbytes + sum(side.nbytes for side in tensor.beside)


def _order(tensor: OutputTensor) -> tuple[int, str]:
    """Return what sorts the tensors of a file: what is widest first, so that all are aligned."""
    widest, _ = min(data_key(tensor.name, t.dtype) for t in (tensor, *tensor.beside))
    return (widest, tensor.name)


def _beside(
    tensor: OutputTensor, units: Sequence[Unit], first: int
) -> list[tuple[OutputTensor, Sequence[Unit]]]:
    """Return a tensor and those beside it in data order, each with its units.

    The first of them becomes the output of the index `first`.
    """
    together = sorted((tensor, *tensor.beside), key=lambda t: data_key(t.name, t.dtype))
    sides = {
        side.name: [unit] for side, unit in beside_units(tensor, first + together.index(tensor))
    }
    return [(one, sides.get(one.name, units)) for one in together]


def _paths(shape: Shape, count: int) -> list[str]:
    if not shape.is_folder:
        return [""]
    if count == 1:
        return [f"{shape.inside}{shape.stem}.safetensors"]
    return [
        f"{shape.inside}{shape.stem}-{i:05d}-of-{count:05d}.safetensors"
        for i in range(1, count + 1)
    ]


def _index(shape: Shape, paths: Sequence[str], outputs: Sequence[OutputTensor]) -> Text:
    """Return the index as diffusers writes it."""
    names = [path.removeprefix(shape.inside) for path in paths]
    weight_map = {tensor.name: names[tensor.file] for tensor in outputs}
    total = sum(tensor.nbytes for tensor in outputs)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return Text(f"{shape.inside}{shape.stem}.safetensors.index.json", text)
