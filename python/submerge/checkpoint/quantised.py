"""From codes and scales to numbers: the tensors of a quantised model as what they stand for.

This stands between reading headers and recognising layouts, which then know numbers only. Every
tensor of a form that is read is either a number, or is said in `Checkpoint.beside` to be used up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from submerge.checkpoint import Packed
from submerge.checkpoint.codecs import CODECS
from submerge.checkpoint.forms import DESCRIBED, FORMS, UNNEEDED, WHOLE, WIDE, Beside, Form
from submerge.checkpoint.marks import Mark, marks_of, method_of
from submerge.checkpoint.refused import REFUSED, refuse
from submerge.errors import CheckpointError, LayoutError, counted, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.checkpoint import Checkpoint, TensorInfo
    from submerge.checkpoint.codecs import Spec

__all__ = ["numbers_of"]

_PAYLOAD = "weight"
_SIDES = frozenset(side.leaf for form in FORMS for side in form.sides)
_LEAVES = _SIDES | UNNEEDED.keys() | {refused.leaf for refused in REFUSED}


@dataclass
class _Layer:
    """What stands beside the codes of one layer, by the ends of names."""

    stem: str
    codes: TensorInfo | None
    leaves: dict[str, TensorInfo] = field(default_factory=dict)
    mark: Mark | None = None

    @property
    def sides(self) -> dict[str, TensorInfo]:
        """What its numbers may depend on."""
        return {leaf: info for leaf, info in self.leaves.items() if leaf not in UNNEEDED}


def numbers_of(
    checkpoint: Checkpoint,
    names: Iterable[str],
    prefixes: Iterable[str] = ("",),
    nvfp4: str = "auto",
) -> Checkpoint:
    """Return a checkpoint whose quantised tensors have the dtypes and shapes of their numbers.

    Args:
        checkpoint: as its headers say.
        names: the tensors that are looked at; all others stay as they are.
        prefixes: what may stand before a layer's name that a description leaves out.
        nvfp4: whose layout NVFP4 has where the file does not say: `comfy`, `bfl` or `auto`.

    Raises:
        CheckpointError: codes, scales and descriptions that do not fit together.
        LayoutError: a form that is not read, by its name, or NVFP4 that may be either.
    """
    own = {name: checkpoint.tensors[name] for name in names}
    method = method_of(checkpoint)
    layers = _layers(own, marks_of(checkpoint, own, prefixes))
    chosen = _Choice(checkpoint, method, nvfp4).forms(layers)
    beside: dict[str, list[str]] = {}
    tensors = dict(checkpoint.tensors)
    for stem, (form, layer) in chosen.items():
        tensors[_join(stem, _PAYLOAD)] = _packed(form, layer)
        for side in form.sides:
            beside.setdefault(DESCRIBED, []).append(_join(stem, side.leaf))
    for layer in layers.values():
        for leaf in _unneeded(layer, is_read=layer.stem in chosen):
            beside.setdefault(UNNEEDED[leaf], []).append(_join(layer.stem, leaf))
    used = {name for gone in beside.values() for name in gone}
    refuse(checkpoint, [name for name in own if name not in used])
    if not used:
        return checkpoint
    return checkpoint._replace(
        tensors=MappingProxyType({n: info for n, info in tensors.items() if n not in used}),
        beside=MappingProxyType(
            {why: tuple(own[n].name for n in sorted(gone)) for why, gone in beside.items()}
        ),
    )


def _unneeded(layer: _Layer, *, is_read: bool) -> list[str]:
    """Return what stands beside codes and says nothing of their numbers, by the ends of names.

    Plain fp8 may have scales of activations too; a marker of the whole file stands alone.
    """
    is_code = is_read or (layer.codes is not None and layer.codes.dtype.startswith("F8"))
    return [leaf for leaf in layer.leaves if leaf in UNNEEDED and (is_code or leaf == WHOLE)]


def _join(stem: str, leaf: str) -> str:
    return f"{stem}.{leaf}" if stem else leaf


def _cut(name: str) -> tuple[str, str]:
    """Return the stem of a layer and the end of a name; the longest end that is known."""
    parts = name.split(".")
    for at in range(max(0, len(parts) - 3), len(parts)):
        if (leaf := ".".join(parts[at:])) in _LEAVES:
            return ".".join(parts[:at]), leaf
    return ".".join(parts[:-1]), parts[-1]


def _layers(own: Mapping[str, TensorInfo], marks: Mapping[str, Mark]) -> dict[str, _Layer]:
    """Return the layers that something stands beside, in the order of the file."""
    layers: dict[str, _Layer] = {}
    for name, info in own.items():
        stem, leaf = _cut(name)
        if leaf in _LEAVES:
            layer = layers.setdefault(stem, _Layer(stem, own.get(_join(stem, _PAYLOAD))))
            layer.leaves[leaf] = info
    for stem, mark in marks.items():
        layer = layers.setdefault(stem, _Layer(stem, own.get(_join(stem, _PAYLOAD))))
        layer.mark = mark
    return layers


@dataclass
class _Choice:
    """Which form each layer of a file has."""

    checkpoint: Checkpoint
    method: str | None
    nvfp4: str

    def forms(self, layers: Mapping[str, _Layer]) -> dict[str, tuple[Form, _Layer]]:
        """Return the form of every layer that is quantised in one that is read."""
        fitting = {stem: self._fitting(layer) for stem, layer in layers.items()}
        fitting = {stem: forms for stem, forms in fitting.items() if forms}
        is_quantised = bool(fitting) or any(layer.mark for layer in layers.values())
        for layer in layers.values() if is_quantised else ():
            if layer.codes is None and layer.leaves.keys() & (_SIDES - {"scale"}):
                self._fail(
                    f"has no {quoted(_join(layer.stem, _PAYLOAD))}, expected the codes beside "
                    f"{quoted(next(iter(layer.leaves.values())).name)}",
                )
        return {stem: (self._one(forms, fitting), layers[stem]) for stem, forms in fitting.items()}

    def _fitting(self, layer: _Layer) -> list[Form]:
        """Return the forms that fit a layer; none of what is no layer of codes.

        Raises:
            CheckpointError: it is of a form, which it does not fit.
        """
        word = layer.mark.word if layer.mark else ""
        if not word and self.method == "sdnq" and "scale" in layer.leaves:
            word = "sdnq"
        meant = [form for form in FORMS if form.word == word]
        if layer.mark is not None and not meant:
            raise LayoutError(
                f"{layer.mark.where}: the format {quoted(word)} is not known",
                hint="ComfyUI does not load it either; merge the unquantised model",
            )
        codes = layer.codes
        if codes is None or (codes.dtype in WIDE and layer.mark is None):
            if layer.mark is not None:
                self._fail(f"{layer.mark.where} describes a layer without a `{_PAYLOAD}`")
            return []
        by_dtype = [form for form in meant if codes.dtype in form.dtypes]
        if layer.mark is not None and not by_dtype:
            wanted = sorted({dtype for form in meant for dtype in form.dtypes})
            self._fail(
                f"{quoted(codes.name)} is {codes.dtype}, expected {' or '.join(wanted)} as "
                f"{meant[0].title} has it ({layer.mark.where})",
            )
        named = [f for f in by_dtype if {side.leaf for side in f.sides} == layer.sides.keys()]
        if layer.mark is not None and not named:
            wanted = [_join(layer.stem, side.leaf) for side in by_dtype[0].sides]
            self._fail(
                f"{quoted(codes.name)} has {_names(layer.sides.values())} beside it, expected "
                f"{' and '.join(map(quoted, wanted))} as {by_dtype[0].title} has it",
            )
        if not word:
            # Nothing says what it is but these: scales of another type are another form's.
            named = [f for f in named if all(_dtype_fits(s, layer.leaves[s.leaf]) for s in f.sides)]
        fits = [form for form in named if _fits(form, layer)]
        if named and not fits:
            self._misfit(layer, named)
        return fits

    def _misfit(self, layer: _Layer, forms: Sequence[Form]) -> None:
        """Say which scale does not fit any of the forms that are left."""
        assert layer.codes is not None  # noqa: S101 - forms were found by it
        if (shape := _shape(forms[0], layer)) is None:
            rows = f"a matrix, its rows a multiple of {_block(forms[0], layer)} bytes long"
            if layer.mark is not None and layer.mark.shape is not None:
                rows = f"the codes of {list(layer.mark.shape)} numbers, two in a byte"
            self._fail(
                f"{quoted(layer.codes.name)} has the shape {list(layer.codes.shape)}, expected "
                f"{rows} ({forms[0].title})",
                forms[0].hint,
            )
        said = layer.mark.parameters if layer.mark else {}
        for leaf, info in layer.sides.items():
            sides = [side for form in forms for side in form.sides if side.leaf == leaf]
            if any(_dtype_fits(s, info) and info.shape in s.shapes(shape, said) for s in sides):
                continue
            dtypes = " or ".join(sorted({dtype for side in sides for dtype in side.dtypes}))
            shapes = [list(s) for side in sides for s in side.shapes(shape, said)]
            wanted = " or ".join(dict.fromkeys(map(str, shapes)))
            self._fail(
                f"{quoted(info.name)} is {info.dtype} {list(info.shape)}, expected {dtypes} "
                f"{wanted} beside the {list(shape)} numbers of {quoted(layer.codes.name)} "
                f"({forms[0].title})",
                forms[0].hint,
            )

    def _fail(self, what: str, hint: str = FORMS[0].hint) -> NoReturn:
        path = str(self.checkpoint.path)
        raise CheckpointError(what if what.startswith(path) else f"{path}: {what}", hint=hint)

    def _one(self, forms: Sequence[Form], fitting: Mapping[str, Sequence[Form]]) -> Form:
        """Return the form of a layer that several fit: NVFP4 without a description.

        Raises:
            LayoutError: nothing decides.
        """
        if len({form.codec for form in forms}) == 1:
            return forms[0]
        by_word = {"comfy": "nvfp4", "bfl": "nvfp4_bfl"}
        told = {by_word[self.nvfp4]} if self.nvfp4 in by_word else set()
        # A layer that fits one only decides for those of the same file.
        told = told or {f[0].codec for f in fitting.values() if len(f) == 1} & set(by_word.values())
        found = [form for form in forms if form.codec in told]
        if len(found) == 1:
            return found[0]
        number = sum(len(f) > 1 for f in fitting.values())
        raise LayoutError(
            f"{self.checkpoint.path}: is an nvfp4 model ({counted(number, 'layer')}) that does not "
            "say how its codes lie, expected ComfyUI's marker `comfy_quant`",
            hint="say whose it is with `nvfp4: comfy` or `nvfp4: bfl` (diffusers, ModelOpt) beside "
            "the model's path; read as the other, its numbers are noise",
        )


def _names(infos: Iterable[TensorInfo]) -> str:
    return " and ".join(quoted(info.name) for info in infos) or "nothing"


def _dtype_fits(side: Beside, info: TensorInfo) -> bool:
    return info.dtype in side.dtypes


def _shape(form: Form, layer: _Layer) -> tuple[int, ...] | None:
    """Return rows and columns of the numbers; None of codes that are no rows of whole blocks."""
    assert layer.codes is not None  # noqa: S101 - forms were found by it
    codec, codes = CODECS[form.codec], layer.codes
    if layer.mark is not None and (shape := layer.mark.shape) is not None:
        fits = math.prod(shape) == 2 * codes.elements and shape[1] % codec.elements == 0
        return shape if fits else None
    if len(codes.shape) != 2 or codes.shape[1] % _block(form, layer):
        return None
    rows, nbytes = codes.shape
    return rows, nbytes * codec.elements // codec.nbytes


def _block(form: Form, layer: _Layer) -> int:
    """Return the bytes of a block of codes, which rotating makes as wide as its groups."""
    said = layer.mark.parameters if layer.mark else {}
    return int(said.get("rotated", CODECS[form.codec].nbytes))


def _fits(form: Form, layer: _Layer) -> bool:
    shape = _shape(form, layer)
    said = layer.mark.parameters if layer.mark else {}
    return shape is not None and all(
        _dtype_fits(side, layer.leaves[side.leaf])
        and layer.leaves[side.leaf].shape in side.shapes(shape, said)
        for side in form.sides
    )


def _packed(form: Form, layer: _Layer) -> TensorInfo:
    """Return the numbers of a layer."""
    codes, shape = layer.codes, _shape(form, layer)
    assert codes is not None and shape is not None  # noqa: S101, PT018 - it fits
    sides = tuple(layer.leaves[side.leaf] for side in form.sides)
    spec: Spec = CODECS[form.codec].spec
    if layer.mark is not None and layer.mark.parameters:
        spec = {CODECS[form.codec].spec: layer.mark.parameters}
    packed = Packed(spec, codes.dtype, codes.shape, sides)
    return codes._replace(dtype=form.codec, shape=shape, packed=packed)
