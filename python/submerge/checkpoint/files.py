"""Which files make up a model: one file, an index and its shards, or a pipeline's transformer.

Only names, folder listings and JSON side files are read here. Names in an index come from a
stranger: they must be plain file names in the same folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint.names import foreign, format_of, is_litter, is_safetensors, is_shard
from submerge.errors import CheckpointError, listing, nearest, quoted
from submerge.given.text import unique

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CONFIG_BYTES = 1 << 20
MAX_INDEX_BYTES = 16 << 20

# The longest file name the common file systems take, in bytes.
_NAME_BYTES = 255

_INDEX = re.compile(r"\.safetensors\.index(\.[^.]+)?\.json\Z", re.IGNORECASE)


class Index(NamedTuple):
    """A `*.safetensors.index.json`: the shard of each tensor, and the payload bytes it claims."""

    path: Path
    weight_map: dict[str, str]
    total_size: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model lives: its files of tensors and the side files that belong to them."""

    path: Path
    files: tuple[Path, ...]
    index: Index | None
    config: Path | None
    pipeline: Path | None
    is_pipeline: bool


def find(path: Path) -> Found:
    """Find the files of the model at `path`.

    Raises:
        CheckpointError: nothing usable there, or several candidates.
        OSError: a path that does not exist or cannot be read.
    """
    if "\0" in str(path):
        raise CheckpointError(f"{quoted(str(path))}: expected a path, got one with a NUL character")
    path = Path(os.path.abspath(path))  # noqa: PTH100 - symlinks of a hub cache keep their names
    if stat.S_ISDIR(mode_of(path)):
        return _in_folder(path)
    if path.name == "model_index.json":
        return _in_folder(path.parent)
    if _INDEX.search(path.name):
        return _sharded(path, _pipeline_of(path.parent))
    check_kind(path)
    # A config beside a file belongs to it only when the file bears the name diffusers gives it.
    diffusers = path.name.startswith("diffusion_pytorch_model")
    config = _config_of(path.parent) if diffusers else None
    pipeline = _pipeline_of(path.parent) if diffusers else None
    return Found(path, (path,), None, config, pipeline, is_pipeline=False)


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes in which no key occurs twice.

    Raises:
        CheckpointError: too large, not JSON, not an object, or a key twice.
        OSError: the file cannot be read.
    """
    if not stat.S_ISREG(mode_of(path)):
        raise CheckpointError(f"{path}: is not a regular file, expected JSON")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{path}: is too large, expected at most {limit} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as JSON, expected an object, got: {error}",
            hint="the file may be damaged or cut off; download it again",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {_json_kind(value)}")
    return value


def check_kind(path: Path) -> None:
    """Refuse what is not a regular file, and formats told by their name; the core tells the rest.

    Opening a pipe would wait for ever, so this comes before the header is read.
    """
    if not stat.S_ISREG(mode_of(path)):
        raise CheckpointError(f"{path}: is not a regular file, expected a file of tensors")
    if (found := foreign(path.name)) is not None:
        raise CheckpointError(f"{path}: is {found.kind}, expected .safetensors", hint=found.hint)


def mode_of(path: Path) -> int:
    """Return the mode of what `path` leads to; the OSError for a missing file carries a hint."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENOENT:
            error.add_note(f"hint: {_missing_hint(path)}")
        raise


def _missing_hint(path: Path) -> str:
    if path.is_symlink():
        return "the link leads to a file that does not exist; the download may be incomplete"
    try:
        near = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        near = []
    if near:
        return f"the folder holds {', '.join(map(quoted, near))}"
    return "name a .safetensors or .gguf file or a folder; models are not downloaded by name"


def _in_folder(folder: Path) -> Found:
    """Open a pipeline folder, a component folder, or a folder that has a `transformer/` only."""
    transformer = folder / "transformer"
    if _is_pipeline(folder):
        if not transformer.is_dir():
            read = read_object(folder / "model_index.json", MAX_CONFIG_BYTES)
            pipeline = read.get("_class_name", "a pipeline")
            raise CheckpointError(
                f"{folder}: {quoted(str(pipeline))} has no `transformer` folder, "
                "expected a FLUX.1 pipeline",
                hint="it may be another family of models, or the folder was only partly downloaded",
            )
        return _component(transformer, folder, is_pipeline=True)
    if transformer.is_dir() and not _weights(folder):
        return _component(transformer, None, is_pipeline=False)
    return _component(folder, _pipeline_of(folder), is_pipeline=False)


