"""How a file was saved, told by its names: wrappers around modules, and saves that went wrong.

Compilers, parallel trainers and checkpointing put a module of their own around others, and its
name into every name below. Those names mean nothing, so recognition looks at what is left without
them; the whole table of the layout must still match.
"""

from __future__ import annotations

import re
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING

from submerge.errors import LayoutError, counted, listing, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from submerge.checkpoint import Checkpoint

__all__ = ["COUNTER", "refuse_fused", "refuse_ungathered", "unwrapped"]

# torch.compile, DataParallel and DeepSpeed, FSDP, activation checkpointing, Lightning.
_WRAPPERS = frozenset(
    {
        "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
        "_forward_module",
    }
)  # fmt: skip
# A wrapper's name that others may have.
_ANY = "module"
_ADAPTED = "base_layer"
# What torch's AveragedModel counts beside its `module`; no network has it.
COUNTER = "n_averaged"
_DOUBLED = re.compile(
    r"\A(model\.diffusion_model\.|diffusion_model\.|base_model\.model\.|transformer\.|net\.)\1+"
)
_FUSED = re.compile(r"\.attn\.to_(?:added_)?qkv\.(?:weight|bias)\Z")


def unwrapped(checkpoint: Checkpoint, *, known: bool = True) -> Checkpoint:
    """Return a checkpoint whose names are free of wrappers; its tensors keep theirs.

    What was left out is said in `warnings`. A `base_layer` that no adapter is left beside is a
    wrapper too. Where the family is not `known`, a part of the model may be called `module`: it is
    a wrapper only if it begins all names; and a prefix may well come twice.

    Raises:
        LayoutError: two names become one.
    """
    gone = set(_WRAPPERS)
    if not _has_adapter(checkpoint.tensors):
        gone.add(_ADAPTED)
    if not known and not all(_outermost(n, gone) for n in checkpoint.tensors if n != COUNTER):
        gone.remove(_ANY)
    plain = {name: _plain(name, gone) for name in checkpoint.tensors}
    if known:
        plain = {name: _DOUBLED.sub(r"\1", short) for name, short in plain.items()}
    changed = [name for name, short in plain.items() if name != short]
    if not changed:
        return checkpoint
    tensors = {plain[name]: info for name, info in checkpoint.tensors.items()}
    if len(tensors) < len(plain):
        one = next(name for name, short in plain.items() if tensors[short].name != name)
        raise LayoutError(
            f"{checkpoint.path}: {quoted(one)} and {quoted(tensors[plain[one]].name)} become one "
            "name without what wraps them, expected each tensor once",
            hint="the file holds two copies of the model; save one of them alone",
        )
    words = sorted({word for n in changed for word in n.split(".") if word in gone})
    without = ", ".join(map(quoted, words)) if words else "their doubled prefix"
    note = f"{checkpoint.path}: {counted(len(changed), 'tensor name')} read without {without}"
    return checkpoint._replace(
        tensors=MappingProxyType(tensors), warnings=(*checkpoint.warnings, note)
    )


def refuse_ungathered(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Refuse a model whose weights were saved without being gathered first.

    Raises:
        LayoutError: any weight or bias has no elements, or several are one flat parameter.
    """
    names = list(names)
    flat = [name for name in names if name.endswith("_flat_param")]
    if flat:
        raise LayoutError(
            f"{checkpoint.path}: {listing(flat)} of several weights laid end to end, expected each "
            "for itself; FSDP saves so what was not gathered",
            hint="save it again with `StateDictType.FULL_STATE_DICT`",
        )
    empty = [
        name
        for name in names
        if name.endswith((".weight", ".bias", ".scale")) and not checkpoint.tensors[name].elements
    ]
    if empty:
        raise LayoutError(
            f"{checkpoint.path}: {len(empty):,} of {counted(len(names), 'tensor')} empty, expected "
            "elements in every one; DeepSpeed's ZeRO-3 saves so what was not gathered: "
            f"{listing(empty)}",
            hint="gather it: `zero_to_fp32.py` beside the checkpoint, or save with "
            "`stage3_gather_16bit_weights_on_model_save`",
        )


def refuse_fused(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Refuse diffusers' fused projections, beside which the separate ones may be stale.

    Raises:
        LayoutError: any is there.
    """
    fused = [name for name in names if _FUSED.search(name)]
    if fused:
        raise LayoutError(
            f"{checkpoint.path}: fused projections in {listing(fused)}, expected separate ones; "
            "where both are there, either may be out of date",
            hint="unfuse before saving: `transformer.unfuse_qkv_projections()` in diffusers",
        )


def _outermost(name: str, gone: set[str]) -> bool:
    """Tell whether `module` is among the wrappers that a name begins with, and nowhere else."""
    words = name.split(".")
    outer = list(takewhile(gone.__contains__, words))
    return _ANY in outer and _ANY not in words[len(outer) :]


def _plain(name: str, gone: set[str]) -> str:
    return ".".join(word for word in name.split(".") if word not in gone)


def _has_adapter(names: Iterable[str]) -> bool:
    """Tell whether something of an adapter lies beside a `base_layer`."""
    adapted = {stem for stem, found, _ in (n.partition(f".{_ADAPTED}.") for n in names) if found}
    for name in names if adapted else ():
        at = name.find(".")
        while at >= 0:
            if name[:at] in adapted and not name.startswith(f"{_ADAPTED}.", at + 1):
                return True
            at = name.find(".", at + 1)
    return False
