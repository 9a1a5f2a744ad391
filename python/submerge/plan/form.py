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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint import DTYPES
from submerge.errors import counted, listing
from submerge.formats import FORMATS
from submerge.plan.files import Copy, OutFile, Text
from submerge.plan.sizes import bytes_in_words
from submerge.plan.terms import tagged
from submerge.plan.words import formulas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.checkpoint.codecs import Spec
    from submerge.methods import Blend
    from submerge.plan.about import About
    from submerge.plan.making import Making
    from submerge.plan.terms import Operand, Source, Term

__all__ = [
    "BESIDE",
    "VERSION",
    "Copy",
    "OutFile",
    "OutputTensor",
    "Plan",
    "Running",
    "Text",
    "Unit",
]

VERSION = 1

BESIDE = "beside"
"""The reason of units that hold no numbers of a model: scales, and what tells of them."""

# Selectors shown for one formula; a gradient has few, a scattered rule many.
_SHOWN = 6


class Unit(NamedTuple):
    """One unit of the output: what decides it, what makes it, from where, to where.

    This is the one form a unit has from the recipe's decision to the JSON of the plan. A rule
    decides it (`name`, `reason`, `blend`), `compile_unit` finds the rows it is made of
    (`operands`), and the layout of the output the rows it fills (`output`, `start`, `end`).

    Attributes:
        name: canonical name, for messages and the report.
        reason: what in the recipe decided it: `method`, `rules[0]`, `include`, `guidance`, ...
        blend: the operation, its arguments and the model of each operand. Beside the operations of
            methods there are `copy` (one operand, as bytes if the dtypes are equal) and `same`
            (all operands equal byte for byte, the first is copied).
        operands: in the order of the core's arithmetic: the base first where there is one, then by
            model name; where `alpha` is a way from one model to another, these.
        start: first row in the output tensor.
        end: the row after the last.
        output: index of the tensor in `Plan.outputs`.
        added: terms that are added to the result, in order, before it is rounded; no magnitude.
    """

    name: str
    reason: str
    blend: Blend
    operands: tuple[Operand, ...] = ()
    start: int = 0
    end: int = 0
    output: int = 0
    added: tuple[Term, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        plain: dict[str, Any] = {
            "name": self.name,
            "output": self.output,
            "start": self.start,
            "end": self.end,
            "operands": [[tagged(term) for term in operand] for operand in self.operands],
            "op": {self.blend.op: dict(self.blend.arguments)},
        }
        if self.added:
            plain["added"] = [tagged(term) for term in self.added]
        return plain

    @property
    def op(self) -> str:
        """The core's operation."""
        return self.blend.op

    @property
    def models(self) -> tuple[str, ...]:
        """The model each operand comes from."""
        return self.blend.models

    @property
    def formula(self) -> str:
        """The formula in words, `0.70 * schnell + 0.30 * krea`."""
        return self.blend.words

    @property
    def shares(self) -> dict[str, float]:
        """The weight of each model in the weighted sum that comes nearest to the formula."""
        return self.blend.among(self.models)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of a `linear` sum, each over what the sum is divided by, else none."""
        given = self.blend.arguments
        divisor = given.get("divisor", 1.0)
        return tuple(w / divisor for w in given["weights"]) if self.op == "linear" else ()


class OutputTensor(NamedTuple):
    """A tensor of the output: `Plan.files[file]` holds it under `name`.

    Attributes:
        dtype, shape: as the header has them, of codes where there is a format.
        format: what its numbers are written in, by its name in `FORMATS`; empty if the dtype says
            all.
        codec: what the plan calls that; None if the dtype says all, and of codes that are copied.
        beside: what its codec wants beside it, in the codec's order.
    """

    file: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    format: str = ""
    codec: Spec | None = None
    beside: tuple[OutputTensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return DTYPES[self.dtype].size(math.prod(self.shape))

    @property
    def written(self) -> str:
        """What its numbers are written in: the format, or else the dtype."""
        return self.format or self.dtype

    @property
    def row_elements(self) -> int:
        """Numbers in a row."""
        stored = math.prod(self.shape[1:])
        return FORMATS[self.format].elements(stored) if self.format else stored

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        plain = {"file": self.file, "name": self.name, "dtype": self.dtype, "shape": self.shape}
        if self.codec is not None:
            plain["codec"] = self.codec
        return plain


class Running(NamedTuple):
    """How the core would run a plan: worker threads, and bytes of memory for its buffers."""

    threads: int
    working_bytes: int


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
        making: the adapter that is made of the outputs, which then are not written themselves.
        factors: what looks at the numbers of adapters before anything is written.
    """

    target: Path
    is_folder: bool
    overflow: str
    sources: tuple[Source, ...]
    files: tuple[OutFile, ...]
    texts: tuple[Text, ...]
    copies: tuple[Copy, ...]
    outputs: tuple[OutputTensor, ...]
    units: tuple[Unit, ...]
    about: About
    read_bytes: int
    making: Making | None = None
    factors: Plan | None = None

    @classmethod
    def measuring(
        cls,
        sources: tuple[Source, ...],
        outputs: Sequence[OutputTensor],
        units: Sequence[Unit],
        about: About,
        read_bytes: int = 0,
    ) -> Plan:
        """Return a plan that is never written: the core only measures its units."""
        return cls(
            # From whatever folder, also one whose name no plan can hold.
            target=Path("/measured.safetensors").absolute(),
            is_folder=False,
            overflow="saturate",
            sources=sources,
            files=(OutFile("", {}),),
            texts=(),
            copies=(),
            outputs=tuple(outputs),
            units=tuple(units),
            about=about,
            read_bytes=read_bytes,
        )

    def __repr__(self) -> str:
        return (
            f"<Plan {self.about.title!r} into {str(self.target)!r}: "
            f"{counted(len(self.outputs), 'tensor')}, {bytes_in_words(self.output_bytes)}>"
        )

    def _repr_html_(self) -> str:
        """Return the plan as a notebook shows it."""
        from submerge.pictures.notebook import card, cells, unordered

        about = self.about
        parents = {f"model {p.name}": f"{p.label}, {p.variant}" for p in about.parents}
        formulas = self.formulas
        lone = f"result = {formulas[0][0]}" if len(formulas) == 1 else ""
        facts = parents | {
            "formula": lone,
            "guidance": about.guidance,
            "output": f"`{self.target}`: {about.layout}, {about.dtype}, "
            f"{counted(len(self.outputs), 'tensor')}, {bytes_in_words(self.output_bytes)}",
            "reads": bytes_in_words(self.read_bytes),
            "licence": about.license,
        }
        lines = [["where", "result"], *([", ".join(where), f] for f, where in formulas)]
        table = None if lone else cells(lines, 2, summary=counted(len(formulas), "formula"))
        return card(about.title, facts, table, unordered(about.notes))

    def plain(self) -> dict[str, Any]:
        """Return the JSON form the core reads."""
        kind = "folder" if self.is_folder else "file"
        sources = [source.plain() for source in self.sources]
        copies = [{"path": c.path, "from": str(c.source), "how": c.how} for c in self.copies]
        making = {} if self.making is None else {"adapter": self.making.plain()}
        return making | {
            "version": VERSION,
            "overflow": self.overflow,
            "target": {kind: {"path": str(self.target)}},
            "sources": sources,
            "files": [file.plain() for file in self.files],
            "texts": [{"path": t.path, "text": t.text} for t in self.texts],
            "copies": copies,
            "outputs": [o.plain() for o in self.outputs],
            "units": [u.plain() for u in self.units],
        }

    def to_json(self) -> str:
        """Return the plan as the core reads it; refuses numbers that are not finite."""
        # Made a line before, so without circles; looking for them takes a third of the time.
        return json.dumps(self.plain(), allow_nan=False, ensure_ascii=False, check_circular=False)

    def describe(self, running: Running | None = None) -> str:
        """Return the plan as lines of text, a section for each question it answers.

        What memory it takes follows from how it is run (`submerge.run.fit`); without that there is
        no such line.
        """
        about = self.about
        lines = [f"{about.title}", ""]
        for parent in about.parents:
            unused = "" if parent.contributes else ", contributes nothing"
            unused = f", {parent.precision}{unused}" if parent.precision else unused
            lines.append(f"model     {parent.name}: {parent.label}, {parent.variant}{unused}")
        for adapter in about.adapters:
            unused = "" if adapter.contributes else ", changes nothing"
            onto = f"onto {adapter.onto or 'the result'}{unused}"
            lines.append(f"adapter   {adapter.name}: {adapter.label}, {adapter.kind}, {onto}")
        lines += ["", *self._formula_lines(), f"guidance  {about.guidance}", ""]
        lines += self._output_lines()
        lines += self._cost_lines(running)
        lines += [f"licence   {about.license}"]
        lines += [f"note      {note}" for note in about.notes]
        for gone in about.unused:
            lines.append(f"unused    {gone.model}: {gone.reason}, {listing(gone.tensors)}")
        return "\n".join(lines)

    @property
    def formulas(self) -> list[tuple[str, list[str]]]:
        """Each formula with the selectors of its units; tensors that are no units are left out."""
        units = [u for u in self.units if u.reason not in ("extras", "encoder", BESIDE)]
        return formulas({unit.name: unit.formula for unit in units})

    def _formula_lines(self) -> list[str]:
        found = self.formulas
        if len(found) == 1:
            return [f"result = {found[0][0]}"]
        lines = []
        for formula, where in found:
            more = f" and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
            lines.append((", ".join(where[:_SHOWN]) + more, formula))
        width = min(48, max(len(where) for where, _ in lines))
        return [f"{where:<{width}}  result = {formula}" for where, formula in lines]

    def _output_lines(self) -> list[str]:
        about = self.about
        kind = "folder" if self.is_folder else "file"
        what = f"layout {about.layout}, {about.dtype}, {counted(len(self.outputs), 'tensor')}"
        if self.making is not None:
            what = f"adapter, {self.making.in_words()}"
        lines = [f"output    {kind} {self.target}: {what}"]
        for file, size in zip(self.files, self.file_sizes, strict=True):
            lines.append(f"          {file.path or self.target.name}  {bytes_in_words(size)}")
        lines += [f"          {text.path}" for text in self.texts]
        if self.copies:
            taken = bytes_in_words(self.copied_bytes)
            lines.append(f"          {counted(len(self.copies), 'file')} taken over, {taken}")
        extras = [unit for unit in self.units if unit.reason == "extras"]
        if extras:
            names = listing([unit.name for unit in extras])
            lines.append(f"extras    carried from {extras[0].models[0]}: {names}")
        return lines

    def _cost_lines(self, running: Running | None) -> list[str]:
        lines = [
            f"reads     {bytes_in_words(self.read_bytes)}",
            f"disk      {bytes_in_words(self.disk_bytes)} free space needed at most",
        ]
        if running is not None:
            streams = max((len(unit.operands) for unit in self.units), default=0)
            at_once = f"up to {counted(streams, 'operand')} at a time"
            whole = any(unit.op == "matrix" for unit in self.units)
            held = "whole matrices, windows and buffers" if whole else "windows and buffers"
            memory = f"{bytes_in_words(running.working_bytes)} of {held}"
            how = f"{counted(running.threads, 'thread')}, {at_once}"
            lines.append(f"memory    {memory} ({how}), whatever the models' size")
        return lines

    @property
    def file_sizes(self) -> tuple[int, ...]:
        """Size in bytes of every weight file, header included."""
        return tuple(self._file_size(index) for index in range(len(self.files)))

    def _file_size(self, index: int) -> int:
        tensors = [(o.name, o.dtype, o.shape, o.nbytes) for o in self.outputs if o.file == index]
        if self.making is not None:
            tensors = self.making.largest(tensors)
        return self.files[index].size(tensors)

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
