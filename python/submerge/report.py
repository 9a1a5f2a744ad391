"""What a run did: numbers for each block and part, time, memory and where the output came from.

A report is made of the plan and of the core's figures and knows nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.errors import RecipeError, counted
from submerge.files import path_of
from submerge.findings import Findings
from submerge.inherited import Inherited, inherited
from submerge.pairs import unrelated
from submerge.plan.sizes import bytes_in_words
from submerge.residuals import made_in_words, made_modules
from submerge.rows import grouped, lines_of, rows_of, summed, table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from submerge.plan import Plan
    from submerge.rows import Row

__all__ = ["Report", "Run"]


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

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it, a line for each block folded away."""
        from submerge.pictures.notebook import card, cells, unordered

        summary = self.summary
        size = bytes_in_words(sum(self.files.values()))
        facts = {
            "written": f"`{self.path}`: {summary['layout']}, {summary['dtype']}, {size} in "
            f"{counted(len(self.files), 'file')}",
            "guidance": summary["guidance"],
            "licence": summary["license"],
            "run": self.run.line(),
        }
        rows = cells(lines_of(grouped(self.rows, "block")), 2, summary="block by block")
        return card(summary["title"], facts, rows, unordered(summary["notes"]))

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


def _system() -> str:
    """Return system, release and machine; the module `platform` takes milliseconds over it."""
    return " ".join(os.uname()[::2]) if hasattr(os, "uname") else sys.platform
