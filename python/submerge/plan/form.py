"""The plan: everything that decides the bytes of an output, as flat lists.

The core executes it, `--dry-run` prints it, tests compare it. What it does not know: FLUX, recipes,
threads. Its JSON is no public format: version 1 fits this version of submerge and no other.

Row ranges are half open and count rows of dimension 0; a tensor of one dimension has rows of one
element, a tensor without dimensions is one row of one element.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from submerge.checkpoint import DTYPES
from submerge.plan.sizes import header_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from submerge.plan.describe import Running

__all__ = [
    "VERSION",
    "About",
    "Copy",
    "Layer",
    "Mix",
    "Mlp",
    "OutFile",
    "Output",
    "Parent",
    "Plan",
    "Rows",
    "Source",
    "Text",
    "Unit",
    "Unused",
]

VERSION = 1


class Rows(NamedTuple):
    """Rows `start..end` of a tensor in `Plan.sources[source]`."""

    source: int
    tensor: str
    start: int
    end: int

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": self.source,
            "tensor": self.tensor,
            "start": self.start,
            "end": self.end,
        }


class Mix(NamedTuple):
    """A weighted sum of tensors of one shape: `sum_i weights[i] * operands[i]`."""

    operands: tuple[Rows, ...]
    weights: tuple[float, ...]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"operands": [o.plain() for o in self.operands], "weights": list(self.weights)}


class Layer(NamedTuple):
    """One affine layer: weight (out, in) and bias (out)."""

    weight: Mix
    bias: Mix

    def plain(self) -> dict[str, Any]:
        """Return the JSON form, without what the output goes through."""
        return {"weight": self.weight.plain(), "bias": self.bias.plain()}


class Mlp(NamedTuple):
    """The vector `W2 @ silu(W1 @ input + b1) + b2`, computed in f64, rounded once to f32."""

    input: tuple[float, ...]
    layers: tuple[Layer, Layer]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        inner, outer = (layer.plain() for layer in self.layers)
        layers = [inner | {"activation": "silu"}, outer | {"activation": "none"}]
        return {"input": list(self.input), "layers": layers}


Operand: TypeAlias = Rows | Mlp


class Unit(NamedTuple):
    """Rows `start..end` of `Plan.outputs[output]` and what fills them.

    Attributes:
        name: canonical name, for messages and the report.
        operands: in the order of the core's arithmetic: the base first where there is one, then by
            model name, then a baked MLP; where `alpha` is a way from one model to another, these.
        op: `copy` (one operand, as bytes if the dtypes are equal), `same` (all operands equal byte
            for byte, the first is copied), `linear` (`sum_i weights[i] * operands[i]`) or another
            of the core's operations.
        arguments: those of the operation, as the core reads them.
        models: the model each operand comes from; a baked MLP counts as `guidance`.
        shares: the weight of each model; under another operation than a weighted sum, those of the
            sum that comes nearest to it.
        formula: the same in words, `0.70 * schnell + 0.30 * krea`.
        reason: what in the recipe decided it: `method`, `rules[0]`, `include`, `guidance`, ...
    """

    name: str
    output: int
    start: int
    end: int
    operands: tuple[Operand, ...]
    op: str
    arguments: Mapping[str, Any]
    models: tuple[str, ...]
    shares: Mapping[str, float]
    formula: str
    reason: str

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        terms = [{"network" if isinstance(o, Mlp) else "rows": o.plain()} for o in self.operands]
        return {
            "name": self.name,
            "output": self.output,
            "start": self.start,
            "end": self.end,
            "operands": [[term] for term in terms],
            "op": {self.op: dict(self.arguments)},
        }

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of a `linear` sum, else none."""
        return tuple(self.arguments["weights"]) if self.op == "linear" else ()


class Output(NamedTuple):
    """A tensor of the output: `Plan.files[file]` holds it under `name`."""

    file: int
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPES[self.dtype] // 8

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "file": self.file,
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
        }


class Source(NamedTuple):
    """An input file; `identity` is what the core said of it when its header was read."""

    path: Path
    identity: Mapping[str, int]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"file": {"path": str(self.path), "identity": dict(self.identity)}}


class OutFile(NamedTuple):
    """A weight file of the output; `path` is empty when the target is one file."""

    path: str
    metadata: Mapping[str, str]


