"""Methods of whole matrices: what singular values make of what models add to a base.

A unit of `m` rows of `n` elements is one matrix `D = sum_i w_i (X_i - C) = U S V^T`, held in f32
while it is worked on, beside square matrices of its short side in f64 (fewer for a small rank).
A vector, one row or one column, has a rule of its own in each method.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from submerge.errors import RecipeError, quoted
from submerge.methods.base import (
    CLOSE,
    Blend,
    Blends,
    Equality,
    Method,
    Setting,
    known,
    number_in_words,
    parameter,
    weighted_sum,
)
from submerge.methods.base import weighted_words as in_words
from submerge.methods.delta import BASE, LAMBDA, WEIGHT
from submerge.methods.parameters import base_of, deltas_of, weights_of
from submerge.values import Number, PerModel, Selection, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IsoC", "TruncatedSvd", "TsvM"]

_STATE = "the difference in f32 and matrices of its short side in f64"


@dataclass(frozen=True, slots=True)
class _Decomposed(Method):
    """A base plus what a decomposition makes of a weighted sum of deltas."""

    ops: ClassVar[tuple[str, ...]] = ("matrix",)
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _STATE
    equal: ClassVar[Equality] = {"numpy": CLOSE}

    weight: PerModel | None = parameter(WEIGHT)
    lambda_: Value = parameter(LAMBDA, Number(1.0))
    base: str | None = parameter(BASE)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of the base."""
        self._models(setting, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; models of weight 0 are left out.

        Where nothing is left, or `lambda` is 0, it is the base.
        """
        bases, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        made = self._make(selection, where)
        found: dict[str, Blend] = {}
        for unit in selection.wanted:
            row = {model: weights[model][unit] for model in models if weights[model][unit]}
            scale = scales[unit]
            if not row or scale == 0:
                found[unit] = weighted_sum({bases[0]: 1.0})
                continue
            make, said = made[unit]
            found[unit] = Blend(
                op="matrix",
                arguments={
                    "weights": list(row.values()),
                    "lambda": scale,
                    "apart": len(bases) > 1,
                    "make": make,
                },
                models=(*bases, *row),
                words=_words(self.name, bases, row, scale, said),
                base=bases[0],
                shares=_shares(bases, row, scale),
            )
        return found

    def _models(self, setting: Setting, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the model added to, that which deltas are taken from if another, and the rest."""
        base = base_of(self.base, setting, where)
        return (base,), deltas_of(setting, self.weight, [base], where)

    @abstractmethod
    def _make(
        self, selection: Selection, where: str
    ) -> Mapping[str, tuple[Mapping[str, Any], str]]:
        """Return what the core makes of the deltas of every unit, and that in words."""


@dataclass(frozen=True, slots=True)
class TruncatedSvd(_Decomposed):
    """The base plus the strongest directions of what the others learned on top of it.

    Where `rank` is few of many (with an eighth and at least 16 more it fits four times into the
    short side), they are found by subspace iteration, else by a whole decomposition. The report
    says how much of the difference was kept. A vector is kept whole.
    """

    name: ClassVar[str] = "truncated_svd"
    formula: ClassVar[str] = "C + lambda sum_{j <= rank} s_j u_j v_j^T, U S V^T = sum_i w_i d_i"
    source: ClassVar[str] = (
        "Eckart and Young 1936; Halko et al. 2011 (arXiv 0909.4061); sd-mecha `truncate_rank`"
    )
    RANK: ClassVar[Value] = Number(64.0)

    rank: Value | None = parameter(
        "how many directions of each matrix are kept; 64 where neither it nor `energy` is given."
    )
    energy: Value | None = parameter(
        "instead: the share of each difference's sum of squares that is kept, 0 to 1."
    )
    delta_base: str | None = parameter("the model that differences are taken from, if another.")

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of a base, `rank` beside `energy`."""
        self._models(setting, where)
        if self.rank is not None and self.energy is not None:
            raise RecipeError(f"{where}: both `rank` and `energy` are given, expected one of them")

    def _models(self, setting: Setting, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        base = base_of(self.base, setting, where)
        bases: tuple[str, ...] = (base,)
        if self.delta_base not in (None, base):
            known(str(self.delta_base), setting.models, f"{where}.delta_base")
            bases = (base, str(self.delta_base))
        return bases, deltas_of(setting, self.weight, bases, where)

    def _make(
        self, selection: Selection, where: str
    ) -> Mapping[str, tuple[Mapping[str, Any], str]]:
        if self.energy is not None:
            shares = self.energy.table(selection, f"{where}.energy")
            for unit in selection.wanted:
                if not 0 < shares[unit] <= 1:
                    raise RecipeError(
                        f"{where}.energy: {shares[unit]:g} for {quoted(unit)}, "
                        "expected a share above 0 and at most 1"
                    )
            return {
                unit: ({"energy": shares[unit]}, f"energy {number_in_words(shares[unit])}")
                for unit in selection.wanted
            }
        ranks = _ranks(self.rank or self.RANK, selection, f"{where}.rank")
        return {unit: ({"rank": rank}, f"rank {rank}") for unit, rank in ranks.items()}


@dataclass(frozen=True, slots=True)
class IsoC(_Decomposed):
    """The base plus all directions of the summed deltas, each at their mean strength.

    Directions whose singular value is below a millionth of the largest are left out: they are not
    determined. Of vectors the mean of the deltas is added.
    """

    name: ClassVar[str] = "iso_c"
    formula: ClassVar[str] = "C + lambda mean(S) U V^T, U S V^T = sum_i w_i d_i"
    source: ClassVar[str] = "Marczak et al. 2025, Iso-C (arXiv 2502.04959)"

    def _make(
        self,
        selection: Selection,
        where: str,  # noqa: ARG002
    ) -> Mapping[str, tuple[Mapping[str, Any], str]]:
        return dict.fromkeys(selection.wanted, ({"isotropic": {}}, ""))


@dataclass(frozen=True, slots=True)
class TsvM(_Decomposed):
    """The base plus the strongest directions of every delta, orthogonal to those of the others.

    Directions that the others span already, below a millionth of the strongest, are left out. Of
    vectors the mean of the deltas is added.
    """

    name: ClassVar[str] = "tsv_m"
    passes: ClassVar[int] = 5
    state: ClassVar[str] = "one difference in f32 at a time, vectors of its short side in f64"
    formula: ClassVar[str] = (
        "C + lambda polar([U_i]) [S_i] polar([V_i])^T, U_i S_i V_i^T = w_i d_i cut at `rank`"
    )
    source: ClassVar[str] = "Gargiulo et al. 2025, TSV-Merge (arXiv 2412.00081)"

    rank: Value | None = parameter(
        "how many directions of each model are kept; left out, the short side of the matrix over "
        "the number of models, as in the paper."
    )

    def _make(
        self, selection: Selection, where: str
    ) -> Mapping[str, tuple[Mapping[str, Any], str]]:
        if self.rank is None:
            return dict.fromkeys(selection.wanted, ({"decorrelated": {"rank": None}}, ""))
        return {
            unit: ({"decorrelated": {"rank": rank}}, f"rank {rank}")
            for unit, rank in _ranks(self.rank, selection, f"{where}.rank").items()
        }


def _ranks(rank: Value, selection: Selection, where: str) -> dict[str, int]:
    """Return the rank for every wanted unit.

    Raises:
        RecipeError: one is no whole number above 0.
    """
    ranks = rank.table(selection, where)
    for unit in selection.wanted:
        if ranks[unit] < 1 or ranks[unit] % 1 or ranks[unit] >= 2**31:
            raise RecipeError(
                f"{where}: {ranks[unit]:g} for {quoted(unit)}, expected a whole number above 0"
            )
    return {unit: int(ranks[unit]) for unit in selection.wanted}


def _shares(bases: tuple[str, ...], row: Mapping[str, float], scale: float) -> dict[str, float]:
    """Return the weights of the plain sum that stands in where some models lack a unit."""
    shares = {model: scale * weight for model, weight in row.items()}
    if len(bases) > 1:
        shares[bases[1]] = -math.fsum(shares.values())
    return shares


def _words(
    name: str, bases: tuple[str, ...], row: Mapping[str, float], scale: float, said: str
) -> str:
    """Return the formula of a unit: `krea + 0.80 * truncated_svd(schnell; rank 64; from dev)`."""
    factor = "" if scale == 1 else f"{number_in_words(scale)} * "
    apart = [f"from {base}" for base in bases[1:]]
    return f"{bases[0]} + {factor}{name}({'; '.join(filter(None, [in_words(row), said, *apart]))})"
