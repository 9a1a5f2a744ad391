"""What may be asked of an adapter that is made, beside how to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.run import RunArguments, RunOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from submerge.adapters.written import FormName
    from submerge.plan.factorwise import Method

__all__ = ["Asked", "Combined", "split"]

_OWN = ("rank", "energy", "form", "dtype", "base", "method", "density", "seed")


class Asked(RunArguments, total=False):
    """What an adapter is to be like, and how to run.

    Attributes:
        rank: the rank of each module, or the most an energy may take; a number, or a mapping of
            selectors.
        energy: the share of each module's sum of squares to hold, more than 0 and at most 1, with
            the smallest rank that does.
        form: `peft` (what diffusers reads; the default), `kohya` or `comfy`.
        dtype: of the factors: `bf16`, `f16`, `f32`; of adapters also `same`, the default.
    """

    rank: float | Mapping[str, Any] | None
    energy: float | Mapping[str, Any] | None
    form: FormName
    dtype: str


class Combined(Asked, total=False):
    """What is asked of adapters.

    Attributes:
        base: a model of their architecture; FLUX.1's if left out.
        method: how adapters are merged: `cat` (the default); number by number as peft does:
            `linear`, `ties`, `dare_linear`, `dare_ties`, `magnitude_prune`; or `knots`.
        density: the share of numbers that those but `linear` leave, 0.5 by default.
        seed: chooses the random numbers of `dare_linear` and `dare_ties`.
    """

    base: str | os.PathLike[str] | None
    method: Method
    density: float
    seed: int


def split(asked: Asked | Combined) -> tuple[dict[str, Any], RunOptions]:
    """Return what is asked for, None left out, and how to run; unknown names are a TypeError."""
    given: dict[str, Any] = {**asked}
    own = {name: given.pop(name) for name in _OWN if name in given}
    options = RunOptions.of(given).with_(stats=False)
    return {name: value for name, value in own.items() if value is not None}, options
