"""What stands in a diffusers pipeline folder: the components its index names, and their files.

Everything found is told: a folder that cannot be listed, a link that leads nowhere, a component
without weights or without one of its shards is an error, never a component less. Links are
followed, as hub caches are made of them. Only listings and small JSON files are read here.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint.files import (
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    mode_of,
    read_object,
)
from submerge.checkpoint.names import is_litter
from submerge.errors import CheckpointError, listing, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INDEX", "Component", "Pipeline"]

INDEX = "model_index.json"
_WEIGHTS = (
    ".safetensors",
    ".sft",
    ".gguf",
    ".bin",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".pt",
    ".pth",
)
_INDEX_OF_SHARDS = re.compile(r"\.index(\.[^.]+)?\.json\Z")
# `model.fp16.safetensors`, a shard of it, and the index of its shards.
_VARIANT = re.compile(
    r"(?P<stem>[^.]+?)(?P<early>-[0-9]{5}-of-[0-9]{5})?\.(?P<file>[^.]+?)"
    r"(?P<part>-[0-9]{5}-of-[0-9]{5})?\.safetensors"
    r"|(?P<whole>[^.]+\.safetensors\.index)\.(?P<index>[^.]+)\.json"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What these classes are made of is text alone; every other component is a network.
_WITHOUT_WEIGHTS = re.compile(r"Scheduler|Tokenizer|Processor|Extractor")


class Component(NamedTuple):
    """One component of a pipeline.

    Attributes:
        name: its name in the index, which is that of its folder.
        folder: the folder.
        files: every file in it, by the path inside the folder, in order; links are followed.
        litter: what systems and tools leave behind, by name; a folder ends with a slash.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    litter: tuple[str, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The files that hold numbers, in any format."""
        return tuple(file for file in self.files if is_weights(file))

    def check_shards(self, index: str) -> None:
        """Refuse one of the files, an index, if a shard it lists is not among them.

        Raises:
            CheckpointError: a shard less, or a damaged index.
        """
        path = self.folder / index
        weight_map = read_object(path, MAX_INDEX_BYTES).get("weight_map")
        listed = weight_map.values() if isinstance(weight_map, dict) else ()
        shards = {(Path(index).parent / str(shard)).as_posix() for shard in listed}
        if missing := sorted(shards.difference(self.files)):
            raise CheckpointError(
                f"{path}: {listing(missing, noun='shard')} of {len(shards)} missing",
                hint="the download is incomplete; fetch the missing files, or delete the index",
            )


class Pipeline(NamedTuple):
    """A pipeline folder and what its index says.

    Attributes:
        folder: the folder.
        listed: the contents of the index.
    """

    folder: Path
    listed: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Pipeline:
        """Read the index of a pipeline folder.

        Raises:
            CheckpointError: the index is damaged.
            OSError: it cannot be read.
        """
        return cls(folder, read_object(folder / INDEX, MAX_CONFIG_BYTES))

    @property
    def names(self) -> tuple[str, ...]:
        """The components the index names; one given as `[null, null]` is none.

        Raises:
            CheckpointError: a name that could lead out of the folder.
        """
        names = []
        for name, value in self.listed.items():
            is_component = isinstance(value, list) and len(value) == 2 and None not in value
            if name.startswith("_") or not is_component:
                continue
            if not _NAME.fullmatch(name):
                raise CheckpointError(
                    f"{self.folder / INDEX}: the component {quoted(name)} is no plain name",
                    hint="do not use pipelines from untrusted sources",
                )
            names.append(name)
        return tuple(names)

    def component(self, name: str) -> Component:
        """Return a component and the files it has.

        Raises:
            CheckpointError: no folder, no files, or no weights though its class has them.
            OSError: a folder or file in it that cannot be reached.
        """
        folder = self.folder / name
        if not folder.exists() and not folder.is_symlink():
            raise CheckpointError(
                f"{folder}: is missing, expected the folder of a component that `{INDEX}` names",
                hint="download the whole pipeline",
            )
        found = list(_walk(folder, ()))
        files = tuple(path.relative_to(folder).as_posix() for path, is_left in found if not is_left)
        litter = tuple(
            path.relative_to(folder).as_posix() + "/" * path.is_dir()
            for path, is_left in found
            if is_left
        )
        component = Component(name, folder, files, litter)
        kind = str(self.listed[name][1])
        _check_whole(component, kind)
        return component

    @property
    def beside(self) -> tuple[str, ...]:
        """What lies in the folder and is neither index nor component; a folder ends in a slash.

        Raises:
            OSError: the folder cannot be listed.
        """
        own = {INDEX, *self.names}
        return tuple(
            entry.name + "/" * entry.is_dir()
            for entry in sorted(self.folder.iterdir())
            if entry.name not in own and not is_litter(entry.name)
        )


def is_weights(name: str) -> bool:
    """Tell whether a file holds numbers, by its name."""
    return name.lower().endswith(_WEIGHTS)


def is_index(name: str) -> bool:
    """Tell whether a file lists the shards of a model, by its name."""
    return _INDEX_OF_SHARDS.search(name) is not None


def variant_of(name: str) -> tuple[str, str] | None:
    """Return which variant a file of weights is, and its name without that; None for a plain one.

    `model.fp16-00001-of-00002.safetensors` is `fp16`, and `model-00001-of-00002.safetensors`
    without: the name that the libraries look for unless they are asked for the variant.
    """
    match = _VARIANT.fullmatch(name)
    if match is None:
        return None
    if match["index"] is not None:
        return match["index"], f"{match['whole']}.json"
    return match["file"], f"{match['stem']}{match['early'] or match['part'] or ''}.safetensors"


def _walk(folder: Path, above: tuple[os.stat_result, ...]) -> Iterator[tuple[Path, bool]]:
    """Yield every file below a folder, in order, and whether it is litter.

    A folder of litter counts as one. `os.walk` leaves out in silence what cannot be listed.
    """
    here = folder.stat()
    if any(os.path.samestat(here, other) for other in above):
        raise CheckpointError(
            f"{folder}: is a link into a folder that it lies in, expected files",
            hint="remove the link",
        )
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            yield path, True
            continue
        mode = mode_of(path)
        if stat.S_ISDIR(mode):
            yield from _walk(path, (*above, here))
        elif stat.S_ISREG(mode):
            yield path, False
        else:
            raise CheckpointError(f"{path}: is not a regular file, expected a component's file")


def _check_whole(component: Component, kind: str) -> None:
    if not component.files:
        raise CheckpointError(
            f"{component.folder}: holds no files, expected those of {quoted(kind)}",
            hint="the download is incomplete; fetch the component again",
        )
    is_network = _WITHOUT_WEIGHTS.search(kind) is None
    config = "config.json" if is_network else "scheduler_config.json"
    lacks = [
        *(["weights"] if is_network and not component.weights else []),
        *([quoted(config)] if config not in component.files and _has_config(kind) else []),
    ]
    if lacks:
        raise CheckpointError(
            f"{component.folder}: holds no {' and no '.join(lacks)}, expected those of "
            f"{quoted(kind)}, got {listing(component.files, noun='file')}",
            hint="the download is incomplete; fetch the component again",
        )


def _has_config(kind: str) -> bool:
    """Tell whether a component is loaded by a config of a known name; tokenizers have many."""
    return "Scheduler" in kind or _WITHOUT_WEIGHTS.search(kind) is None
