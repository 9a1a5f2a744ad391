"""What a model is once its layout is known: an architecture, and where each unit lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.checkpoint import Checkpoint

__all__ = ["Architecture", "LayoutName", "Model", "OutTensor", "Place", "UnitInfo"]

LayoutName = Literal["diffusers", "bfl", "generic"]


class Place(NamedTuple):
    """Rows `start` to `end` (exclusive) of one tensor in a file."""

    tensor: str
    start: int
    end: int


class UnitInfo(NamedTuple):
    """The finest row range any layout uses, and where it lies in this model.

    A one-dimensional tensor of n elements is n rows of one element; a tensor without dimensions is
    one row of one element.
    """

    name: str
    place: Place
    rows: int
    row_elements: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """The signature models are compared by; what is not known of a family is left out.

    Attributes:
        family: `flux1`, or `generic` when nothing is known about the tensors.
        depths: the number of blocks of each stack of the family (19 double, 38 single in FLUX.1).
        hidden: width of the residual stream (3072).
        head_dim: width of one attention head (128).
        mlp: width inside the feed-forward layers (12288).
        in_channels: columns of the image projection (64; Canny and Depth 128, Fill 384).
        out_channels: rows of the final layer (64).
        context_dim: width of the T5 features (4096).
        pooled_dim: width of the pooled CLIP features (768).
        guidance: whether the guidance embedder exists.
        axes_dims_rope: how a head's width is split among the position axes; has no weights.
    """

    family: str
    depths: tuple[int, ...] = ()
    hidden: int = 0
    head_dim: int = 0
    mlp: int = 0
    in_channels: int = 0
    out_channels: int = 0
    context_dim: int = 0
    pooled_dim: int = 0
    guidance: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)


class Model(NamedTuple):
    """A checkpoint whose layout is known.

    Attributes:
        checkpoint: the opened headers.
        arch: the architecture.
        variant: which member of the family this looks like, in words.
        layout: the naming convention of the file.
        prefix: what stands before the transformer's names: "", `model.diffusion_model.`, ...
        units: every unit by canonical name; the order does not depend on the layout.
        extras: tensors outside the transformer (VAE, text encoders), in file order.
    """

    checkpoint: Checkpoint
    arch: Architecture
    variant: str
    layout: LayoutName
    prefix: str
    units: Mapping[str, UnitInfo]
    extras: tuple[str, ...]


class OutTensor(NamedTuple):
    """One tensor of a layout: the units stacked along dimension 0, in order."""

    name: str
    shape: tuple[int, ...]
    units: tuple[str, ...]
