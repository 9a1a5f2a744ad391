"""What a run did: numbers for each block and part, time, memory and where the output came from.

A report is made of the plan and of the core's figures and knows nothing else. Sums are kept rather
than ratios, so that rows can be added up: `Pair.cosine` of several rows is that of their union.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.blocks import execution_key, place_of, stream_of
from submerge.columns import aligned
from submerge.errors import RecipeError, counted
from submerge.files import path_of
from submerge.findings import Findings
from submerge.inherited import Inherited, inherited
from submerge.losses import Loss, loss_of
from submerge.pairs import Pair, unrelated
from submerge.plan.form import BESIDE
from submerge.plan.sizes import bytes_in_words
from submerge.residuals import made_in_words, made_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from submerge.plan import Plan, Unit

__all__ = [
    "Report",
    "Row",
    "Run",
    "grouped",
    "rows_of",
    "summed",
    "table",
]


class Row(NamedTuple):
    """What became of one part of one stream of one block.

    Attributes:
        block: `double.7`, `single.37`, or the part's name outside the blocks.
        part: `attn.q`, `mlp`, `mod`, ...; `all` in a sum over parts.
        formulas: how its units were made, in words, each once.
        elements: elements of the output.
        changed: elements whose value differs from the first operand's.
        nonfinite: infinite and NaN elements of the inputs.
        nonfinite_out: the same, of the output.
        pairs: each further model against the first, where both were read and measured.
        shares: the weight of each model, times the elements it was used for; see `Unit.shares`.
        stream: `img` or `txt` in a double block; else, and in a sum over both, empty.
        loss: what writing in few bits lost; nothing of what is in a wide type or was copied.
    """

    block: str
    part: str
    formulas: tuple[str, ...]
    elements: int
    changed: int
    nonfinite: int
    nonfinite_out: int
    pairs: tuple[Pair, ...]
    shares: Mapping[str, float]
    stream: str = ""
    loss: Loss = Loss()

    def plus(self, other: Row) -> Row:
        """Return the sum of two rows, under this row's block, stream and part."""
        pairs = {(pair.first, pair.second): pair for pair in self.pairs}
        for pair in other.pairs:
            key = (pair.first, pair.second)
            pairs[key] = pairs[key].plus(pair) if key in pairs else pair
        return self._replace(
            formulas=tuple(dict.fromkeys(self.formulas + other.formulas)),
            elements=self.elements + other.elements,
            changed=self.changed + other.changed,
            nonfinite=self.nonfinite + other.nonfinite,
            nonfinite_out=self.nonfinite_out + other.nonfinite_out,
            pairs=tuple(pairs.values()),
            shares={
                model: self.shares.get(model, 0.0) + other.shares.get(model, 0.0)
                for model in {**self.shares, **other.shares}
            },
            loss=self.loss.plus(other.loss),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "block": self.block,
            "stream": self.stream,
            "part": self.part,
            "formulas": list(self.formulas),
            "elements": self.elements,
            "changed": self.changed,
            "nonfinite": self.nonfinite,
            "nonfinite_out": self.nonfinite_out,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "shares": {m: total / max(1, self.elements) for m, total in self.shares.items()},
            "error": self.loss.error,
            "sqnr": self.loss.sqnr,
        }


class Run(NamedTuple):
    """How a run went.

    Attributes:
        seconds: wall time inside the core; `phases` splits it.
        bytes_read: bytes of tensor data read.
        bytes_written: bytes written, headers included.
        working_bytes: memory the core reserved for its buffers.
        peak_rss: peak resident memory of the whole process in bytes, mapped pages included.
        threads: worker threads used.
        chunk: elements computed at a time.
        io: how files were read.
        isa: the instruction set the kernels used.
        statistics_computed: units whose statistics were computed before they were made.
        statistics_reused: units whose statistics were in the statistics cache.
        statistics_cache: `on`, `off`, or why it was not used.
    """

    seconds: float
    phases: Mapping[str, float]
    bytes_read: int
    bytes_written: int
    working_bytes: int
    peak_rss: int
    threads: int
    chunk: int
    io: str
    isa: str
    statistics_computed: int
    statistics_reused: int
    statistics_cache: str

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Run:
        """Pick the run's own figures out of what the core returned."""
        return cls(**{name: figures[name] for name in cls._fields})

    @property
    def speed(self) -> float:
        """Bytes read and written for each second."""
        return (self.bytes_read + self.bytes_written) / self.seconds if self.seconds > 0 else 0.0

    def line(self) -> str:
        """Return the run in one line: `9.6 GB in 1.2 s (8.0 GB/s), peak memory 96.2 MB`."""
        moved = bytes_in_words(self.bytes_read + self.bytes_written)
        reused = self.statistics_reused
        saved = f", statistics of {counted(reused, 'unit')} from the cache" if reused else ""
        return (
            f"{moved} read and written in {self.seconds:.2f} s "
            f"({bytes_in_words(int(self.speed))}/s), peak memory {bytes_in_words(self.peak_rss)}"
            f"{saved}"
        )


