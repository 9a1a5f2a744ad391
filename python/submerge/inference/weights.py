"""The tensors of a transformer in diffusers' names, read from files of any layout without a copy.

A tensor of one layout is a stack of row ranges of another, so each is a view of the mapped file, or
a few of them joined. Nothing is read before a tensor is asked for, and what was read is given back
when the tensor is dropped.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import DTYPES
from submerge.layout import tensors_of

if TYPE_CHECKING:
    from pathlib import Path

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
# Fills the page table of a window in one call instead of a fault per page (Linux 5.14).
_POPULATE_READ = 22


class Weights(Mapping[str, "torch.Tensor"]):
    """Diffusers' tensor names to tensors on the CPU, in `dtype` where one is given.

    A tensor in the file's own dtype is a private mapping of the file: writing to it changes memory,
    never the file.
    """

    def __init__(self, model: Model, dtype: torch.dtype | None = None) -> None:
        self._checkpoint = model.checkpoint
        self._dtype = dtype
        self._places: dict[str, tuple[Place, ...]] = {
            tensor.name: _joined(model, tensor.units)
            for tensor in tensors_of(model.arch, "diffusers")
        }
        self._starts = [_data_start(file.path) for file in model.checkpoint.files]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> torch.Tensor:
        """Map one tensor; raises KeyError for a name the transformer does not have."""
        import torch

        pieces = [self._rows(place) for place in self._places[name]]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def _rows(self, place: Place) -> torch.Tensor:
        """Return some rows of a tensor of the file."""
        import torch

        info = self._checkpoint.tensors[place.tensor]
        row_bytes = info.row_elements * DTYPES[info.dtype] // 8
        at = self._starts[info.file] + info.start + place.start * row_bytes
        rows = place.end - place.start
        window = _window(self._checkpoint.files[info.file].path, at, rows * row_bytes)
        flat = torch.frombuffer(
            window, dtype=torch.uint8, count=rows * row_bytes, offset=at % _PAGE
        )
        shape = (rows, *info.shape[1:]) if info.shape else ()
        dtype: Any = getattr(torch, _TORCH[info.dtype])
        aligned = flat if at % dtype.itemsize == 0 else flat.clone()
        return aligned.view(dtype).view(shape)


_PAGE = mmap.ALLOCATIONGRANULARITY


def _window(path: Path, at: int, size: int) -> mmap.mmap:
    """Map `size` bytes of a file from the page in which `at` lies."""
    begin = at - at % _PAGE
    with path.open("rb") as file:
        window = mmap.mmap(file.fileno(), at - begin + size, offset=begin, access=mmap.ACCESS_COPY)
    if hasattr(window, "madvise"):
        # An older kernel reads the pages as they are touched.
        with contextlib.suppress(OSError):
            window.madvise(_POPULATE_READ)
    return window


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


def _data_start(path: Path) -> int:
    """Return where a safetensors file's data begin; its header was checked when it was opened."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")
