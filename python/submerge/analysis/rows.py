"""The figures of an analysis: sums that add up, and the shares and ratios made of them.

Sums are kept rather than ratios, so that a block, a stack or the whole model is the sum of its
parts: `Sums.cosine` of several units is that of their union.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.blocks import execution_key, place_of, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from submerge.documents.figures import AnalysisFigures, AnalysisRow
    from submerge.plan import Plan

__all__ = ["BlockRow", "Sums", "grouped", "rows_of"]


class Sums(NamedTuple):
    """Two models, a and b, over some units; each field adds up over units.

    Attributes:
        units: units compared; `identical_units` of them are equal in every element.
        elements: elements of the units.
        identical: elements equal in both.
        below_rounding: elements that differ, by less than rounding keeps (see `analyze`).
        nonfinite: infinite and NaN elements of a, b and the base together.
        norm2_a, norm2_b: squared norms.
        delta2: `|b - a|^2`, summed from the differences.
        ranked: `delta2` of the matrices whose rank was estimated, with `rank` and `noise_rank`
            each weighted by it.
        based: elements with a base beside them.
        both: of these, elements that both models changed; `conflicts` of them in opposite
            directions.
        product: the sum of `(a - base)(b - base)`; `product_abs` that of its magnitudes.
        delta2_a, delta2_b: `|a - base|^2` and `|b - base|^2`.
        ranked_a, rank_a, ranked_b, rank_b: as `ranked` and `rank`, of a - base and b - base.
    """

    units: int = 0
    identical_units: int = 0
    elements: int = 0
    identical: int = 0
    below_rounding: int = 0
    nonfinite: int = 0
    norm2_a: float = 0.0
    norm2_b: float = 0.0
    delta2: float = 0.0
    ranked: float = 0.0
    rank: float = 0.0
    noise_rank: float = 0.0
    based: int = 0
    both: int = 0
    conflicts: int = 0
    product: float = 0.0
    product_abs: float = 0.0
    delta2_a: float = 0.0
    delta2_b: float = 0.0
    ranked_a: float = 0.0
    rank_a: float = 0.0
    ranked_b: float = 0.0
    rank_b: float = 0.0

    def plus(self, other: Sums) -> Sums:
        """Return the sums over both sets of units."""
        return Sums._make(x + y for x, y in zip(self, other, strict=True))

    @property
    def cosine(self) -> float | None:
        """`<a, b> / (|a| |b|)`, from the norms and the difference; None when a norm is zero."""
        dot = (self.norm2_a + self.norm2_b - self.delta2) / 2
        return _cosine(dot, self.norm2_a, self.norm2_b)

    @property
    def norm_ratio(self) -> float | None:
        """`|b| / |a|`."""
        return _root(self.norm2_b, self.norm2_a)

    @property
    def delta_norm(self) -> float:
        """`|b - a|`."""
        return math.sqrt(self.delta2)

    @property
    def relative_delta(self) -> float | None:
        """`|b - a| / |a|`."""
        return _root(self.delta2, self.norm2_a)

    @property
    def effective_rank(self) -> float | None:
        """Participation ratio of the singular values of b - a; None without a matrix that differs.

        Over several matrices it is their mean, weighted by `delta2`.
        """
        return _ratio(self.rank, self.ranked)

    @property
    def rank_share(self) -> float | None:
        """`effective_rank` as a share of what noise of the same shape has, `nm / (n + m)`."""
        return _ratio(self.rank, self.noise_rank)

    @property
    def delta_cosine(self) -> float | None:
        """The cosine of a - base and b - base."""
        return _cosine(self.product, self.delta2_a, self.delta2_b)

    @property
    def sign_conflict(self) -> float | None:
        """Share of the elements both changed that they changed in opposite directions."""
        return _ratio(self.conflicts, self.both)

    @property
    def sign_conflict_weighted(self) -> float | None:
        """The same, each element weighted by `|(a - base)(b - base)|`."""
        if self.product_abs <= 0:
            return None
        return min(1.0, max(0.0, (1 - self.product / self.product_abs) / 2))

    def figures(self) -> AnalysisFigures:
        """Return the figures people and programs read, shares and ratios, without the sums."""
        figures: AnalysisFigures = {
            "units": self.units,
            "identical_units": self.identical_units,
            "elements": self.elements,
            "cosine": self.cosine,
            "norm_ratio": self.norm_ratio,
            "norm_a": math.sqrt(self.norm2_a),
            "norm_b": math.sqrt(self.norm2_b),
            "delta_norm": self.delta_norm,
            "relative_delta": self.relative_delta,
            "identical": _ratio(self.identical, self.elements),
            "below_rounding": _ratio(self.below_rounding, self.elements),
            "effective_rank": self.effective_rank,
            "rank_share": self.rank_share,
            "nonfinite": self.nonfinite,
        }
        if self.based:
            figures |= {
                "delta_cosine": self.delta_cosine,
                "delta_norm_a": math.sqrt(self.delta2_a),
                "delta_norm_b": math.sqrt(self.delta2_b),
                "sign_conflict": self.sign_conflict,
                "sign_conflict_weighted": self.sign_conflict_weighted,
                "effective_rank_a": _ratio(self.rank_a, self.ranked_a),
                "effective_rank_b": _ratio(self.rank_b, self.ranked_b),
            }
        return figures


class BlockRow(NamedTuple):
    """One part of one block: `double.7`, `attn.q` of the stream `img`; or `embed` and `embed`."""

    block: str
    part: str
    sums: Sums
    stream: str = ""

    def to_dict(self) -> AnalysisRow:
        """Return the row as plain data: its figures, and its sums to add rows up with."""
        return {
            "block": self.block,
            "stream": self.stream,
            "part": self.part,
            **self.sums.figures(),
            "sums": self.sums._asdict(),
        }


def rows_of(plan: Plan, figures: Mapping[str, Any]) -> tuple[BlockRow, ...]:
    """Add the core's figures of the units up to a row for each part of each stream of a block."""
    rows: dict[tuple[str, str, str], Sums] = {}
    for figure in figures["units"]:
        unit = plan.units[figure["unit"]]
        shape = plan.outputs[unit.output].shape
        key = (*place_of(unit.name), stream_of(unit.name))
        rows[key] = rows.get(key, Sums()).plus(_sums(figure, shape))
    found = [BlockRow(block, part, sums, stream) for (block, part, stream), sums in rows.items()]
    return tuple(
        sorted(found, key=lambda row: (execution_key(f"{row.block}.{row.part}"), row.stream))
    )


