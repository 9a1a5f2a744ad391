"""Open a model: find its files, read their headers, refuse what is damaged or of another format.

A `Checkpoint` is headers only; no tensor byte is read here. It comes from one file, from a folder
with an index and shards, or from a diffusers pipeline folder, whose `transformer/` is then opened.
What the tensors mean is the business of `submerge.layout`; which files there are, of `files`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.checkpoint import files as _files
from submerge.checkpoint.codecs import CODECS, NUMBERS, Spec
from submerge.checkpoint.dtypes import DTYPES, FLOATS
from submerge.checkpoint.names import nameable
from submerge.errors import CheckpointError, listing, quoted
from submerge.files import path_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from submerge.checkpoint.names import FileFormat

__all__ = [
    "DTYPES",
    "FLOATS",
    "MAX_HEADER_BYTES",
    "NUMBERS",
    "Checkpoint",
    "FileInfo",
    "Packed",
    "TensorInfo",
    "open_checkpoint",
    "open_files",
    "read_header",
]

# The limit of the safetensors format itself.
MAX_HEADER_BYTES = 100_000_000


class TensorInfo(NamedTuple):
    """One tensor of a file, as the numbers that it stands for.

    Attributes:
        name: of its bytes in the file, those of its codes if it is packed.
        dtype: as the header spells it; of a packed tensor the name of its number format.
        shape: of the numbers.
        file: index into `Checkpoint.files`.
        start, end: byte offsets inside the file's data section.
        packed: how it stands in the file, where dtype and shape there are not those of numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    start: int
    end: int
    packed: Packed | None = None

    @property
    def rows(self) -> int:
        """Rows along the first dimension; a tensor without dimensions is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_elements(self) -> int:
        """Elements of one row: 1 for tensors of one dimension or none."""
        return math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without those of tensors beside it."""
        return self.end - self.start

    @property
    def sides(self) -> tuple[TensorInfo, ...]:
        """The tensors beside it, which its number format needs."""
        return self.packed.sides if self.packed else ()

    def stored(self, rows: int) -> int:
        """Return the bytes of so many of its rows in the file, with those of what is beside."""
        nbytes = self.nbytes + sum(side.nbytes for side in self.sides)
        return nbytes * rows // max(1, self.rows)


class Packed(NamedTuple):
    """How numbers stand in a file as codes.

    Attributes:
        spec: what the plan calls the number format.
        dtype: of the codes, as the header spells it.
        shape: of the codes.
        sides: the tensors beside them as they are in the file, in the order the core wants.
    """

    spec: Spec
    dtype: str
    shape: tuple[int, ...]
    sides: tuple[TensorInfo, ...] = ()


class FileInfo(NamedTuple):
    """One file as it was when its header was read.

    Attributes:
        path: absolute.
        size: bytes.
        identity: what tells this version of the file from another, as the core took it.
        metadata: the header's text map.
        data_start: where the data section begins, bytes from the beginning of the file.
        container: what stands around its tensors.
    """

    path: Path
    size: int
    identity: dict[str, int]
    metadata: dict[str, str]
    data_start: int = 8
    container: FileFormat = "safetensors"


class Checkpoint(NamedTuple):
    """The opened headers of one model.

    Attributes:
        path: what the user named.
        form: one file, a folder or index of shards, or a diffusers pipeline folder.
        files: the files of tensors, absolute paths; `TensorInfo.file` counts in them.
        tensors: every tensor by name, in file order and, within a file, in data order.
        config: the contents of the config.json beside the weights, or None.
        pipeline: the folder holding the model_index.json the weights belong to, or None.
        warnings: things worth telling that do not stop a merge, as sentences.
        beside: tensors that are no numbers of their own, by what they are: scales, markers. They
            are not among `tensors`.
    """

    path: Path
    form: Literal["file", "sharded", "pipeline"]
    files: tuple[FileInfo, ...]
    tensors: Mapping[str, TensorInfo]
    config: dict[str, Any] | None
    pipeline: Path | None
    warnings: tuple[str, ...] = ()
    beside: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def open_checkpoint(
    path: str | os.PathLike[str], *, max_header_bytes: int = MAX_HEADER_BYTES
) -> Checkpoint:
    """Open a .safetensors or .gguf file, an index or folder of shards, or a pipeline folder.

    Raises:
        CheckpointError: of another format, damaged, incomplete, or several candidates.
        OSError: a file that cannot be found or read.
    """
    source = path_of(path, "model")
    found = _files.find(source)
    files, tensors = _read(found, max_header_bytes)
    warnings: tuple[str, ...] = ()
    if found.index is not None:
        _check_index(found.index, files, tensors)
        warnings = _check_total(found.index, tensors)
    config = (
        None if found.config is None else _files.read_object(found.config, _files.MAX_CONFIG_BYTES)
    )
    if not tensors:
        raise CheckpointError(
            f"{found.path}: holds no tensors, expected a model",
            hint="the file may be a stand-in; download it again",
        )
    form: Literal["file", "sharded", "pipeline"] = "sharded" if found.index is not None else "file"
    return Checkpoint(
        path=source,
        form="pipeline" if found.is_pipeline else form,
        files=files,
        tensors=MappingProxyType(tensors),
        config=config,
        pipeline=found.pipeline,
        warnings=warnings,
    )


