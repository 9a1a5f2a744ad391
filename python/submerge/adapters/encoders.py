"""Parts of an adapter for the text encoders of a pipeline.

Their modules are named after the tensors that the encoder's own files hold, in any of the formats:
`lora_te1_text_model_encoder_layers_0_mlp_fc1`, `text_encoder.text_model.encoder.layers.0.mlp.fc1`.
Files of CLIP say `text_model.` before their names or, since transformers 5, leave it out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from submerge.adapters.adapter import expect_magnitudes, modules_of
from submerge.adapters.config import from_metadata
from submerge.adapters.keys import ELSEWHERE, ENCODERS, Naming
from submerge.adapters.places import Target
from submerge.adapters.resolve import resolved_on
from submerge.errors import AdapterError, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.adapters.adapter import Adapter
    from submerge.adapters.resolve import Compat, Resolved

__all__ = ["Part", "part_for"]

_OPTIONAL = "text_model."


class Part(NamedTuple):
    """What an adapter does to a text encoder.

    Attributes:
        title: which one, as `Adapter.elsewhere` has it.
        adapter: its modules for it.
        resolved: what it does to which tensor; a unit is `text_encoder.` and the tensor's name.
    """

    title: str
    adapter: Adapter
    resolved: Resolved


def part_for(
    adapter: Adapter, title: str, shapes: Mapping[str, tuple[int, ...]], compat: Compat | None
) -> Part:
    """Return the part of an adapter for a text encoder.

    Args:
        adapter: the opened file.
        title: a key of `adapter.elsewhere` that is one of `ENCODERS`.
        shapes: those of the encoder's tensors, by their names in its files.
        compat: as for `resolve`.

    Raises:
        AdapterError: as `open_adapter` and `resolve`, of these modules.
        CheckpointError, OSError: the file is no longer the one that was opened.
    """
    component = ENCODERS[title]
    modules, unknown = modules_of(adapter.checkpoint, adapter.elsewhere[title])
    file = adapter.checkpoint.files[0]
    config = from_metadata(file.metadata, file.path, component)
    if config is None and from_metadata(file.metadata, file.path) is None:
        config = adapter.config  # peft's own, which lies beside the file
    expect_magnitudes(modules, config)
    part = replace(adapter, modules=modules, elsewhere={}, unknown=unknown, config=config)
    units = {f"{component}.{name}": shape for name, shape in shapes.items()}
    found, unmatched = _targets(part, component, shapes)
    return Part(title, part, resolved_on(units, part, found, unmatched, compat))


def _targets(
    part: Adapter, component: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Target], dict[str, str]]:
    """Return which modules of an encoder are named; beside them the keys that name none, and why.

    Raises:
        AdapterError: one module under two names.
    """
    names: dict[str, str] = {}
    for tensor, shape in shapes.items():
        own = tensor.removesuffix(".weight")
        if own != tensor and shape:
            bare = own.removeprefix(_OPTIONAL)
            names |= {bare: own, bare.replace(".", "_"): own}
    unmatched = dict.fromkeys(part.unknown, "nothing an adapter holds")
    found: dict[str, Target] = {}
    for module in part.modules:
        prefix = next(prefix for prefix in ELSEWHERE if module.stem.startswith(prefix))
        separator = prefix[-1]
        rest = module.stem[len(prefix) :].removeprefix(_OPTIONAL.replace(".", separator))
        name = names.get(rest)
        if name is None:
            unmatched |= dict.fromkeys(module.keys, f"no module of {component}")
            continue
        naming = Naming(component, prefix, separator, ())
        target = Target(module, naming, component, name, (f"{component}.{name}",), 1.0)
        other = found.setdefault(name, target)
        if other is not target:
            raise AdapterError(
                f"{part.path}: {quoted(other.module.stem)} and {quoted(module.stem)} are one "
                f"module of {component}, expected it once",
                hint="save each adapter to a file of its own",
            )
    return list(found.values()), unmatched
