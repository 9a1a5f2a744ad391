"""Methods on deltas of which chance leaves a share: DARE and DELLA.

The noise is counted, not drawn in turn: an element's number follows from the seed, the unit, the
model and its place, whatever the layout of the files, threads or chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from submerge.errors import RecipeError, quoted
from submerge.methods.base import CLOSE, IN_STATISTICS, MERGEKIT, Equality, parameter
from submerge.methods.delta import CONSENSUS, NORMALIZE, SUM, Consensus, Thin, Voted
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

    passes: ClassVar[int] = 2
    state: ClassVar[str] = "two sums of magnitudes for each model; noise is drawn again, never kept"
    source: ClassVar[str] = f"Yu et al. 2023 (arXiv 2311.03099); {MERGEKIT}"
    # The sums that `l1` divides are formed in another order elsewhere.
    equal: ClassVar[Equality] = {"numpy": CLOSE, MERGEKIT: IN_STATISTICS}

    rescale: Literal["inverse", "l1", "none"] | None = parameter(
        "what makes up for what went: one over the probability (`inverse`, as the papers), the "
        "ratio of the sums of magnitudes (`l1`, as mergekit), or nothing (`none`). Left out it is "
        "`inverse`, and `l1` under `compat: mergekit`."
    )

    def _thinned(
        self, given: Mapping[str, list[float]], setting: Setting
    ) -> tuple[str, dict[str, Any]]:
        asked = "l1" if setting.compat == "mergekit" else "inverse"
        return "random", {**given, "rescale": self.rescale or asked}


@dataclass(frozen=True, slots=True)
class DareLinear(_Random):
    """Deltas of which chance leaves a share, made up for."""

    name: ClassVar[str] = "dare_linear"
    formula: ClassVar[str] = f"C + {SUM} random(d_i)"


@dataclass(frozen=True, slots=True)
class DareTies(Voted, _Random):
    """DARE, of which those count whose sign has the majority."""

    name: ClassVar[str] = "dare_ties"
    formula: ClassVar[str] = f"C + {SUM} random(d_i) [agrees]"
    passes: ClassVar[int] = 3

    consensus: Consensus = parameter(CONSENSUS)


@dataclass(frozen=True, slots=True)
class _Ranked(_Random):
    """Deltas of which chance leaves a share, and rather the larger magnitudes of a row."""

    state: ClassVar[str] = "one row of magnitudes in order; two sums for each model"
    source: ClassVar[str] = f"Deep et al. 2024 (arXiv 2406.11617); {MERGEKIT}"

    epsilon: EachModel = parameter(
        "how far the probability falls below the density for the smallest magnitude of a row, and "
        "rises above it for the largest.",
        EachModel(Number(0.15)),
    )

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
        self, given: Mapping[str, list[float]], setting: Setting
    ) -> tuple[str, dict[str, Any]]:
        # A model that is left whole, or not at all, has no probabilities to spread.
        pairs = zip(given["density"], given["epsilon"], strict=True)
        epsilon = [reach if 0 < density < 1 else 0.0 for density, reach in pairs]
        _, arguments = _Random._thinned(self, given, setting)  # noqa: SLF001 - slots, as above
        return "rank", arguments | {"epsilon": epsilon}


@dataclass(frozen=True, slots=True)
class Della(Voted, _Ranked):
    """Chance favours large deltas, and those count whose sign has the majority."""

    name: ClassVar[str] = "della"
    formula: ClassVar[str] = f"C + {SUM} rank(d_i) [agrees] / sum_i w_i [agrees]"
    passes: ClassVar[int] = 3

    normalize: bool = parameter(NORMALIZE, default=True)
    consensus: Consensus = parameter(CONSENSUS)


@dataclass(frozen=True, slots=True)
class DellaLinear(_Ranked):
    """Deltas of which chance leaves a share, and rather the larger of a row."""

    name: ClassVar[str] = "della_linear"
    formula: ClassVar[str] = f"C + {SUM} rank(d_i)"
