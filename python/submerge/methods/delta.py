"""Methods on what models add to a base, `d_i = X_i - C`: sums of it, thinned out or voted on.

All are one operation of the core with different arguments; parameters and defaults are those of
mergekit 0.1.5. Deltas are thinned out unit by unit: a share of 0.5 is half of every unit.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from submerge.methods.base import Blend, Method, Mixtures, Setting, known, number_in_words
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

MERGEKIT = "mergekit 0.1.5"
SUM = "lambda sum_i w_i"


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

    weight: PerModel | None = None
    lambda_: Value = Number(1.0)
    normalize: bool = False
    base: str | None = None

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of the base."""
        self._models(setting, where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the sum for every unit; models of weight 0 are left out.

        Where nothing is left, or `lambda` is 0, it is the base.
        """
        base, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        thin = self.tables(setting, models, selection, where)
        found: dict[str, dict[str, float] | Blend] = {}
        for unit in selection.wanted:
            row = {model: weights[model][unit] for model in models if weights[model][unit]}
            if not row or scales[unit] == 0:
                found[unit] = {base: 1.0}
                continue
            given = {name: [table[m][unit] for m in row] for name, table in thin.items()}
            kind, more = self._sparsify(given, [key_of(setting.seed, unit, m) for m in row])
            arguments = {
                "weights": list(row.values()),
                "lambda": scales[unit],
                "normalize": self.normalize,
                "consensus": getattr(self, "consensus", "none"),
                "sparsify": {kind: more},
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

    def _sparsify(
        self, given: Mapping[str, list[float]], keys: list[int]
    ) -> tuple[str, dict[str, Any]]:
        """Return what the core is told to leave of the deltas of one unit."""
        del given, keys
        return "none", {}


@dataclass(frozen=True, slots=True)
class TaskArithmetic(Delta):
    """The base plus a weighted sum of what the others learned on top of it.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide the sum by the sum of the weights.
        base: the model added to; the recipe's where nothing is said.
        delta_base: the model that differences are taken from, if it is another. The result is then
            a weighted sum, computed as `linear` does.
    """

    name: ClassVar[str] = "task_arithmetic"
    ops: ClassVar[tuple[str, ...]] = ("delta", "linear")
    formula: ClassVar[str] = f"C + {SUM} d_i"
    source: ClassVar[str] = f"Ilharco et al. 2023 (arXiv 2212.04089); {MERGEKIT}"

    delta_base: str | None = None

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the sum for every unit; with a `delta_base` of its own as plain weights."""
        if self.delta_base in (None, base_of(self.base, setting, where)):
            # Not `super()`: slots make a new class, which the bare form does not know.
            return Delta.mixtures(self, setting, selection, where)
        base, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        found: dict[str, dict[str, float] | Blend] = {}
        for unit in selection.wanted:
            shares = self._shares({m: weights[m][unit] for m in models}, scales[unit])
            row = dict.fromkeys(setting.models, 0.0)
            row[base] = 1.0
            for model, share in shares.items():
                row[model] += share
            row[str(self.delta_base)] -= math.fsum(shares.values())
            found[unit] = row
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

    density: EachModel = EachModel(Number(1.0))

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> dict[str, Tables]:
        at = f"{where}.density"
        return {"density": shares_of(self.density, setting, models, selection, at)}

    def _sparsify(
        self, given: Mapping[str, list[float]], keys: list[int]
    ) -> tuple[str, dict[str, Any]]:
        if all(share == 1 for share in given["density"]):
            return "none", {}
        return self._thinned(given, keys)

    def _thinned(
        self, given: Mapping[str, list[float]], keys: list[int]
    ) -> tuple[str, dict[str, Any]]:
        del keys
        return "magnitude", dict(given)


@dataclass(frozen=True, slots=True)
class Ties(Thin):
    """The largest parts of each delta, and of these the ones whose sign has the majority.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide by the weights of the models that took part in an element.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the share of each delta that is left, largest magnitudes first.
        consensus: whether the sign with the larger sum of weighted deltas wins (`sum`), or that
            of more models (`count`).
    """

    name: ClassVar[str] = "ties"
    formula: ClassVar[str] = f"C + {SUM} top(d_i) [agrees] / sum_i w_i [agrees]"
    passes: ClassVar[int] = 7
    state: ClassVar[str] = "counts of magnitudes, exact thresholds"
    source: ClassVar[str] = f"Yadav et al. 2023 (arXiv 2306.01708); {MERGEKIT}"

    normalize: bool = True
    consensus: Literal["sum", "count"] = "sum"


@dataclass(frozen=True, slots=True)
class _Outliers(Thin):
    """Deltas without their largest and smallest parts."""

    gamma: EachModel = EachModel(Number(0.01))

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> dict[str, Tables]:
        gamma = shares_of(self.gamma, setting, models, selection, f"{where}.gamma")
        return {**Thin.tables(self, setting, models, selection, where), "gamma": gamma}

    def _thinned(
        self, given: Mapping[str, list[float]], keys: list[int]
    ) -> tuple[str, dict[str, Any]]:
        del keys
        return "outliers", dict(given)


@dataclass(frozen=True, slots=True)
class Breadcrumbs(_Outliers):
    """Deltas without outliers and without their smallest parts.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide the sum by the sum of the weights.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the share of each delta that is left, below the outliers.
        gamma: the share of each delta that is cut off as outliers, largest magnitudes first.
    """

    name: ClassVar[str] = "breadcrumbs"
    formula: ClassVar[str] = f"C + {SUM} middle(d_i)"
    passes: ClassVar[int] = 7
    state: ClassVar[str] = "counts of magnitudes, exact thresholds"
    source: ClassVar[str] = f"Davari and Belilovsky 2023 (arXiv 2312.06795); {MERGEKIT}"


@dataclass(frozen=True, slots=True)
class BreadcrumbsTies(_Outliers):
    """Breadcrumbs, of which those count whose sign has the majority.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide by the weights of the models that took part in an element.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the share of each delta that is left, below the outliers.
        gamma: the share of each delta that is cut off as outliers, largest magnitudes first.
        consensus: whether the sign with the larger sum of weighted deltas wins (`sum`), or that
            of more models (`count`).
    """

    name: ClassVar[str] = "breadcrumbs_ties"
    formula: ClassVar[str] = f"C + {SUM} middle(d_i) [agrees]"
    passes: ClassVar[int] = 7
    state: ClassVar[str] = "counts of magnitudes, exact thresholds"
    source: ClassVar[str] = f"Davari and Belilovsky 2023 (arXiv 2312.06795); {MERGEKIT}"

    consensus: Literal["sum", "count"] = "sum"


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
