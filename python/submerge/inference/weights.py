"""The weights of a module, read through the core from files of any layout.

A tensor of one layout is a stack of row ranges of another: each range is read to its place in the
tensor, once. Nothing is read before a tensor is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint.dtypes import DTYPES
from submerge.checkpoint.reading import Reading
from submerge.layout import tensors_of
from submerge.opened import room

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    import torch

    from submerge.checkpoint import Checkpoint
    from submerge.layout import Model, Place
    from submerge.opened import Opened

__all__ = ["Made", "Weights", "diffusers_places", "unmap"]


class Made(NamedTuple):
    """A tensor of a plan, which a parameter is where it is not rows of the files."""

    opened: Opened
    name: str


class Weights(Mapping[str, "torch.Tensor"]):
    """Names of a module's parameters to new tensors on the CPU.

    Holds the files open until it is closed. A file that changes meanwhile is an error of the next
    tensor that is read from it.

    Args:
        checkpoint: the files.
        places: parameter -> the rows that make it up, in order.
        dtypes: parameter -> the dtype it is given in.
        made: the parameters that the core makes.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be opened.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        places: Mapping[str, tuple[Place, ...]],
        dtypes: Mapping[str, torch.dtype],
        made: Mapping[str, Made] | None = None,
    ) -> None:
        self._tensors = checkpoint.tensors
        self._made = made or {}
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
        """Read or make one tensor.

        Raises:
            KeyError: a name that the module does not have.
            CheckpointError: its file was cut short, written or replaced meanwhile.
            PlanError: the same of a file that it is made from.
            OSError: its file cannot be read, or is no longer there.
        """
        if (made := self._made.get(name)) is not None:
            return self._make(made).to(self._dtypes[name])
        places = self._places[name]
        shape = (_rows(places), *self._tensors[places[0].tensor].shape[1:])
        read = _empty(shape, self._dtypes[name])
        for place, part in _parts(places, read):
            self._read(place, part)
        return read

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Overwrite tensors with parameters; what the core makes goes into their memory in one run.

        A tensor elsewhere than on the CPU, or of another dtype, gets a copy. Raises as `[]`; some
        are overwritten then.
        """
        runs: dict[int, tuple[Opened, dict[str, memoryview]]] = {}
        for name, tensor in tensors.items():
            made = self._made.get(name)
            if made is None or not _holds(tensor, made):
                tensor.copy_(self[name])
                continue
            _, memory = runs.setdefault(id(made.opened), (made.opened, {}))
            memory[made.name] = _bytes(tensor)
        for opened, memory in runs.values():
            opened.into_all(memory)

    def codes(self, name: str) -> torch.Tensor:
        """Read a parameter as it is in its file: U8 [rows, bytes of a row]; raises as `[]`."""
        import torch

        places = self._places[name]
        info = self._tensors[places[0].tensor]
        read = _empty((_rows(places), info.nbytes // info.rows), torch.uint8)
        for place, part in _parts(places, read):
            self._into(place, part)
        return read

    def scales(self, name: str) -> torch.Tensor:
        """Read the scales beside a parameter's codes: f32, [rows, 1], one for each; raises as `[]`.

        The file has them so, or one for all.
        """
        import torch

        found = []
        for place in self._places[name]:
            (side,) = self._tensors[place.tensor].sides
            scale = torch.empty(side.elements, dtype=_torch(side.dtype))
            self._reading.into(side, 0, _bytes(scale))
            rows = scale if side.elements == 1 else scale[place.start : place.end]
            found.append(rows.float().expand(place.end - place.start))
        return torch.cat(found)[:, None]

    def alike(self, name: str) -> Hashable:
        """Return what is equal for parameters that are the same rows of the same tensors."""
        return self._places[name]

    def close(self) -> None:
        """Let the files go; what was read stays."""
        self._reading.close()

    def check(self) -> None:
        """Raise as reading a tensor would if any of the files has changed."""
        self._reading.check()

    def _make(self, made: Made) -> torch.Tensor:
        """Have the core make a tensor."""
        output = made.opened.tensors[made.name]
        tensor = _empty(output.shape, _torch(output.dtype))
        made.opened.into(made.name, _bytes(tensor))
        return tensor

    def _read(self, place: Place, made: torch.Tensor) -> None:
        """Read some rows of a tensor of the files."""
        dtype = _torch(self._tensors[place.tensor].dtype)
        read = made if dtype == made.dtype else _empty(made.shape, dtype)
        self._into(place, read)
        if read is not made:
            made.copy_(read)

    def _into(self, place: Place, made: torch.Tensor) -> None:
        info = self._tensors[place.tensor]
        self._reading.into(info, place.start * info.nbytes // info.rows, _bytes(made))


def _rows(places: Iterable[Place]) -> int:
    return sum(place.end - place.start for place in places)


def _parts(places: Iterable[Place], whole: torch.Tensor) -> Iterator[tuple[Place, torch.Tensor]]:
    """Yield where each part of a tensor lies, and the rows that it becomes."""
    at = 0
    for place in places:
        end = at + place.end - place.start
        yield place, whole[at:end]
        at = end


def _torch(dtype: str) -> Any:
    import torch

    return getattr(torch, str(DTYPES[dtype].torch))


def _holds(tensor: torch.Tensor, made: Made) -> bool:
    """Tell whether a tensor's memory can be written as the bytes of what is made."""
    dtype = _torch(made.opened.tensors[made.name].dtype)
    return bool(tensor.device.type == "cpu" and tensor.dtype == dtype and tensor.is_contiguous())


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return a contiguous tensor's own memory."""
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of any values whose memory goes back to the system when it is dropped.

    The allocator would keep some of it for later, which streaming never needs.
    """
    import torch

    size = math.prod(shape) * dtype.itemsize
    return (
        torch.frombuffer(room(size), dtype=dtype).view(shape)
        if size
        else torch.empty(shape, dtype=dtype)
    )


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
