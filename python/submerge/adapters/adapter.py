"""Open an adapter: find its file, take its keys apart, read the alphas; no factor is read.

What a module's tensors are to each other is checked here; which units of a model they change, and
whether the shapes fit it, is the business of `resolve`.
"""

from __future__ import annotations

import math
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.adapters.config import PeftConfig, from_metadata, parsed, software
from submerge.adapters.keys import ELSEWHERE, REFUSED, split
from submerge.checkpoint import FLOATS, open_checkpoint
from submerge.checkpoint import files as _files
from submerge.checkpoint.names import is_safetensors
from submerge.checkpoint.reading import Reading
from submerge.errors import AdapterError, counted, listing, quoted
from submerge.files import expanded, path_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from submerge.checkpoint import Checkpoint, TensorInfo

__all__ = [
    "Adapter",
    "Module",
    "expect_magnitudes",
    "is_adapter",
    "modules_of",
    "open_adapter",
]

_CONFIG = "adapter_config.json"
# What tools call an adapter's file in a folder of its own.
_USUAL = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_NUMBERS = {
    "F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b",
    "U64": "<Q", "U32": "<I", "U16": "<H", "U8": "<B",
}  # fmt: skip
# The tensors a kind needs: every one of a set; LoKr's factors are whole or products themselves.
_WHOLE: Mapping[str, tuple[tuple[frozenset[str], ...], ...]] = {
    "lora": ((frozenset({"up", "down"}),),),
    "glora": ((frozenset({"weight_up", "weight_down", "up", "down"}),),),
    "loha": ((frozenset({"left_up", "left_down"}),), (frozenset({"right_up", "right_down"}),)),
    "lokr": (
        (frozenset({"left"}), frozenset({"left_up", "left_down"})),
        (frozenset({"right"}), frozenset({"right_up", "right_down"})),
    ),
}
# Whose rows are the rank; LyCORIS and diffusers take LoKr's second factor first.
_RANKED = {
    "lora": ("down",),
    "glora": ("down",),
    "loha": ("left_down",),
    "lokr": ("right_down", "left_down"),
}
_WORDS = {"lora": "LoRA", "glora": "GLoRA", "loha": "LoHa", "lokr": "LoKr"}
_OTHERS = tuple(ELSEWHERE)
_ALONE = frozenset({"diff", "diff_bias", "set", "weight", "bias"})
_COMMENTS = ("software", "trainer")


class Module(NamedTuple):
    """What a file holds for one module.

    Attributes:
        stem: what its keys have in common: a prefix and the module's name.
        kind: `lora`, `loha`, `lokr`, `glora`, or `full` for differences and whole tensors alone.
        tensors: by role.
        alpha: as the file has it, None where it has none.
    """

    stem: str
    kind: str
    tensors: Mapping[str, TensorInfo]
    alpha: float | None

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its tensors."""
        return tuple(tensor.name for tensor in self.tensors.values())

    @property
    def rank(self) -> int | None:
        """The rank its alpha is divided by; None where nothing is a product."""
        found = (self.tensors.get(role) for role in _RANKED.get(self.kind, ()))
        return next((tensor.shape[0] for tensor in found if tensor is not None), None)

    @property
    def words(self) -> str:
        """The kind for people: `LoRA`, `DoRA (LoHa)`, `difference`."""
        name = _WORDS.get(self.kind, "difference")
        if not {"magnitude", "magnitude_peft"} & set(self.tensors):
            return name
        return "DoRA" if self.kind == "lora" else f"DoRA ({name})"


@dataclass(frozen=True)
class Adapter:
    """An opened adapter.

    Attributes:
        path: what the user named.
        checkpoint: its file.
        modules: what it holds, in file order.
        elsewhere: keys for other models of a pipeline, by which one.
        unknown: keys that are nothing an adapter holds.
        config: peft's configuration, where there is one.
    """

    path: Path
    checkpoint: Checkpoint
    modules: tuple[Module, ...]
    elsewhere: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    config: PeftConfig | None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header's text."""
        return self.checkpoint.files[0].metadata

    @property
    def trainer(self) -> str | None:
        """What wrote it, where its metadata says so."""
        found = self.metadata
        if "submerge.version" in found:
            return "submerge"
        if "ss_network_module" in found:
            return f"sd-scripts ({found['ss_network_module']})"
        for key in _COMMENTS:
            if found.get(key):
                return software(found[key])
        return None if self.config is None else "peft"

    @property
    def base(self) -> str | None:
        """The model it was trained on, where that is said."""
        said = self.metadata
        own = "" if self.config is None else self.config.base
        return own or said.get("ss_sd_model_name") or said.get("ss_base_model_version") or None


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Open an adapter: a `.safetensors` file, or a folder that peft or diffusers saved.

    Raises:
        AdapterError: no adapter, a tensor without its partner, alphas that are no finite numbers,
            or a kind that is not read.
        CheckpointError: the file is damaged or not safetensors.
        OSError: a file that cannot be found or read.
    """
    given = path_of(path, "adapter")
    file, beside = _found(expanded(given))
    checkpoint = open_checkpoint(file)
    elsewhere: dict[str, list[str]] = {}
    own: list[str] = []
    for key in checkpoint.tensors:
        if key.startswith(_OTHERS):
            other = next(what for prefix, what in ELSEWHERE.items() if key.startswith(prefix))
            elsewhere.setdefault(other, []).append(key)
        else:
            own.append(key)
    modules, unknown = modules_of(checkpoint, own)
    config = from_metadata(checkpoint.files[0].metadata, file) or beside
    _expect_adapter(modules, elsewhere, checkpoint)
    expect_magnitudes(modules, config)
    return Adapter(
        path=given,
        checkpoint=checkpoint,
        modules=modules,
        elsewhere={what: tuple(keys) for what, keys in elsewhere.items()},
        unknown=unknown,
        config=config,
    )


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file has an adapter's keys, or one in a folder that tools name as adapters.

    Raises:
        CheckpointError: the file is damaged or not safetensors.
        OSError: a file that cannot be found or read.
    """
    file = expanded(path_of(path, "adapter"))
    if stat.S_ISDIR(_files.mode_of(file)):
        usual = [file / name for name in _USUAL if (file / name).is_file()]
        if len(usual) != 1:
            return False
        (file,) = usual
    if not is_safetensors(file.name):
        return False
    parts = map(split, open_checkpoint(file).tensors)
    return any(found is not None and found.role not in ("weight", "bias") for found in parts)


