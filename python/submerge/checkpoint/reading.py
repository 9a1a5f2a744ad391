"""The bytes of a checkpoint, for those who do not merge: its files held open by the core.

Every read proves that the file is still the one whose header was read, so nothing is made of two
models, and a file that is cut short is an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

from submerge import _core

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint, TensorInfo

__all__ = ["Reading"]


class Reading:
    """The files of a checkpoint, open until they are closed; any thread may read.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be opened.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._starts = [file.data_start for file in checkpoint.files]
        self._readers = [
            _core.Reader(str(file.path), json.dumps(file.identity)) for file in checkpoint.files
        ]

    def into(self, tensor: TensorInfo, skip: int, memory: bytearray | memoryview) -> None:
        """Fill memory with a tensor's bytes.

        Args:
            tensor: of this checkpoint.
            skip: its bytes that come before.
            memory: writable bytes in one dimension, not more than the tensor has left.

        Raises:
            CheckpointError: the file was cut short, written or replaced meanwhile.
            PlanError: the files were closed.
            OSError: the file cannot be read, or is no longer there.
        """
        if not 0 <= skip <= skip + len(memory) <= tensor.nbytes:
            raise ValueError(f"{tensor.name}: {len(memory)} bytes after {skip} of {tensor.nbytes}")
        at = self._starts[tensor.file] + tensor.start + skip
        self._readers[tensor.file].read_into(at, memory)

    def sample(self, tensor: TensorInfo, skip: int, most: int) -> bytes:
        """Return up to `most` of a tensor's bytes after the first `skip`; raises as `into`."""
        memory = bytearray(min(most, tensor.nbytes - skip))
        self.into(tensor, skip, memory)
        return bytes(memory)

    def header(self, file: int) -> bytes:
        """Return what a file's header says, after its first 8 bytes; raises as `into`."""
        text = bytearray(self._starts[file] - 8)
        self._readers[file].read_into(8, text)
        return bytes(text)

    def check(self) -> None:
        """Raise as `into` would for any of the files, reading nothing."""
        for reader in self._readers:
            reader.check()

    def close(self) -> None:
        """Let the files go; to close again does nothing."""
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
