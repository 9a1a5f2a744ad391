"""What the tensors of a checkpoint mean: layouts as tables, and which one a file has.

`identify` turns opened headers into a `Model`, `tensors_of` says what a layout looks like. Layouts
move no data: a unit is a contiguous row range in each of them, so conversion is addressing.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.quantised import numbers_of
from submerge.errors import LayoutError, nearest, quoted
from submerge.layout import detect, generic
from submerge.layout.detect import EXTRAS, PREFIXES
from submerge.layout.family import FAMILIES, Family, GuidanceNetwork
from submerge.layout.flux1 import FLUX1
from submerge.layout.model import Architecture, LayoutName, Model, OutTensor, Place, UnitInfo
from submerge.layout.saves import refuse_ungathered, unwrapped

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

__all__ = [
    "COMFY_PREFIX",
    "FAMILIES",
    "LAYOUTS",
    "Architecture",
    "Family",
    "GuidanceNetwork",
    "LayoutName",
    "Model",
    "OutTensor",
    "Place",
    "UnitInfo",
    "config_of",
    "depths_of",
    "family_of",
    "identify",
    "tensors_of",
    "unit_shapes",
]

FAMILIES[FLUX1.name] = FLUX1

# ComfyUI's all-in-one files are the BFL layout under this prefix.
COMFY_PREFIX = "model.diffusion_model."

# What `identify` takes; a layout may stand under any known prefix.
LAYOUTS = ("auto", "diffusers", "bfl", "comfy", "generic")


def identify(checkpoint: Checkpoint, *, layout: str = "auto", nvfp4: str = "auto") -> Model:
    """Recognise the model in a checkpoint.

    Quantised tensors are read as the numbers they stand for, under every layout; `nvfp4` says whose
    NVFP4 is meant where the file does not: `comfy` or `bfl`.

    `layout` narrows the search: `diffusers`, `bfl` or `comfy` (the same as `bfl`). `generic` takes
    every tensor as one unit under its own name, without knowing anything about the model.
    Wrappers in names are left out whatever the layout, and said in the checkpoint's `warnings`.

    Raises:
        LayoutError: quantised in a form that is not read, whatever the layout; or no transformer of
            a known family (the message names what it is), incomplete, with tensors or shapes the
            family does not have, or in contradiction to its config.
        CheckpointError: codes and scales that do not fit together.
    """
    if layout not in LAYOUTS:
        near = nearest(layout, LAYOUTS)
        raise LayoutError(
            f"{checkpoint.path}: layout: expected one of {', '.join(map(quoted, LAYOUTS))}, "
            f"got {quoted(layout)}",
            hint=f"did you mean {quoted(near[0])}?" if near else None,
        )
    if layout == "generic":
        seen = unwrapped(checkpoint, known=False)
        seen = numbers_of(seen, seen.tensors, nvfp4=nvfp4)
        refuse_ungathered(seen, seen.tensors)
        return generic.identify(seen, _named_as_in(checkpoint, seen))
    seen = unwrapped(checkpoint)
    # The other models of an all-in-one file are carried as they are, quantised or not.
    own = [name for name in seen.tensors if not name.startswith(EXTRAS)] or list(seen.tensors)
    seen = numbers_of(seen, own, PREFIXES, nvfp4)
    refuse_ungathered(seen, [name for name in own if name in seen.tensors])
    wanted = {"auto": (), "comfy": ("bfl",)}.get(layout, (layout,))
    try:
        model = detect.recognise(seen, wanted)
    except LayoutError as error:
        from submerge.layout import families

        # A file that is something else fails the table in many ways; its own name says more.
        known = families.explain(seen)
        if known is None:
            raise
        raise known from error
    warnings = model.checkpoint.warnings
    checkpoint = _named_as_in(checkpoint, seen)
    return model._replace(checkpoint=checkpoint._replace(warnings=warnings))


def _named_as_in(checkpoint: Checkpoint, seen: Checkpoint) -> Checkpoint:
    """Return what was seen under the names that the files have."""
    tensors = {info.name: info for info in seen.tensors.values()}
    return checkpoint._replace(tensors=MappingProxyType(tensors), beside=seen.beside)


def tensors_of(arch: Architecture, layout: str, prefix: str = "") -> list[OutTensor]:
    """Return the tensors of a layout in module order (the order of the model's state dict).

    `comfy` is `bfl` under ComfyUI's prefix unless another one is given.

    Raises:
        LayoutError: the architecture has no such layout.
    """
    if layout == "comfy":
        layout, prefix = "bfl", prefix or COMFY_PREFIX
    family = _family_with_tables(arch)
    if layout not in family.layouts:
        names = ", ".join(map(quoted, (*family.layouts, "comfy")))
        raise LayoutError(
            f"layout: expected one of {names}, got {quoted(layout)}",
            hint="`generic` models keep the names they have",
        )
    return family.tensors_of(arch, layout, prefix)


def unit_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every unit by canonical name, in execution order.

    Raises:
        LayoutError: a generic architecture, whose units only its model knows.
    """
    return _family_with_tables(arch).unit_shapes(arch)


def config_of(arch: Architecture) -> dict[str, Any]:
    """Return the contents of the config.json that diffusers loads this architecture from.

    Raises:
        LayoutError: a family of which no config is known, such as `generic`.
    """
    config = _family_with_tables(arch).config
    if config is None:
        raise LayoutError(f"layout: no config is known of the {quoted(arch.family)} family")
    return config(arch)


def depths_of(arch: Architecture) -> dict[str, int]:
    """Return the number of blocks of each stack by its name; nothing of `generic`."""
    family = family_of(arch)
    return {} if family is None else dict(zip(family.by_stack, arch.depths, strict=True))


def family_of(arch: Architecture) -> Family | None:
    """Return the family of an architecture; None of `generic`, of which nothing is known."""
    return FAMILIES.get(arch.family)


def _family_with_tables(arch: Architecture) -> Family:
    family = family_of(arch)
    if family is None:
        known = " or ".join(map(quoted, FAMILIES))
        raise LayoutError(
            f"layout: the {quoted(arch.family)} family has no layouts or config, expected {known}",
            hint="with `layout: generic` the output keeps the layout of the first model (`same`)",
        )
    return family