def modules_of(
    checkpoint: Checkpoint, keys: Iterable[str]
) -> tuple[tuple[Module, ...], tuple[str, ...]]:
    """Return what keys of an adapter's file make up, and those that nothing an adapter holds has.

    Raises:
        AdapterError: as `open_adapter`.
        CheckpointError, OSError: the file is no longer the one that was opened.
    """
    file = checkpoint.path
    groups: dict[str, dict[tuple[str, str], TensorInfo]] = {}
    unknown: list[str] = []
    for key in keys:
        parts = split(key)
        if parts is None:
            unknown.append(key)
        elif parts.role in REFUSED:
            raise AdapterError(
                f"{file}: {quoted(key)}: {REFUSED[parts.role]}",
                hint="fuse it into its model with the program that made it",
            )
        else:
            _add(groups.setdefault(parts.stem, {}), parts[1:], checkpoint.tensors[key], file)
    with Reading(checkpoint) as reading:
        modules = [_module(stem, found, reading, file) for stem, found in groups.items()]
    return tuple(modules), tuple(unknown)


def _found(path: Path) -> tuple[Path, PeftConfig | None]:
    """Return an adapter's file, and peft's configuration where it lies beside it.

    Raises:
        AdapterError: a folder without an adapter, or with several.
    """
    if not stat.S_ISDIR(_files.mode_of(path)):
        return path, _beside(path)
    names = sorted(entry.name for entry in path.iterdir() if is_safetensors(entry.name))
    usual = [name for name in _USUAL if name in names]
    if len(usual) != 1 and len(names) != 1:
        raise AdapterError(
            f"{path}: expected one adapter, `adapter_model.safetensors` or "
            f"`pytorch_lora_weights.safetensors`, got {listing(names, noun='file')}",
            hint="name the file itself" if names else "a `.bin` file must be saved as safetensors",
        )
    file = path / (usual[0] if len(usual) == 1 else names[0])
    return file, _beside(file)


def _beside(file: Path) -> PeftConfig | None:
    """Return the configuration that peft writes beside a file of this name."""
    path = file.with_name(_CONFIG)
    if file.name not in _USUAL or not path.is_file():
        return None
    return parsed(_files.read_object(path, _files.MAX_CONFIG_BYTES), str(path))


def _add(
    group: dict[tuple[str, str], TensorInfo], part: tuple[str, str], tensor: TensorInfo, file: Path
) -> None:
    if part in group:
        raise AdapterError(
            f"{file}: {quoted(group[part].name)} and {quoted(tensor.name)} are the same part of "
            "one module, expected one adapter in a file",
            hint="save each adapter to a file of its own",
        )
    group[part] = tensor


def _module(
    stem: str, found: Mapping[tuple[str, str], TensorInfo], reading: Reading, file: Path
) -> Module:
    """Return a module, its tensors checked against each other."""
    kinds = sorted({kind for kind, _ in found if kind})
    if len(kinds) > 1:
        words = " and ".join(_WORDS[kind] for kind in kinds)
        raise AdapterError(
            f"{file}: {quoted(stem)}: {words} at one module, expected one kind",
            hint="save each adapter to a file of its own",
        )
    tensors = {role: tensor for (_, role), tensor in found.items()}
    kind = kinds[0] if kinds else "full"
    _expect_partners(stem, kind, tensors, file)
    alpha = None
    if "alpha" in tensors:
        alpha = _scalar(tensors["alpha"], reading, file)
    made = Module(stem, kind, tensors, alpha)
    _expect_matrices(made, file)
    return made


