"""The weights of a module, read through the core from files of any layout.

A tensor of one layout is a stack of row ranges of another: each range is read to its place in the
tensor, once. Nothing is read before a tensor is asked for.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.dtypes import DTYPES
from submerge.checkpoint.reading import Reading
from submerge.layout import tensors_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    import torch

    from submerge.checkpoint import Checkpoint
    from submerge.layout import Model, Place
    from submerge.opened import Opened

__all__ = ["MadeWeights", "Weights", "diffusers_places", "unmap"]

# Bytes from which on a tensor has memory of its own.
_LARGE = 1 << 20


class Weights(Mapping[str, "torch.Tensor"]):
    """Names of a module's parameters to new tensors on the CPU.

    Holds the files open until it is closed. A file that changes meanwhile is an error of the next
    tensor that is read from it.

    Args:
        checkpoint: the files.
        places: parameter -> the rows that make it up, in order.
        dtypes: parameter -> the dtype it is given in.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be opened.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        places: Mapping[str, tuple[Place, ...]],
        dtypes: Mapping[str, torch.dtype],
    ) -> None:
        self._tensors = checkpoint.tensors
        self._places = places
        self._dtypes = dtypes
        self._reading = Reading(checkpoint)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Raises:
            KeyError: a name that the module does not have.
            CheckpointError: its file was cut short, written or replaced meanwhile.
            OSError: its file cannot be read, or is no longer there.
        """
        places = self._places[name]
        rows = sum(place.end - place.start for place in places)
        shape = (rows, *self._tensors[places[0].tensor].shape[1:])
        made, at = _empty(shape, self._dtypes[name]), 0
        for place in places:
            rows = place.end - place.start
            self._rows(place, made[at : at + rows])
            at += rows
        return made

    def alike(self, name: str) -> Hashable:
        """Return what is equal for parameters that are the same rows of the same tensors."""
        return self._places[name]

    def close(self) -> None:
        """Let the files go; what was read stays."""
        self._reading.close()

    def check(self) -> None:
        """Raise as reading a tensor would if any of the files has changed."""
        self._reading.check()

    def _rows(self, place: Place, made: torch.Tensor) -> None:
        """Read some rows of a tensor of the files."""
        import torch

        info = self._tensors[place.tensor]
        dtype: Any = getattr(torch, str(DTYPES[info.dtype].torch))
        read = made if dtype == made.dtype else _empty(made.shape, dtype)
        memory = memoryview(read.reshape(-1).view(torch.uint8).numpy())
        self._reading.into(info, place.start * info.nbytes // info.rows, memory)
        if read is not made:
            made.copy_(read)


class MadeWeights(Weights):
    """A transformer's parameters in diffusers' names, of which some are made by the core.

    Args:
        model: the transformer.
        dtypes: parameter -> the dtype it is given in.
        opened: makes the parameters that are not rows of the files as they are.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be opened.
    """

    def __init__(
        self, model: Model, dtypes: Mapping[str, torch.dtype], opened: Opened | None = None
    ) -> None:
        super().__init__(model.checkpoint, diffusers_places(model), dtypes)
        self._opened = opened
        # What is a copy of floats is read without the core's buffers.
        self._made = frozenset() if opened is None else opened.computed

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read or make one tensor.

        Raises:
            KeyError, CheckpointError, OSError: as that of `Weights`.
            PlanError: a file that it is made from was written or replaced meanwhile.
        """
        import torch

        if self._opened is None or name not in self._made:
            return super().__getitem__(name)
        output = self._opened.tensors[name]
        made = _empty(output.shape, getattr(torch, str(DTYPES[output.dtype].torch)))
        self._opened.into(name, memoryview(made.reshape(-1).view(torch.uint8).numpy()))
        return made.to(self._dtypes[name])


def _empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of any values whose memory goes back to the system when it is dropped.

    The allocator would keep some of it for later, which streaming never needs; and in huge pages
    memory is ready four times as fast.
    """
    import torch

    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def unmap(tensors: Iterable[torch.Tensor]) -> None:
    """Copy what a library loaded out of the file that it mapped into memory.

    What is mapped changes with its file, and ends the process when that is cut short.
    """
    for tensor in tensors:
        tensor.data = tensor.data.clone()


def diffusers_places(model: Model) -> dict[str, tuple[Place, ...]]:
    """Return where each tensor of diffusers' transformer lies in a model of any layout."""
    tensors = tensors_of(model.arch, "diffusers")
    return {tensor.name: _joined(model, tensor.units) for tensor in tensors}


def _joined(model: Model, units: tuple[str, ...]) -> tuple[Place, ...]:
    """Return where the units lie, neighbours in one tensor as one range."""
    places: list[Place] = []
    for unit in units:
        place = model.units[unit].place
        last = places[-1] if places else None
        if last is not None and last.tensor == place.tensor and last.end == place.start:
            places[-1] = last._replace(end=place.end)
        else:
            places.append(place)
    return tuple(places)