def grouped(rows: Iterable[BlockRow], by: str) -> list[BlockRow]:
    """Add rows up over the blocks of a stack (`part`) or over the parts of a block (`block`)."""
    sums: dict[tuple[str, str], Sums] = {}
    for row in rows:
        if by == "part":
            key = (row.block.partition(".")[0], row.part)
        else:
            key = (row.block, row.part if row.block == row.part else "all")
        sums[key] = sums.get(key, Sums()).plus(row.sums)
    return [BlockRow(block, part, total) for (block, part), total in sums.items()]


def _sums(figure: Mapping[str, Any], shape: tuple[int, ...]) -> Sums:
    """Return one unit's sums; its operands are a and b, or base, a and b."""
    found, norms = figure["analysis"], figure["norm2"]
    based = len(norms) == 3
    rows, columns = shape[0] if shape else 1, math.prod(shape[1:])
    ranked = [_rank(spread, min(rows, columns)) for spread in found["spread"]]
    between = found["between2"] if based else figure["delta2"][1]
    deltas = (between, *figure["delta2"][1:])[: len(ranked)]
    weighted = [
        (delta, delta * rank) if rank is not None else (0.0, 0.0)
        for delta, rank in zip(deltas, ranked, strict=True)
    ]
    weighted += [(0.0, 0.0)] * (3 - len(weighted))
    sums = Sums(
        units=1,
        identical_units=int(found["identical"] == figure["elements"]),
        elements=figure["elements"],
        identical=found["identical"],
        below_rounding=found["below_rounding"],
        nonfinite=sum(figure["nonfinite"]),
        norm2_a=norms[-2],
        norm2_b=norms[-1],
        delta2=between,
        ranked=weighted[0][0],
        rank=weighted[0][1],
        noise_rank=weighted[0][0] * (rows * columns / (rows + columns)),
    )
    if not based:
        return sums
    return sums._replace(
        based=figure["elements"],
        both=found["both"],
        conflicts=found["conflicts"],
        product=found["product"],
        product_abs=found["product_abs"],
        delta2_a=figure["delta2"][1],
        delta2_b=figure["delta2"][2],
        ranked_a=weighted[1][0],
        rank_a=weighted[1][1],
        ranked_b=weighted[2][0],
        rank_b=weighted[2][1],
    )


def _rank(spread: Mapping[str, float | None], most: int) -> float | None:
    """Return the participation ratio a sketch estimates; None for a matrix of zeros."""
    sizes, cross = spread["sizes"], spread["cross"]
    return max(1.0, min(sizes / cross, most)) if sizes is not None and cross else None


def _cosine(dot: float, first: float, second: float) -> float | None:
    norm = math.sqrt(first) * math.sqrt(second)
    return max(-1.0, min(1.0, dot / norm)) if norm > 0 else None


def _root(part: float, whole: float) -> float | None:
    return math.sqrt(part / whole) if whole > 0 else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