class _Versions(NamedTuple):
    submerge: str
    numerics: int
    python: str
    system: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a merge or conversion did.

    Attributes:
        path: the file or folder written.
        files: the weight files, and the size of each in bytes.
        summary: layout, dtype, guidance, license, parents, notes and unused tensors of the plan.
        recipe: the recipe as it was given.
        rows: one for each part of each block.
        run: time, memory and speed.
        versions: of submerge, its numerics, Python and the system.
        findings: values that are not finite or do not fit, what rounding lost, what equals a model.
        inherited: what quantised parents had lost before, estimated from their scales.
        remarks: the same in words, and whatever else was unusual; part of the notes.
    """

    path: Path
    files: Mapping[str, int]
    summary: Mapping[str, Any]
    recipe: Mapping[str, Any]
    rows: tuple[Row, ...]
    run: Run
    versions: Mapping[str, Any]
    findings: Findings
    remarks: tuple[str, ...]
    inherited: tuple[Inherited, ...] = ()

    def __repr__(self) -> str:
        size = bytes_in_words(sum(self.files.values()))
        return (
            f"<Report {self.summary['title']!r} in {str(self.path)!r}: {size} in "
            f"{counted(len(self.files), 'file')}, {counted(len(self.summary['notes']), 'note')}>"
        )

    @classmethod
    def of(cls, plan: Plan, figures: Mapping[str, Any], build: Mapping[str, Any]) -> Report:
        """Make the report of a plan that was carried out.

        Args:
            plan: what was executed.
            figures: what the core returned.
            build: what the core says of itself.
        """
        summary = plan.about.plain()
        recipe = summary.pop("recipe")
        rows = rows_of(plan, figures)
        findings = Findings.of(plan, figures)
        parents = {parent.name for parent in plan.about.parents}
        apart = unrelated(summed(rows).pairs, parents)
        modules = made_modules(plan, figures)
        made = (f"adapter: {made_in_words(modules)}",) if modules else ()
        lost = inherited(plan, figures)
        before = [parent.words() for parent in lost]
        remarks = (*findings.lines, *before, *apart, *made, *figures["notes"])
        summary["notes"] = (*summary["notes"], *remarks)
        names = [file.path or plan.target.name for file in plan.files]
        sizes = [figures["bytes_written"]] if modules else plan.file_sizes
        python = ".".join(map(str, sys.version_info[:3]))
        versions = _Versions(build["version"], build["numerics"], python, _system())
        return cls(
            path=plan.target,
            files=dict(zip(names, sizes, strict=True)),
            summary=summary,
            recipe=recipe,
            rows=rows,
            run=Run.of(figures),
            versions=versions._asdict(),
            findings=findings,
            remarks=remarks,
            inherited=lost,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            "format": "submerge-merge/1",
            "path": str(self.path),
            "files": dict(self.files),
            **self.summary,
            "recipe": self.recipe,
            "rows": [row.to_dict() for row in self.rows],
            "findings": self.findings.to_dict(),
            **({"inherited": [p.to_dict() for p in self.inherited]} if self.inherited else {}),
            "run": self.run._asdict() | {"bytes_per_second": self.run.speed},
            "versions": dict(self.versions),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def heatmap(self, path: str | os.PathLike[str]) -> None:
        """Draw what writing in few bits lost: blocks against parts, as `.svg` or `.png`.

        Raises:
            RecipeError: another ending, or nothing was lost that could be drawn.
            SubmergeError: `.png` without Pillow.
            OSError: the file cannot be written.
        """
        from submerge.pictures.errors import draw
        from submerge.pictures.heatmap import Place

        target = path_of(path, "path")
        cells = {
            Place(row.block, row.stream, row.part): (error, row.elements)
            for row in self.rows
            if (error := row.loss.error) is not None
        }
        if not cells:
            raise RecipeError(
                f"{target}: nothing to draw, expected an output with numbers of 8 bits or less",
                hint="choose a number format with `output.dtype`",
            )
        target.write_bytes(
            draw(f"{self.summary['title']} in {self.summary['dtype']}", cells, target)
        )

    def table(self, by: Literal["part", "block"] = "part") -> str:
        """Return a line for each part of each stack or for each block, then the remarks."""
        return "\n".join([table(grouped(self.rows, by)), *self.remarks])


def summed(rows: Iterable[Row]) -> Row:
    """Return the sum of all rows."""
    return functools.reduce(Row.plus, rows, Row("", "all", (), 0, 0, 0, 0, (), {}))


def rows_of(plan: Plan, figures: Mapping[str, Any]) -> tuple[Row, ...]:
    """Add the core's figures of the units up to a row for each part of each stream of a block."""
    rows: dict[tuple[str, str, str], Row] = {}
    order = [parent.name for parent in plan.about.parents]
    for figure in figures["units"]:
        unit = plan.units[figure["unit"]]
        if unit.reason == BESIDE:
            continue
        name, part = place_of(unit.name)
        row = Row(
            name,
            part,
            (unit.formula,),
            figure["elements"],
            figure["changed"],
            sum(figure["nonfinite"]),
            figure["nonfinite_out"],
            _pairs(unit, figure, order),
            {model: share * figure["elements"] for model, share in unit.shares.items()},
            stream_of(unit.name),
            loss_of(plan, unit, figure),
        )
        key = (name, part, row.stream)
        rows[key] = rows[key].plus(row) if key in rows else row
    return tuple(
        sorted(
            rows.values(), key=lambda row: (execution_key(f"{row.block}.{row.part}"), row.stream)
        )
    )


