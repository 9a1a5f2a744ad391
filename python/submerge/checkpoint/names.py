"""What the name of a file or folder tells: the format, a shard, or nothing of a model at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from submerge.errors import CheckpointError, RecipeError, quoted

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ENDINGS",
    "FileFormat",
    "Foreign",
    "container_of",
    "foreign",
    "format_of",
    "is_litter",
    "is_one_file",
    "is_safetensors",
    "is_shard",
    "nameable",
]

_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}\b")

FileFormat: TypeAlias = Literal["safetensors", "gguf"]
"""What stands around the tensors of a file, as the core calls it."""

# What the names of files of tensors end in, and their format.
_FORMATS: dict[str, FileFormat] = {
    ".safetensors": "safetensors",
    ".sft": "safetensors",
    ".gguf": "gguf",
}
ENDINGS = tuple(_FORMATS)
# `~syncthing~x.tmp`, `~$x`; folders of other systems; downloads that are still going on.
_LITTER = re.compile(
    r"[.~].*|thumbs\.db|desktop\.ini|__(?:MACOSX|pycache)__|@eaDir|#recycle|\$RECYCLE\.BIN"
    r"|lost\+found|System Volume Information"
    r"|.*\.(?:aria2|crdownload|download|incomplete|lock|part|partial|tmp|!qB|!ut)",
    re.IGNORECASE,
)
# What nobody calls a folder, and submerge does not write.
_OTHER_FORMATS = frozenset(
    {
        ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".onnx", ".h5", ".hdf5", ".npz",
        ".npy", ".msgpack", ".tflite", ".mlmodel", ".engine", ".safetensor", ".tensors", ".zip",
        ".tar", ".gz", ".json", ".yaml", ".yml", ".toml", ".txt", ".md", ".html", ".png",
    }
)  # fmt: skip


class Foreign(NamedTuple):
    """Another format that models come in: what it is, with its article, and what to do about it."""

    kind: str
    hint: str


_SAVE = "save the model as safetensors first"
_FOREIGN = {
    (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"): Foreign(
        "a pickle", f"pickles can run code when opened; {_SAVE}"
    ),
    (".distcp",): Foreign(
        "a part of a distributed checkpoint",
        "gather it: `torch.distributed.checkpoint.format_utils.dcp_to_torch_save`; then " + _SAVE,
    ),
    (".dduf",): Foreign("a DDUF archive", "unpack it: it is a ZIP of a pipeline folder"),
    (".onnx", ".onnx_data"): Foreign("an ONNX model", "merge the safetensors it was exported from"),
    (".msgpack",): Foreign("a Flax model", _SAVE),
    (".npz", ".npy"): Foreign("a NumPy archive", _SAVE),
    (".h5", ".hdf5"): Foreign("an HDF5 file", _SAVE),
}


def nameable(path: Path) -> Path:
    """Return a path that plans and reports, which are UTF-8, can hold.

    Raises:
        CheckpointError: it holds a byte that is not UTF-8, as Python reads it: half a pair.
    """
    if not str(path).isascii() and any("\ud800" <= c <= "\udfff" for c in str(path)):
        raise CheckpointError(
            f"{quoted(str(path))}: the name is not UTF-8, expected one that is",
            hint="rename the file or its folder",
        )
    return path


def foreign(name: str) -> Foreign | None:
    """Return which other format a file is of, by its name, if any."""
    return next((f for endings, f in _FOREIGN.items() if name.lower().endswith(endings)), None)


def format_of(name: str) -> FileFormat | None:
    """Return the format of a file of tensors, by its name; None of what is none."""
    found = (c for ending, c in _FORMATS.items() if name.lower().endswith(ending))
    return next(found, None)


def is_safetensors(name: str) -> bool:
    """Tell a safetensors file by its name; `.sft` is another ending of the same format."""
    return format_of(name) == "safetensors"


def is_shard(name: str) -> bool:
    """Tell whether a file is one shard of several, by its name."""
    return _SHARD.search(name) is not None


def container_of(target: Path) -> Literal["file", "folder", "gguf"]:
    """Tell what an output is by its name; raises as `is_one_file`."""
    if not is_one_file(target):
        return "folder"
    return "gguf" if format_of(target.name) == "gguf" else "file"


def is_one_file(target: Path) -> bool:
    """Tell whether an output is one file, by its name, or else a folder.

    Raises:
        RecipeError: the ending of another format, which would become a folder.
    """
    suffix = target.suffix.lower()
    if suffix in _OTHER_FORMATS:
        raise RecipeError(
            f"{target}: the ending of another format, expected a name that ends in `.safetensors` "
            f"or `.gguf` for one file, or a folder, got {quoted(target.suffix)}",
            hint=f"write {quoted(target.with_suffix('.safetensors').name)}, or "
            f"{quoted(target.stem)} for a folder",
        )
    return format_of(target.name) is not None


def is_litter(name: str) -> bool:
    """Tell whether a name is that of what systems and tools leave in folders.

    File managers, sync clients, downloaders and editors hide theirs behind a dot, or mark it as
    unfinished; none of it is a part of a model.
    """
    return _LITTER.fullmatch(name) is not None
