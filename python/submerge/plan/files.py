"""The files of an output: those of weights, and what lies beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.checkpoint.names import nameable
from submerge.plan.sizes import gguf_size, header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Copy", "OutFile", "Text"]


class OutFile(NamedTuple):
    """A weight file of the output.

    Attributes:
        path: inside the target; empty when that is one file.
        metadata: what it says of itself, as texts.
        numbers: of a GGUF its key-values that are uint32, without the alignment; None of
            safetensors, which have none.
    """

    path: str
    metadata: Mapping[str, str]
    numbers: Mapping[str, int] | None = None

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        plain: dict[str, Any] = {"path": self.path, "metadata": dict(self.metadata)}
        if self.numbers is not None:
            plain["container"] = {"gguf": {"numbers": dict(self.numbers)}}
        return plain

    def size(self, tensors: Sequence[tuple[str, str, Sequence[int], int]]) -> int:
        """Return the bytes of the file with these tensors: name, dtype, shape and bytes."""
        if self.numbers is not None:
            return gguf_size(tensors, self.metadata, self.numbers)
        return len(header(tensors, self.metadata)) + sum(tensor[3] for tensor in tensors)


class Text(NamedTuple):
    """A small file of an output folder."""

    path: str
    text: str


class Copy(NamedTuple):
    """A file taken over into an output folder; `size` is what it had when the plan was made."""

    path: str
    source: Path
    how: Literal["auto", "link", "reflink", "copy"]
    size: int

    @classmethod
    def of(
        cls, path: str, source: Path, how: Literal["auto", "link", "reflink", "copy"] = "copy"
    ) -> Copy:
        """Return the copy of a file as it is now.

        Raises:
            CheckpointError: a name that is not UTF-8.
            OSError: there is no such file.
        """
        nameable(Path(path))
        return cls(path, nameable(source), how, source.stat().st_size)