def open_files(folder: Path, files: Sequence[Path]) -> Checkpoint:
    """Open safetensors files of a folder that are known to make up one model.

    Raises:
        CheckpointError: one is damaged, or a tensor is in two.
        OSError: a file that cannot be found or read.
    """
    found = _files.Found(folder, tuple(files), None, None, None, is_pipeline=False)
    infos, tensors = _read(found, MAX_HEADER_BYTES)
    return Checkpoint(folder, "sharded", infos, MappingProxyType(tensors), None, None)


def _read(
    found: _files.Found, max_header_bytes: int
) -> tuple[tuple[FileInfo, ...], dict[str, TensorInfo]]:
    """Return the files as they are now, and all their tensors."""
    headers = [read_header(file, max_header_bytes) for file in found.files]
    files = tuple(
        FileInfo(
            Path(header["path"]),
            header["size"],
            header["identity"],
            header["metadata"],
            header["data_start"],
            header["container"],
        )
        for header in headers
    )
    return files, _gather(found, headers)


def read_header(path: Path, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, Any]:
    """Return the header of one file as the core reports it, checked against the file's size.

    Raises:
        CheckpointError: of another format, damaged, or cut off.
        OSError: a file that cannot be read.
    """
    from submerge import _core

    name = str(nameable(path))
    header: dict[str, Any] = json.loads(_core.read_header(name, max_header_bytes))
    return header


def _gather(found: _files.Found, headers: Sequence[dict[str, Any]]) -> dict[str, TensorInfo]:
    """Return the tensors of all files; a name may occur once."""
    tensors: dict[str, TensorInfo] = {}
    twice: dict[str, tuple[int, int]] = {}
    for file, header in enumerate(headers):
        for entry in header["tensors"]:
            name = entry["name"]
            if name in tensors:
                twice[name] = (tensors[name].file, file)
                continue
            tensors[name] = _described(found.files[file], file, entry)
    if twice:
        one, other = next(iter(twice.values()))
        raise CheckpointError(
            f"{found.path}: {listing(twice)} in two shards, {quoted(found.files[one].name)} "
            f"and {quoted(found.files[other].name)}, expected each tensor once",
            hint="the shards come from different saves; download the folder again",
        )
    return tensors


def _described(path: Path, file: int, entry: Mapping[str, Any]) -> TensorInfo:
    """Return a tensor as the numbers that it stands for, if the header itself says which.

    Raises:
        CheckpointError: blocks that no codec reads, or that do not lie in rows.
    """
    name, shape = entry["name"], tuple(entry["shape"])
    info = TensorInfo(name, entry["dtype"], shape, file, entry["start"], entry["end"])
    if (codec := entry.get("codec")) is None:
        return info
    if codec not in CODECS:
        raise CheckpointError(
            f"{path}: tensor {quoted(name)} is {codec}, expected a type that is read",
            hint="take a copy of the model in another one, such as Q8_0, Q4_K or BF16",
        )
    if len(shape) < 2:
        raise CheckpointError(
            f"{path}: tensor {quoted(name)} is {codec} of the shape {entry['logical']}, expected "
            "rows of whole blocks",
            hint="take a copy of the model in which vectors are F32, as most programs write them",
        )
    packed = Packed(CODECS[codec].spec, entry["dtype"], shape)
    return info._replace(dtype=codec, shape=tuple(entry["logical"]), packed=packed)


def _check_index(
    index: _files.Index, files: Sequence[FileInfo], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse an index that does not list exactly the tensors of its shards, each in its own."""
    lost = [
        name
        for name, shard in index.weight_map.items()
        if name not in tensors or files[tensors[name].file].path.name != shard
    ]
    if lost:
        shard = index.weight_map[lost[0]]
        raise CheckpointError(
            f"{index.path}: the index lists {listing(lost)}, not found in the shard named "
            f"(the first in {quoted(shard)})",
            hint="index and shards come from different saves; download the folder again",
        )
    unlisted = [name for name in tensors if name not in index.weight_map]
    if unlisted:
        shard = files[tensors[unlisted[0]].file].path.name
        raise CheckpointError(
            f"{index.path}: the shards hold {listing(unlisted)}, not listed in the index "
            f"(the first in {quoted(shard)})",
            hint="index and shards come from different saves; download the folder again",
        )


def _check_total(index: _files.Index, tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Warn when the size an index claims is wrong: published indexes are, so it is no error."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    if index.total_size is None or index.total_size == total:
        return ()
    return (
        (
            f"{index.path}: `total_size` is {index.total_size}, expected {total}; "
            "the tensors themselves agree"
        ),
    )