def grouped(rows: Iterable[Row], by: Literal["part", "block"]) -> list[Row]:
    """Add rows up over the blocks of a stack (`part`) or over the parts of a block (`block`)."""
    sums: dict[tuple[str, str], Row] = {}
    for row in rows:
        inside = row.block != row.part
        if by == "part":
            key = (row.block.partition(".")[0], row.part)
        else:
            key = (row.block, "all" if inside else row.part)
        named = row._replace(block=key[0], part=key[1], stream="")
        sums[key] = sums[key].plus(named) if key in sums else named
    return list(sums.values())


def table(rows: Sequence[Row], *, formulas: bool = True) -> str:
    """Return the rows as aligned text: names and formulas flush left, figures flush right."""
    columns: dict[str, Callable[[Row], str]] = {"": _label}
    if formulas:
        columns["formula"] = lambda row: _formula(row.formulas)
    left = len(columns)
    columns |= _compared(rows)
    columns["changed"] = lambda row: _share(row.changed, row.elements)
    if any(row.loss.value for row in rows):
        columns["error"] = lambda row: _figure(row.loss.error, "{:.2%}")
        columns["SQNR"] = lambda row: _figure(row.loss.sqnr, "{:.1f} dB")
    columns["non-finite"] = lambda row: f"{row.nonfinite_out:,}"
    lines = [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]
    return aligned(lines, left)


def _compared(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return the columns for the pairs in the rows: cosine and relative L2 of each."""
    pairs = dict.fromkeys((pair.first, pair.second) for row in rows for pair in row.pairs)
    columns: dict[str, Callable[[Row], str]] = {}
    for first, second in pairs:
        both = f"{second}:{first}"
        columns[f"cosine {both}"] = _column(first, second, "cosine", "{:.6f}")
        columns[f"distance {both}"] = _column(first, second, "relative_l2", "{:.2%}")
    return columns


def _system() -> str:
    """Return system, release and machine; the module `platform` takes milliseconds over it."""
    return " ".join(os.uname()[::2]) if hasattr(os, "uname") else sys.platform


def _pairs(unit: Unit, figure: Mapping[str, Any], order: Sequence[str]) -> tuple[Pair, ...]:
    """Return each further operand against the first.

    The core's arithmetic has an order of its own; whoever was named first is measured against, or
    the base.
    """
    models, norms = unit.models, figure["norm2"]
    pairs = [
        Pair(models[0], models[i], (norms[0], norms[i]), figure["dot"][i], figure["delta2"][i])
        for i in range(1, len(norms))
    ]
    if unit.blend.base is not None:
        return tuple(pairs)
    return tuple(
        pair.turned()
        if pair.second in order and order.index(pair.second) < order.index(pair.first)
        else pair
        for pair in pairs
    )


def _column(first: str, second: str, what: str, shape: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        pair = next((p for p in row.pairs if (p.first, p.second) == (first, second)), None)
        return _figure(None if pair is None else getattr(pair, what), shape)

    return cell


def _figure(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def _label(row: Row) -> str:
    return row.block if row.part in (row.block, "all") else f"{row.block} {row.part}"


def _formula(formulas: Sequence[str]) -> str:
    return formulas[0] if len(formulas) == 1 else f"{len(formulas)} formulas"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
