"""Every method a recipe can name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.methods.chance import DareLinear, DareTies, Della, DellaLinear
from submerge.methods.combine import (
    GeometricMedian,
    Karcher,
    ModelStock,
    MultiSlerp,
    NormLerp,
    NuSlerp,
    Orthogonal,
    Slerp,
)
from submerge.methods.delta import Breadcrumbs, BreadcrumbsTies, TaskArithmetic, Ties
from submerge.methods.pointwise import Clamp, ConsensusMask, NearSwap, Ram, TrainDifference
from submerge.methods.weighted import AddDifference, Linear

if TYPE_CHECKING:
    from submerge.methods.base import Method

__all__ = ["METHODS"]

_KINDS: tuple[type[Method], ...] = (
    Linear,
    AddDifference,
    Slerp,
    NuSlerp,
    MultiSlerp,
    NormLerp,
    Karcher,
    GeometricMedian,
    ModelStock,
    Orthogonal,
    TaskArithmetic,
    Ties,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Breadcrumbs,
    BreadcrumbsTies,
    NearSwap,
    Ram,
    TrainDifference,
    Clamp,
    ConsensusMask,
)

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}
