"""The rows of a report: what became of each part of each block, in figures and as a table.

Sums are kept rather than ratios, so that rows can be added up: `Pair.cosine` of several rows is
that of their union.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.blocks import execution_key, place_of, stream_of
from submerge.columns import aligned
from submerge.losses import Loss, loss_of
from submerge.pairs import Pair
from submerge.plan.form import BESIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from submerge.plan import Plan, Unit

__all__ = ["Row", "grouped", "lines_of", "rows_of", "summed", "table"]


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
    return aligned(lines_of(rows, formulas=formulas), 1 + formulas)


def lines_of(rows: Sequence[Row], *, formulas: bool = True) -> list[list[str]]:
    """Return the rows as lines of cells, the names of the columns first."""
    columns: dict[str, Callable[[Row], str]] = {"": _label}
    if formulas:
        columns["formula"] = lambda row: _formula(row.formulas)
    columns |= _compared(rows)
    columns["changed"] = lambda row: _share(row.changed, row.elements)
    if any(row.loss.value for row in rows):
        columns["error"] = lambda row: _figure(row.loss.error, "{:.2%}")
        columns["SQNR"] = lambda row: _figure(row.loss.sqnr, "{:.1f} dB")
    columns["non-finite"] = lambda row: f"{row.nonfinite_out:,}"
    return [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]


def _compared(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return the columns for the pairs in the rows: cosine and relative L2 of each."""
    pairs = dict.fromkeys((pair.first, pair.second) for row in rows for pair in row.pairs)
    columns: dict[str, Callable[[Row], str]] = {}
    for first, second in pairs:
        both = f"{second}:{first}"
        columns[f"cosine {both}"] = _column(first, second, "cosine", "{:.6f}")
        columns[f"distance {both}"] = _column(first, second, "relative_l2", "{:.2%}")
    return columns


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
