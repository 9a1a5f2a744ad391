"""Methods on deltas of which chance leaves a share: DARE and DELLA.

The noise is counted, not drawn in turn: an element's number follows from the seed, the unit, the
model and its place, whatever the layout of the files, threads or chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from submerge.errors import RecipeError, quoted
from submerge.methods.delta import MERGEKIT, SUM, Thin
from submerge.methods.parameters import EachModel, shares_of
from submerge.values import Number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.methods.base import Setting
    from submerge.methods.parameters import Tables
    from submerge.values import Selection

__all__ = ["DareLinear", "DareTies", "Della", "DellaLinear"]


@dataclass(frozen=True, slots=True)
class _Random(Thin):
    """Deltas of which chance leaves a share."""

    rescale: Literal["l1", "inverse", "none"] = "l1"

    def _thinned(
        self, given: Mapping[str, list[float]], keys: list[int]
    ) -> tuple[str, dict[str, Any]]:
        return "random", {**given, "keys": keys, "rescale": self.rescale}


@dataclass(frozen=True, slots=True)
class DareLinear(_Random):
    """Deltas of which chance leaves a share, made up for.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide the sum by the sum of the weights.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the probability with which an element is left.
        rescale: what makes up for what went: the ratio of the sums of magnitudes (`l1`, as
            mergekit), one over the probability (`inverse`, as the paper), or nothing (`none`).
    """

    name: ClassVar[str] = "dare_linear"
    formula: ClassVar[str] = f"C + {SUM} random(d_i)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = "two sums of magnitudes for each model; noise is drawn again, never kept"
    source: ClassVar[str] = f"Yu et al. 2023 (arXiv 2311.03099); {MERGEKIT}"


@dataclass(frozen=True, slots=True)
class DareTies(_Random):
    """DARE, of which those count whose sign has the majority.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide by the weights of the models that took part in an element.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the probability with which an element is left.
        rescale: what makes up for what went: the ratio of the sums of magnitudes (`l1`, as
            mergekit), one over the probability (`inverse`, as the paper), or nothing (`none`).
        consensus: whether the sign with the larger sum of weighted deltas wins (`sum`), or that
            of more models (`count`).
    """

    name: ClassVar[str] = "dare_ties"
    formula: ClassVar[str] = f"C + {SUM} random(d_i) [agrees]"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = "two sums of magnitudes for each model; noise is drawn again, never kept"
    source: ClassVar[str] = f"Yu et al. 2023 (arXiv 2311.03099); {MERGEKIT}"

    consensus: Literal["sum", "count"] = "sum"


@dataclass(frozen=True, slots=True)
class _Ranked(_Random):
    """Deltas of which chance leaves a share, and rather the larger magnitudes of a row."""

    epsilon: EachModel = EachModel(Number(0.15))

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> dict[str, Tables]:
        found = Thin.tables(self, setting, models, selection, where)
        epsilon = shares_of(self.epsilon, setting, models, selection, f"{where}.epsilon")
        for model in models:
            for unit in selection.wanted:
                density, reach = found["density"][model][unit], epsilon[model][unit]
                if 0 < density < 1 and not reach <= density <= 1 - reach:
                    raise RecipeError(
                        f"{where}.epsilon: {reach:g} about the density {density:g} of "
                        f"{quoted(model)} in {quoted(unit)}, expected probabilities from 0 to 1"
                    )
        return {**found, "epsilon": epsilon}

    def _thinned(
        self, given: Mapping[str, list[float]], keys: list[int]
    ) -> tuple[str, dict[str, Any]]:
        # A model that is left whole, or not at all, has no probabilities to spread.
        pairs = zip(given["density"], given["epsilon"], strict=True)
        epsilon = [reach if 0 < density < 1 else 0.0 for density, reach in pairs]
        return "rank", {**given, "epsilon": epsilon, "keys": keys, "rescale": self.rescale}


@dataclass(frozen=True, slots=True)
class Della(_Ranked):
    """Chance favours large deltas, and those count whose sign has the majority.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide by the weights of the models that took part in an element.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the probability with which an element is left.
        rescale: what makes up for what went: the ratio of the sums of magnitudes (`l1`, as
            mergekit), one over the probability (`inverse`, as the paper), or nothing (`none`).
        epsilon: how far the probability falls below the density for the smallest magnitude of a
            row, and rises above it for the largest.
        consensus: whether the sign with the larger sum of weighted deltas wins (`sum`), or that
            of more models (`count`).
    """

    name: ClassVar[str] = "della"
    formula: ClassVar[str] = f"C + {SUM} rank(d_i) [agrees] / sum_i w_i [agrees]"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = "one row of magnitudes in order; two sums for each model"
    source: ClassVar[str] = f"Deep et al. 2024 (arXiv 2406.11617); {MERGEKIT}"

    normalize: bool = True
    consensus: Literal["sum", "count"] = "sum"


@dataclass(frozen=True, slots=True)
class DellaLinear(_Ranked):
    """Deltas of which chance leaves a share, and rather the larger of a row.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        normalize: divide the sum by the sum of the weights.
        base: the model deltas are taken from; the recipe's where nothing is said.
        density: the probability with which an element is left.
        rescale: what makes up for what went: the ratio of the sums of magnitudes (`l1`, as
            mergekit), one over the probability (`inverse`, as the paper), or nothing (`none`).
        epsilon: how far the probability falls below the density for the smallest magnitude of a
            row, and rises above it for the largest.
    """

    name: ClassVar[str] = "della_linear"
    formula: ClassVar[str] = f"C + {SUM} rank(d_i)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = "one row of magnitudes in order; two sums for each model"
    source: ClassVar[str] = f"Deep et al. 2024 (arXiv 2406.11617); {MERGEKIT}"