def _expect_partners(stem: str, kind: str, tensors: Mapping[str, TensorInfo], file: Path) -> None:
    """Refuse a tensor without those that it means something with."""
    roles = frozenset(tensors)
    lacking: list[str] = []
    for choices in _WHOLE.get(kind, ()):
        if not any(choice <= roles for choice in choices):
            best = max(choices, key=lambda choice: len(choice & roles))
            lacking += sorted(best - roles)
        elif sum(bool(choice & roles) for choice in choices) > 1:
            raise AdapterError(
                f"{file}: {quoted(stem)}: a factor is there whole and as a product, expected one",
                hint="the file holds two adapters in one; save each to a file of its own",
            )
    if kind == "full" and not roles & _ALONE:
        lacking = ["up", "down"]
    if lacking:
        here = listing([tensor.name for tensor in tensors.values()])
        missing = " and ".join(map(quoted, lacking))
        raise AdapterError(
            f"{file}: {quoted(stem)}: {missing} missing beside {here}",
            hint="the file is incomplete; download it again",
        )


def _expect_matrices(module: Module, file: Path) -> None:
    """Refuse factors that cannot be multiplied, and tensors that hold no floats."""
    for role, tensor in module.tensors.items():
        if role != "alpha" and tensor.dtype not in FLOATS:
            raise AdapterError(
                f"{file}: {quoted(tensor.name)}: dtype {tensor.dtype}, expected floats",
                hint="save the adapter in bf16, f16 or f32",
            )
        factor = role in ("up", "down", "left", "right") or role.endswith(("_up", "_down"))
        if factor and (len(tensor.shape) != 2 or not tensor.elements):
            raise AdapterError(
                f"{file}: {quoted(tensor.name)}: shape {list(tensor.shape)}, expected a matrix of "
                "a linear layer",
                hint="factors of convolutions are not read; FLUX.1 has none"
                if len(tensor.shape) > 2
                else "the file is damaged",
            )
    for side in ("", "weight_", "left_", "right_"):
        up, down = module.tensors.get(f"{side}up"), module.tensors.get(f"{side}down")
        if up is not None and down is not None and up.shape[1] != down.shape[0]:
            raise AdapterError(
                f"{file}: {quoted(module.stem)}: rank {up.shape[1]} of {quoted(up.name)} and "
                f"{down.shape[0]} of {quoted(down.name)}, expected the same",
                hint="the file is damaged, or two adapters in one",
            )


def _scalar(tensor: TensorInfo, reading: Reading, file: Path) -> float:
    """Return the one number a tensor holds, exactly."""
    here = f"{file}: {quoted(tensor.name)}"
    if tensor.elements != 1 or tensor.dtype not in (*_NUMBERS, "BF16"):
        shape = list(tensor.shape)
        raise AdapterError(
            f"{here}: {tensor.dtype} {shape}, expected one number",
            hint="the file is damaged, or no adapter",
        )
    data = reading.sample(tensor, 0, tensor.nbytes)
    if tensor.dtype == "BF16":
        value = struct.unpack("<f", b"\0\0" + data)[0]
    else:
        value = struct.unpack(_NUMBERS[tensor.dtype], data)[0]
    if not math.isfinite(value):
        raise AdapterError(
            f"{here}: alpha is {value}, expected a finite number",
            hint="training diverged, or the file is damaged",
        )
    return float(value)


def _expect_adapter(
    modules: Sequence[Module], elsewhere: Mapping[str, Any], checkpoint: Checkpoint
) -> None:
    """Refuse a file that adds nothing to any model: a model itself, mostly."""
    roles = {role for module in modules for role in module.tensors}
    if elsewhere or roles - {"weight", "bias"}:
        return
    # Norms alone can be all that was trained; a model has matrices.
    if modules and all(len(t.shape) == 1 for m in modules for t in m.tensors.values()):
        return
    raise AdapterError(
        f"{checkpoint.path}: holds no adapter, expected LoRA, DoRA, LoHa, LoKr or differences, got "
        f"{listing(checkpoint.tensors)}",
        hint="a model is named under `models:`, or as an argument of `submerge merge`",
    )


def expect_magnitudes(modules: Iterable[Module], config: PeftConfig | None) -> None:
    """Refuse a DoRA by its configuration that has lost its magnitudes."""
    if config is None or not config.magnitudes:
        return
    bare = [m.stem for m in modules if m.kind == "lora" and "magnitude_peft" not in m.tensors]
    if bare:
        raise AdapterError(
            f"{config.where}: `use_dora` is true, expected `lora_magnitude_vector` in "
            f"{listing(bare, noun='module')}",
            hint=f"{counted(len(bare), 'module')} would be another adapter without it",
        )
