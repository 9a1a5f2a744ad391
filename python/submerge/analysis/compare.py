"""The analysis of two models, and of a third both come from: one pass, constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from submerge import documents
from submerge.analysis.heatmap import draw, drawing
from submerge.analysis.rows import BlockRow, Sums, grouped, rows_of
from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.dtypes import WORDS
from submerge.columns import aligned
from submerge.documents import AnalysisDocument
from submerge.errors import RecipeError, listing
from submerge.files import write_whole
from submerge.findings import Spot, nonfinite_inputs
from submerge.layout import identify
from submerge.merge import named
from submerge.plan.comparison import Question, comparison_plan
from submerge.recipe import sources_of
from submerge.report import Run
from submerge.run import (
    RunArguments,
    RunOptions,
    __version__,
    execute,
    expect_finite_adapters,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from typing import Unpack

    from submerge.documents.figures import AnalysisRow
    from submerge.documents.figures import Spot as SpotRow

__all__ = ["Analysis", "analyze"]

_ROLES = ("a", "b", "base")


@dataclass(frozen=True, slots=True)
class Analysis:
    """Two models beside each other, and beside the base both come from, if one was given.

    Attributes:
        models: the names, by role: `a`, `b` and perhaps `base`.
        paths: where they were read, by role.
        alpha: the share of b in the merge that `below_rounding` asks about.
        dtype: what that merge would be rounded to; None: the dtypes of a.
        layout: what the models were taken for, as in a recipe.
        guided: the roles of the models with a guidance embedder.
        rows: one for each part of each stream of each block, in execution order.
        nonfinite: where elements are infinite or NaN, unit by unit.
        notes: what could not be compared, and why; what is compared rounded (F64, as F32).
        run: time, memory and speed; None if the analysis was read from a file.
    """

    models: Mapping[str, str]
    paths: Mapping[str, str]
    alpha: float
    dtype: str | None
    layout: str
    guided: tuple[str, ...]
    rows: tuple[BlockRow, ...]
    nonfinite: tuple[Spot, ...]
    notes: tuple[str, ...]
    run: Run | None = None

    def __repr__(self) -> str:
        models = ", ".join(f"{role} = {name}" for role, name in self.models.items())
        return f"<Analysis {models}: {self.total().units:,} units>"

    def total(self) -> Sums:
        """Return the sums over all rows."""
        total = Sums()
        for row in self.rows:
            total = total.plus(row.sums)
        return total

    def grouped(self, by: Literal["part", "block"] = "part") -> list[BlockRow]:
        """Return a row for each part of each stack, or for each block."""
        return grouped(self.rows, by)

    def table(self, by: Literal["part", "block"] = "part") -> str:
        """Return a line for each part of each stack or for each block, a total and what is odd."""
        return "\n".join([*self._heading(), aligned(self._lines(by)), *self.remarks()])

    def _lines(self, by: Literal["part", "block"]) -> list[list[str]]:
        rows = [*self.grouped(by), BlockRow("total", "all", self.total())]
        columns = _columns(based="base" in self.models)
        cells = ([_label(r), *(c(r.sums) for c in columns.values())] for r in rows)
        return [["", *columns], *cells]

    def _repr_html_(self) -> str:
        """Return the maps of blocks as a notebook shows them, and the table folded away."""
        from submerge.pictures.notebook import card, cells, unordered

        facts = {f"{role}: {name}": self.paths[role] for role, name in self.models.items()}
        rows = cells(self._lines("part"), summary="part by part")
        title = " and ".join(self.models.values())
        drawn = drawing(self.models, self.rows)
        return card(title, facts, rows, unordered(self.remarks()), picture=drawn)

    def _heading(self) -> list[str]:
        lines = [f"{role}: {name} ({self.paths[role]})" for role, name in self.models.items()]
        rounding = "the dtypes of a" if self.dtype is None else self.dtype.lower()
        return [*lines, f"lost: below half a step of {rounding} at alpha {self.alpha:g}"]

    def remarks(self) -> list[str]:
        """Return in words what was left out, where values are not finite, and which are equal."""
        total = self.total()
        lines = list(self.notes)
        lines += [spot.words("non-finite elements") for spot in self.nonfinite[:10]]
        if len(self.nonfinite) > 10:
            lines.append(f"... and {len(self.nonfinite) - 10} more units with non-finite elements")
        if total.identical_units:
            lines.append(
                f"{total.identical_units:,} of {total.units:,} units are identical in both models"
            )
        return lines

    def text(self, by: Literal["part", "block"] = "part") -> str:
        """Return the table, and time and memory if this was just measured."""
        return "\n".join([self.table(by), *([self.run.line()] if self.run else [])])

    def to_dict(self) -> AnalysisDocument:
        """Return the analysis as plain data, ready for JSON; docs/analyze.md names the fields."""
        return {
            "format": "submerge-analysis/1",
            "submerge": __version__,
            "models": dict(self.models),
            "paths": dict(self.paths),
            "alpha": self.alpha,
            "dtype": self.dtype,
            "layout": self.layout,
            "guided": list(self.guided),
            "blocks": [row.to_dict() for row in self.rows],
            "totals": self.total().figures(),
            "nonfinite": [cast(Any, spot._asdict()) for spot in self.nonfinite],
            "notes": list(self.notes),
            "run": None if self.run is None else cast(Any, self.run._asdict()),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the analysis as JSON."""
        return documents.text(self.to_dict(), indent=indent)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the analysis as JSON; the file appears whole or not at all."""
        write_whole(path, self.to_json() + "\n")
        return Path(path)

    def heatmap(self, path: str | os.PathLike[str]) -> Path:
        """Draw blocks against parts into a `.svg`, or with Pillow into a `.png`.

        Raises:
            RecipeError: another kind of file is asked for.
            SubmergeError: a `.png` is asked for and Pillow is not installed.
        """
        write_whole(path, draw(self.models, self.rows, Path(path)))
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Analysis:
        """Read what `save` wrote.

        Raises:
            RecipeError: the file holds something else.
        """
        held = documents.read(AnalysisDocument, path)
        rows = tuple(_row(row, f"{path}: blocks[{at}]") for at, row in enumerate(held["blocks"]))
        return cls(
            models=held["models"],
            paths=held["paths"],
            alpha=held["alpha"],
            dtype=held["dtype"],
            layout=held["layout"],
            guided=tuple(held["guided"]),
            rows=rows,
            nonfinite=tuple(_spot(found) for found in held["nonfinite"]),
            notes=tuple(held["notes"]),
        )


def _spot(found: SpotRow) -> Spot:
    place = found["model"], found["unit"]
    return Spot(*place, found["elements"], found["first"], found["row"])


def _row(row: AnalysisRow, where: str) -> BlockRow:
    """Return a row of a file; its sums must be those that are added up."""
    sums = row["sums"]
    if missing := [name for name in Sums._fields if name not in sums]:
        raise RecipeError(f"{where}.sums: expected {listing(missing, noun='field')}, got none")
    known: Any = {name: sums[name] for name in Sums._fields}
    return BlockRow(row["block"], row["part"], Sums(**known), row.get("stream", ""))


class AnalysisArguments(RunArguments, total=False):
    """The keywords of `analyze` beside the models and what is asked."""

    adapters: Sequence[str | Mapping[str, Any]]


def analyze(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    alpha: float = 0.5,
    dtype: str = "same",
    layout: str = "auto",
    **more: Unpack[AnalysisArguments],
) -> Analysis:
    """Measure how two models differ, part by part of each block, in one pass.

    Args:
        a: a checkpoint file or folder.
        b: the model measured against it.
        base: a model both come from, for what each changed of it and whether they agree.
        alpha: share of b in the merge that is asked about: an element is `below_rounding` if it
            differs and `|alpha (b - a)|` is less than half the distance from `|a|` to the next
            larger value of `dtype`, so that `a + alpha (b - a)` rounds to a (but for the step
            below a power of two, which is half as wide).
        dtype: what the merge would be rounded to, `bf16` say; `same` is the dtypes of a.
        layout: what to expect of all: `auto`, or `generic` for any tensors of equal names.
        **more: `adapters`, LoRAs and others, onto b unless they say another: paths, or `{"path",
            "onto", "scale", ...}` as in a recipe; and how to run, see `RunOptions`, which changes
            no figure.

    Raises:
        RecipeError: `alpha` or `dtype` is none, or an adapter is malformed.
        AdapterError: an adapter does not fit its model.
        CheckpointError, LayoutError, PlanError: a model is damaged, unknown, or does not fit.
        Cancelled, OSError: as `merge`.
    """
    adapters = more.pop("adapters", ())
    options = RunOptions.of(more).with_(stats=True)
    if not math.isfinite(alpha):
        raise RecipeError(f"alpha: expected a finite number, got {alpha}")
    rounded = _dtype(dtype)
    given = [a, b] if base is None else [a, b, base]
    roles = dict(zip(_ROLES, named(given).items(), strict=False))
    models = {name: identify(open_checkpoint(path), layout=layout) for name, path in roles.values()}
    asked = Question(alpha, rounded, roles["base"][0] if base is not None else None)
    made = comparison_plan(models, asked, sources_of(adapters, list(models)))
    expect_finite_adapters(made.factors, options)
    figures = execute(made, options, "measure")
    return Analysis(
        models={role: name for role, (name, _) in roles.items()},
        paths={role: path for role, (_, path) in roles.items()},
        alpha=alpha,
        dtype=rounded,
        layout=layout,
        guided=tuple(role for role, (name, _) in roles.items() if models[name].arch.guidance),
        rows=rows_of(made, figures),
        nonfinite=nonfinite_inputs(made, figures),
        notes=made.about.notes,
        run=Run.of(figures),
    )


def _dtype(word: str) -> str | None:
    if word == "same":
        return None
    names = {name.lower(): name for name in WORDS.values()}
    if word not in names:
        known = ", ".join(["same", *sorted(names)])
        raise RecipeError(f"dtype: expected one of {known}, got `{word}`")
    return names[word]


def _columns(*, based: bool) -> dict[str, Callable[[Sums], str]]:
    """Return the columns of the table, with those that need a base if there is one."""
    columns: dict[str, Callable[[Sums], str]] = {
        "elements": lambda s: f"{s.elements:,}",
        "cosine": lambda s: _shown(s.cosine, "{:.6f}"),
        "|b|/|a|": lambda s: _shown(s.norm_ratio, "{:.4f}"),
        "|b-a|/|a|": lambda s: _shown(s.relative_delta, "{:.2%}"),
        "identical": lambda s: _shown(s.figures()["identical"], "{:.1%}"),
        "lost": lambda s: _shown(s.figures()["below_rounding"], "{:.1%}"),
        "rank": lambda s: _shown(s.effective_rank, "{:.0f}"),
        "of noise's": lambda s: _shown(s.rank_share, "{:.0%}"),
    }
    if based:
        columns |= {
            "cos deltas": lambda s: _shown(s.delta_cosine, "{:+.4f}"),
            "|a-base|": lambda s: f"{math.sqrt(s.delta2_a):.4g}" if s.based else "-",
            "|b-base|": lambda s: f"{math.sqrt(s.delta2_b):.4g}" if s.based else "-",
            "conflict": lambda s: _shown(s.sign_conflict, "{:.1%}"),
            "weighted": lambda s: _shown(s.sign_conflict_weighted, "{:.1%}"),
        }
    return columns | {"non-finite": lambda s: f"{s.nonfinite:,}"}


def _shown(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def _label(row: BlockRow) -> str:
    return row.block if row.part in (row.block, "all") else f"{row.block} {row.part}"
