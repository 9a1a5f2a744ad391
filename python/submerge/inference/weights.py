"""The tensors of a transformer in diffusers' names, read through the core from files of any layout.

A tensor of one layout is a stack of row ranges of another: each range is read to its place in the
tensor, once. Nothing is read before a tensor is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.reading import Reading
from submerge.layout import tensors_of

if TYPE_CHECKING:
    import torch

    from submerge.layout import Model, Place

__all__ = ["Weights"]

# Spelled in the files -> the name torch has for it.
_TORCH = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class Weights(Mapping[str, "torch.Tensor"]):
    """Diffusers' tensor names to new tensors on the CPU, in one dtype.

    Holds the files open until it is closed. A file that changes meanwhile is an error of the next
    tensor that is read from it.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be opened.
    """

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        self._tensors = model.checkpoint.tensors
        self._dtype = dtype
        self._places: dict[str, tuple[Place, ...]] = {
            tensor.name: _joined(model, tensor.units)
            for tensor in tensors_of(model.arch, "diffusers")
        }
        self._reading = Reading(model.checkpoint)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Raises:
            KeyError: a name that the transformer does not have.
            CheckpointError: its file was cut short, written or replaced meanwhile.
            OSError: its file cannot be read, or is no longer there.
        """
        import torch

        places = self._places[name]
        rows = sum(place.end - place.start for place in places)
        shape = (rows, *self._tensors[places[0].tensor].shape[1:])
        made, at = torch.empty(shape, dtype=self._dtype), 0
        for place in places:
            rows = place.end - place.start
            self._rows(place, made[at : at + rows])
            at += rows
        return made

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
        dtype: Any = getattr(torch, _TORCH[info.dtype])
        read = made if dtype == made.dtype else torch.empty(made.shape, dtype=dtype)
        memory = memoryview(read.reshape(-1).view(torch.uint8).numpy())
        self._reading.into(info, place.start * info.nbytes // info.rows, memory)
        if read is not made:
            made.copy_(read)


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