class Text(NamedTuple):
    """A small file of an output folder."""

    path: str
    text: str


class Copy(NamedTuple):
    """A file taken over into an output folder; `size` is what it had when the plan was made."""

    path: str
    source: Path
    how: Literal["auto", "link", "reflink", "copy"]
    size: int


class Unused(NamedTuple):
    """Input tensors with no place of their own in the output, and why.

    A tensor used in part is named with the rows that are not: `x rows 0..4`.
    """

    model: str
    tensors: tuple[str, ...]
    reason: str


class Parent(NamedTuple):
    """One model of the plan, in words.

    Attributes:
        name: what the recipe calls it.
        label: hub id or base name; never a machine path.
        variant: what it was identified as.
        license: SPDX id or licence name, with the evidence for it.
        contributes: whether any byte of the output comes from it.
    """

    name: str
    label: str
    variant: str
    license: str
    contributes: bool


class About(NamedTuple):
    """What a plan says of itself; decides no byte."""

    title: str
    layout: str
    dtype: str
    guidance: str
    license: str
    parents: tuple[Parent, ...]
    notes: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    recipe: Mapping[str, Any] = MappingProxyType({})

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        parents = [parent._asdict() for parent in self.parents]
        unused = [gone._asdict() for gone in self.unused]
        return self._asdict() | {"parents": parents, "unused": unused}


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written, and from what. Made by `compile_plan`, executed by the core.

    Attributes:
        target: the file or folder to make.
        is_folder: whether `target` is a folder.
        overflow: what a value out of range becomes in fp8: `saturate` or `nan`.
        outputs: grouped by file, in data order.
        units: in output order; they tile every output exactly.
        read_bytes: bytes of tensors read, each operand counted once per use.
    """

    target: Path
    is_folder: bool
    overflow: str
    sources: tuple[Source, ...]
    files: tuple[OutFile, ...]
    texts: tuple[Text, ...]
    copies: tuple[Copy, ...]
    outputs: tuple[Output, ...]
    units: tuple[Unit, ...]
    about: About
    read_bytes: int

    def plain(self) -> dict[str, Any]:
        """Return the JSON form the core reads."""
        kind = "folder" if self.is_folder else "file"
        sources = [source.plain() for source in self.sources]
        copies = [{"path": c.path, "from": str(c.source), "how": c.how} for c in self.copies]
        return {
            "version": VERSION,
            "overflow": self.overflow,
            "target": {kind: {"path": str(self.target)}},
            "sources": sources,
            "files": [{"path": f.path, "metadata": dict(f.metadata)} for f in self.files],
            "texts": [{"path": t.path, "text": t.text} for t in self.texts],
            "copies": copies,
            "outputs": [o.plain() for o in self.outputs],
            "units": [u.plain() for u in self.units],
        }

    def to_json(self) -> str:
        """Return the plan as the core reads it; refuses numbers that are not finite."""
        return json.dumps(self.plain(), allow_nan=False, ensure_ascii=False)

    def describe(self, running: Running | None = None) -> str:
        """Return the plan in words; what memory it takes, if `submerge.run.fit` has told."""
        from submerge.plan.describe import describe

        return describe(self, running)

    @property
    def file_sizes(self) -> tuple[int, ...]:
        """Size in bytes of every weight file, header included."""
        return tuple(self._file_size(index) for index in range(len(self.files)))

    def _file_size(self, index: int) -> int:
        tensors = [(o.name, o.dtype, o.shape, o.nbytes) for o in self.outputs if o.file == index]
        return header_bytes(tensors, self.files[index].metadata) + sum(t[3] for t in tensors)

    @property
    def output_bytes(self) -> int:
        """Bytes written: weight files and texts, without the copies."""
        return sum(self.file_sizes) + sum(len(t.text.encode()) for t in self.texts)

    @property
    def copied_bytes(self) -> int:
        """Bytes of the files taken over; links and shared extents need no space for them."""
        return sum(copy.size for copy in self.copies)

    @property
    def disk_bytes(self) -> int:
        """Free bytes the target's filesystem must have, at most."""
        return self.output_bytes + sum(c.size for c in self.copies if c.how in ("copy", "auto"))
