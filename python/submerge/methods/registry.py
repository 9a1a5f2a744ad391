"""Every method a recipe can name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.methods.adaptive import AddCosineA, AddCosineB, ArceeFusion, Sce
from submerge.methods.chance import DareLinear, DareTies, Della, DellaLinear
from submerge.methods.combine import NormLerp, NormLimit, NuSlerp, Orthogonal, Polar, Slerp
from submerge.methods.delta import Breadcrumbs, BreadcrumbsTies, TaskArithmetic, Ties
from submerge.methods.knots import Knots
from submerge.methods.matrix import IsoC, TruncatedSvd, TsvM
from submerge.methods.means import GeometricMedian, Karcher, ModelStock, MultiSlerp
from submerge.methods.pointwise import (
    AddOpposite,
    AddStrictOpposite,
    Clamp,
    ConsensusMask,
    NearSwap,
    Ram,
    RamplusTl,
    SmoothAdd,
    TrainDifference,
)
from submerge.methods.rotate import Rotate
from submerge.methods.weighted import AddDifference, Lerp, Linear

if TYPE_CHECKING:
    from submerge.methods.base import Method

__all__ = ["METHODS"]

_KINDS: tuple[type[Method], ...] = (
    Linear,
    Lerp,
    AddDifference,
    Slerp,
    NuSlerp,
    MultiSlerp,
    NormLerp,
    Polar,
    Karcher,
    GeometricMedian,
    ModelStock,
    Orthogonal,
    TaskArithmetic,
    NormLimit,
    Ties,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Breadcrumbs,
    BreadcrumbsTies,
    Sce,
    ArceeFusion,
    NearSwap,
    Ram,
    RamplusTl,
    TrainDifference,
    AddOpposite,
    AddStrictOpposite,
    SmoothAdd,
    Clamp,
    AddCosineA,
    AddCosineB,
    ConsensusMask,
    TruncatedSvd,
    IsoC,
    TsvM,
    Knots,
    Rotate,
)

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}
