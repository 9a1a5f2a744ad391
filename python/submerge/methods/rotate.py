"""Two models in one frame, after the rotation that brings one nearest to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from submerge.errors import RecipeError, quoted
from submerge.methods.base import (
    CLOSE,
    MECHA,
    Blend,
    Blends,
    Equality,
    Method,
    Setting,
    number_in_words,
    parameter,
    weighted_sum,
)
from submerge.methods.base import weighted_words as in_words
from submerge.methods.parameters import pair_of
from submerge.values import Number, Selection, Value

__all__ = ["Rotate"]


@dataclass(frozen=True, slots=True)
class Rotate(Method):
    """Both models in one frame: the first is turned to the second, or each a part of the way.

    `R` is the orthogonal matrix that makes `|A R - B|` least. It turns the short side: the columns
    of a tall or square matrix, the rows of a wide one (`R A`). Directions that `A^T B` does not
    determine, below about a trillionth of its norm, are turned as little as can be. A vector, one
    row or one column, is not turned.

    With an `alignment` of 0 or 1 `R` may reflect. There is no part of a reflection: between them
    `R` is the best without one, in which the direction that `A^T B` determines least is turned
    round, as in sd-mecha. `R^t` then turns every plane by a part of its angle. A plane that `R`
    turns by half a turn could go either way: it goes as the skew part of `R` says, and where that
    says nothing, as between models whose signs differ, one of both ways is taken, the same every
    time. Where that is more than half of all directions it is an error.
    """

    name: ClassVar[str] = "rotate"
    formula: ClassVar[str] = (
        "(1 - alpha) A R^t + alpha B R^(t - 1), R = argmin |A R - B| = polar(A^T B), t = alignment"
    )
    source: ClassVar[str] = (
        "Schönemann 1966, orthogonal Procrustes; sd-mecha `rotate`, but for wide matrices, whose "
        "columns that turns, and with other defaults (there `alpha` 0 and `centralization` 1)"
    )
    ops: ClassVar[tuple[str, ...]] = ("matrix",)
    passes: ClassVar[int] = 4
    state: ClassVar[str] = "what is made in f32, matrices of its short side in f64"
    equal: ClassVar[Equality] = {"numpy": CLOSE, MECHA: f"{CLOSE}, wide matrices apart"}

    alpha: Value = parameter("the share of the second model.", Number(0.5))
    alignment: Value = parameter(
        "whose frame the result is in: 1 turns the first model to the second, 0 the second back to "
        "the first, and between them each meets the other on the way.",
        Number(1.0),
    )
    centralization: Value = parameter(
        "the share of their means that both models are without when they are turned: of the mean "
        "row of a tall matrix, the mean column of a wide one. The result has the means mixed by "
        "`alignment`.",
        Number(0.0),
    )

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; where the model that is turned has no share, the other."""
        pair = first, second = pair_of(setting, None, where)
        alphas = self.alpha.table(selection, f"{where}.alpha")
        alignments = self.alignment.table(selection, f"{where}.alignment")
        centralizations = self.centralization.table(selection, f"{where}.centralization")
        found: dict[str, Blend] = {}
        for unit in selection.wanted:
            alpha, alignment = alphas[unit], alignments[unit]
            if not 0 <= alignment <= 1:
                raise RecipeError(
                    f"{where}.alignment: {alignment:g} for {quoted(unit)}, expected 0 to 1"
                )
            if alpha == alignment and alignment in (0, 1):
                found[unit] = weighted_sum({pair[int(alignment)]: 1.0})
                continue
            turned = {
                "alignment": alignment,
                "alpha": alpha,
                "centralization": centralizations[unit],
            }
            found[unit] = Blend(
                op="matrix",
                arguments={
                    "weights": [1.0],
                    "lambda": 1.0,
                    "apart": False,
                    "make": {"rotated": turned},
                },
                models=pair,
                words=_words(pair, alpha, alignment),
                shares={first: 1.0 - alpha, second: alpha},
            )
        return found


def _words(pair: tuple[str, str], alpha: float, alignment: float) -> str:
    """Return the formula of a unit: `0.30 * krea + 0.70 * rotate(schnell to krea)`."""
    first, second = pair
    shares = {first: 1.0 - alpha, second: alpha}
    if alignment in (0, 1):
        still, turned = (second, first) if alignment else (first, second)
        terms = {still: shares[still], f"rotate({turned} to {still})": shares[turned]}
    else:
        to, back = (f"; {number_in_words(part)} of the way" for part in (alignment, 1 - alignment))
        terms = {
            f"rotate({first} to {second}{to})": shares[first],
            f"rotate({second} to {first}{back})": shares[second],
        }
    return in_words({name: share for name, share in terms.items() if share})
