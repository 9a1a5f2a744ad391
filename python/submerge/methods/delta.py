"""Methods on what models add to a base, `d_i = X_i - C`: sums of it, thinned out or voted on.

All are one operation of the core with different arguments. Deltas are thinned out unit by unit: a
share of 0.5 is half of every unit.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from submerge.methods.base import (
    EXACT,
    MERGEKIT,
    OUTSIDE_TIES,
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
from submerge.methods.parameters import EachModel, base_of, deltas_of, shares_of, weights_of
from submerge.values import Number, PerModel, Selection, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.methods.parameters import Tables

__all__ = [
    "Breadcrumbs",
    "BreadcrumbsTies",
    "TaskArithmetic",
    "Ties",
    "key_of",
]

SUM = "lambda sum_i w_i"
BASE = "the model deltas are taken from; the recipe's where nothing is said."
WEIGHT = "a number for each model by name; 1 where none are given."
LAMBDA = "what the whole sum is multiplied by."
NORMALIZE = "divide the sum by the weights that went into it."

Consensus: TypeAlias = Literal["plain", "sum", "count"] | None
CONSENSUS = (
    "which sign wins: that of the sum of deltas (`plain`, as the papers), of their sum with "
    "weights (`sum`, as mergekit), or that of more models (`count`). Left out it is `plain`, and "
    "`sum` under `compat: mergekit`; they differ only where weights do. Where deltas cancel "
    "exactly, the sign of more elements of the unit wins, as in the code of TIES' authors, and the "
    "positive one under `compat: mergekit`."
)


def key_of(seed: int, unit: str, model: str) -> int:
    """Return the key of the noise of one model in one unit.

    The first eight bytes, little endian, of the SHA-256 of seed, unit and model parted by NUL: the
    same whatever the layout of the files.
    """
    digest = hashlib.sha256(f"{seed}\0{unit}\0{model}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True, slots=True)
class Delta(Method):
    """A sum of deltas, added to the base."""

    ops: ClassVar[tuple[str, ...]] = ("delta",)

    weight: PerModel | None = parameter(WEIGHT)
    lambda_: Value = parameter(LAMBDA, Number(1.0))
    normalize: bool = parameter(NORMALIZE, default=False)
    base: str | None = parameter(BASE)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of the base."""
        self._models(setting, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; models of weight 0 are left out.

        Where nothing is left, or `lambda` is 0, it is the base.
        """
        base, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        thin = self.tables(setting, models, selection, where)
        found: dict[str, Blend] = {}
        for unit in selection.wanted:
            row = {model: weights[model][unit] for model in models if weights[model][unit]}
            if not row or scales[unit] == 0:
                found[unit] = weighted_sum({base: 1.0})
                continue
            given = {name: [table[m][unit] for m in row] for name, table in thin.items()}
            sparsify = self._sparsify(given, setting, unit, list(row))
            arguments = {
                "weights": list(row.values()),
                "lambda": scales[unit],
                "normalize": "weights" if self.normalize else "none",
                "consensus": self.voting(setting),
                "even": _even(sparsify, setting),
                "sparsify": sparsify,
            }
            found[unit] = Blend(
                op="delta",
                arguments=arguments,
                models=(base, *row),
                words=_words(self.name, base, row, scales[unit], given),
                base=base,
                shares=self._shares(row, scales[unit]),
            )
        return found

    def _models(self, setting: Setting, where: str) -> tuple[str, tuple[str, ...]]:
        base = base_of(self.base, setting, where)
        return base, deltas_of(setting, self.weight, [base], where)

    def _shares(self, row: Mapping[str, float], scale: float) -> dict[str, float]:
        total = math.fsum(row.values()) if self.normalize else 1.0
        return {model: scale * weight / (total or 1.0) for model, weight in row.items()}

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> dict[str, Tables]:
        """Return the numbers that say what is left of each model, by the core's words."""
        del setting, models, selection, where
        return {}

    def voting(self, setting: Setting) -> str:
        """Return which models take part in an element, in the core's word."""
        del setting
        return "none"

    def _sparsify(
        self, given: Mapping[str, list[float]], setting: Setting, unit: str, models: list[str]
    ) -> dict[str, Any]:
        """Return what the core is told to leave of the deltas of one unit."""
        if all(share == 1 for share in given.get("density", ())):
            return {"none": {}}
        kind, more = self._thinned(given, setting)
        if kind in ("random", "rank"):
            more["keys"] = [key_of(setting.seed, unit, model) for model in models]
        return {kind: more}

    def _thinned(
        self, given: Mapping[str, list[float]], setting: Setting
    ) -> tuple[str, dict[str, Any]]:
        """Return how deltas are thinned out, and its arguments but the keys of noise."""
        del setting
        return "magnitude", dict(given)


@dataclass(frozen=True, slots=True)
class TaskArithmetic(Delta):
    """The base plus a weighted sum of what the others learned on top of it.

    With a `delta_base` of its own the result is a weighted sum, computed as `linear` does.
    """

    name: ClassVar[str] = "task_arithmetic"
    ops: ClassVar[tuple[str, ...]] = ("delta", "linear")
    formula: ClassVar[str] = f"C + {SUM} d_i"
    source: ClassVar[str] = f"Ilharco et al. 2023 (arXiv 2212.04089); {MERGEKIT}"
    equal: ClassVar[Equality] = {"numpy": EXACT, MERGEKIT: EXACT}

    delta_base: str | None = parameter("the model that differences are taken from, if another.")

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; with a `delta_base` of its own as plain weights."""
        if self.delta_base in (None, base_of(self.base, setting, where)):
            # Not `super()`: slots make a new class, which the bare form does not know.
            return Delta.blends(self, setting, selection, where)
        base, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        found: dict[str, Blend] = {}
        for unit in selection.wanted:
            shares = self._shares({m: weights[m][unit] for m in models}, scales[unit])
            row = dict.fromkeys(setting.models, 0.0)
            row[base] = 1.0
            for model, share in shares.items():
                row[model] += share
            row[str(self.delta_base)] -= math.fsum(shares.values())
            found[unit] = weighted_sum(row)
        return found

    def _models(self, setting: Setting, where: str) -> tuple[str, tuple[str, ...]]:
        base = base_of(self.base, setting, where)
        bases = [base]
        if self.delta_base is not None:
            known(self.delta_base, setting.models, f"{where}.delta_base")
            bases.append(self.delta_base)
        return base, deltas_of(setting, self.weight, bases, where)


@dataclass(frozen=True, slots=True)
class Thin(Delta):
    """Deltas of which a share is left."""

    passes: ClassVar[int] = 7
    state: ClassVar[str] = "counts of magnitudes, exact thresholds"

    density: EachModel = parameter("the share of each delta that is left.", EachModel(Number(1.0)))

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> dict[str, Tables]:
        at = f"{where}.density"
        return {"density": shares_of(self.density, setting, models, selection, at)}


class Voted:
    """Of the deltas those count whose sign wins, element by element."""

    __slots__ = ()
    consensus: Consensus

    def voting(self, setting: Setting) -> str:
        """Return the word that was given, or whose arithmetic is asked for."""
        return self.consensus or ("sum" if setting.compat == "mergekit" else "plain")


@dataclass(frozen=True, slots=True)
class Ties(Voted, Thin):
    """The largest parts of each delta, and of these the ones whose sign has the majority."""

    name: ClassVar[str] = "ties"
    formula: ClassVar[str] = f"C + {SUM} top(d_i) [agrees] / sum_i w_i [agrees]"
    source: ClassVar[str] = f"Yadav et al. 2023 (arXiv 2306.01708); {MERGEKIT}"
    passes: ClassVar[int] = 8
    equal: ClassVar[Equality] = {"numpy": EXACT, MERGEKIT: OUTSIDE_TIES}

    normalize: bool = parameter(NORMALIZE, default=True)
    consensus: Consensus = parameter(CONSENSUS)


@dataclass(frozen=True, slots=True)
class _Outliers(Thin):
    """Deltas without their largest and smallest parts."""

    source: ClassVar[str] = f"Davari and Belilovsky 2023 (arXiv 2312.06795); {MERGEKIT}"
    equal: ClassVar[Equality] = {"numpy": EXACT, MERGEKIT: OUTSIDE_TIES}

    gamma: EachModel = parameter(
        "the share of each delta that is cut off as outliers, largest magnitudes first.",
        EachModel(Number(0.01)),
    )

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> dict[str, Tables]:
        gamma = shares_of(self.gamma, setting, models, selection, f"{where}.gamma")
        return {**Thin.tables(self, setting, models, selection, where), "gamma": gamma}

    def _thinned(
        self, given: Mapping[str, list[float]], setting: Setting
    ) -> tuple[str, dict[str, Any]]:
        del setting
        return "outliers", dict(given)


@dataclass(frozen=True, slots=True)
class Breadcrumbs(_Outliers):
    """Deltas without outliers and without their smallest parts."""

    name: ClassVar[str] = "breadcrumbs"
    formula: ClassVar[str] = f"C + {SUM} middle(d_i)"


@dataclass(frozen=True, slots=True)
class BreadcrumbsTies(Voted, _Outliers):
    """Breadcrumbs, of which those count whose sign has the majority."""

    name: ClassVar[str] = "breadcrumbs_ties"
    formula: ClassVar[str] = f"C + {SUM} middle(d_i) [agrees]"
    passes: ClassVar[int] = 8

    consensus: Consensus = parameter(CONSENSUS)


def _even(sparsify: Mapping[str, Any], setting: Setting) -> str:
    """Return which sign wins where deltas cancel, in the core's word.

    Where every element has a factor of its own they do so by chance alone: not worth a pass.
    """
    own = sparsify.get("rank", {}).get("rescale") == "inverse"
    return "positive" if own or setting.compat == "mergekit" else "majority"


def _words(
    name: str,
    base: str,
    row: Mapping[str, float],
    scale: float,
    given: Mapping[str, Sequence[float]],
) -> str:
    """Return the formula of a unit: `dev + 0.80 * ties(krea + schnell; density 0.50)`."""
    factor = "" if scale == 1 else f"{number_in_words(scale)} * "
    said = [
        f"{word} {', '.join(map(number_in_words, dict.fromkeys(numbers)))}"
        for word, numbers in given.items()
    ]
    return f"{base} + {factor}{name}({'; '.join([in_words(row), *said])})"