def _component(folder: Path, pipeline: Path | None, *, is_pipeline: bool) -> Found:
    """Find the one model in a folder: an index with its shards, or a single file."""
    inside = {entry.name for entry in folder.iterdir() if not is_litter(entry.name)}
    # aria2 gives a file its full size at once and keeps what is done in a file beside it.
    loading = sorted(name for name in inside if (folder / f"{name}.aria2").exists())
    names = sorted(n for n in inside - set(loading) if not (folder / n).is_dir())
    indexes = [_read_index(folder / name) for name in names if _INDEX.search(name)]
    listed = {shard for index in indexes for shard in index.weight_map.values()}
    loose = [name for name in names if is_safetensors(name) and name not in listed]
    shards = [name for name in loose if is_shard(name)]
    singles = [name for name in loose if name not in shards]
    candidates = [index.path.name for index in indexes] + singles
    if not candidates and not shards:
        # Beside safetensors these are copies of it, for other programs.
        candidates = singles = [name for name in names if format_of(name) == "gguf"]
    if len(candidates) > 1:
        raise CheckpointError(
            f"{folder}: holds {listing(candidates, noun='candidate')}, expected one model",
            hint="name the file or the index to open instead of the folder",
        )
    if shards:
        raise CheckpointError(
            f"{folder}: {listing(shards, noun='shard')} listed in no index, "
            "expected one index that lists all shards",
            hint="they may be left over from an earlier save; delete them, or name the index itself"
            if candidates
            else "the `*.safetensors.index.json` is missing; download it too",
        )
    if not candidates:
        raise _nothing(folder, names, loading)
    if indexes:
        found = _with_index(indexes[0], pipeline)
    else:
        file = folder / singles[0]
        check_kind(file)
        found = Found(folder, (file,), None, _config_of(folder), pipeline, is_pipeline=False)
    return Found(folder, found.files, found.index, found.config, pipeline, is_pipeline)


def _nothing(folder: Path, names: Sequence[str], loading: Sequence[str]) -> CheckpointError:
    """Say what a folder without safetensors holds instead."""
    if loading:
        return CheckpointError(
            f"{folder}: {listing(loading, noun='file')} still being downloaded, expected a model",
            hint="wait for the download, or resume it",
        )
    others = {name: found for name in names if (found := foreign(name)) is not None}
    if others:
        first = next(iter(others.values()))
        alike = [name for name, found in others.items() if found == first]
        return CheckpointError(
            f"{folder}: holds no .safetensors file but {first.kind} "
            f"({listing(alike, noun='file')})",
            hint=first.hint,
        )
    return CheckpointError(
        f"{folder}: holds no .safetensors or .gguf file, expected a model folder",
        hint="name a .safetensors or .gguf file, a folder of shards or a diffusers pipeline folder",
    )


def _sharded(path: Path, pipeline: Path | None) -> Found:
    return _with_index(_read_index(path), pipeline)


def _with_index(index: Index, pipeline: Path | None) -> Found:
    """Return the shards of an index in name order; all of them must exist."""
    folder = index.path.parent
    names = sorted(set(index.weight_map.values()))
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise CheckpointError(
            f"{index.path}: {listing(missing, noun='shard')} of {len(names)} missing",
            hint="the download is incomplete; fetch the missing files",
        )
    files = tuple(folder / name for name in names)
    for file in files:
        check_kind(file)
    return Found(index.path, files, index, _config_of(folder), pipeline, is_pipeline=False)


def _read_index(path: Path) -> Index:
    """Read an index and check that every shard it names is a plain file name."""
    content = read_object(path, MAX_INDEX_BYTES)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(
            f"{path}: `weight_map` expected an object, got {_json_kind(weight_map)}"
        )
    if not weight_map:
        raise CheckpointError(f"{path}: `weight_map` is empty, expected one entry per tensor")
    for tensor, listed in weight_map.items():
        shard = listed.removeprefix("./") if isinstance(listed, str) else listed
        weight_map[tensor] = shard
        if not isinstance(shard, str) or not _is_plain(shard):
            shown = quoted(shard) if isinstance(shard, str) else _json_kind(shard)
            raise CheckpointError(
                f"{path}: tensor {quoted(tensor)}: expected the name of a .safetensors file in the "
                f"same folder, without separators, colons or `..`, got {shown}",
                hint="an index that reaches outside its folder is not to be trusted",
            )
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    # Some writers store the size as a float or a string; only a whole number can be compared.
    return Index(path, weight_map, total if type(total) is int else None)


def _is_plain(name: str) -> bool:
    """Tell whether a name can only mean a file in the same folder, on any operating system."""
    return (
        is_safetensors(name)
        and not name.startswith(".")
        and ".." not in name
        and len(name.encode("utf-8", "surrogatepass")) <= _NAME_BYTES
        and all(c.isprintable() and c not in '/\\:<>"|?*' for c in name)
    )


def _weights(folder: Path) -> bool:
    return any(
        format_of(entry.name) or _INDEX.search(entry.name)
        for entry in folder.iterdir()
        if not is_litter(entry.name)
    )


def _config_of(folder: Path) -> Path | None:
    config = folder / "config.json"
    return config if _is_there(config) else None


def _pipeline_of(folder: Path) -> Path | None:
    """Return the pipeline folder a `transformer` folder belongs to, if it does."""
    parent = folder.parent
    return parent if folder.name == "transformer" and _is_pipeline(parent) else None


def _is_pipeline(folder: Path) -> bool:
    return _is_there(folder / "model_index.json")


def _is_there(path: Path) -> bool:
    """Tell whether there is such a file; one that cannot be reached is an error, not absent."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(mode_of(path))


def _no_constant(word: str) -> None:
    raise ValueError(f"`{word}` is not a JSON number")


def _json_kind(value: object) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a truth value",
        type(None): "nothing",
    }
    return kinds.get(type(value), "a number")
