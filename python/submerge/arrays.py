"""Bytes of tensors as arrays of numpy or torch, each imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal

from submerge.checkpoint.dtypes import DTYPES
from submerge.errors import RecipeError, SubmergeError, quoted
from submerge.given import shown
from submerge.opened import room

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from submerge.opened import Memory
    from submerge.plan.form import OutputTensor

    Framework: TypeAlias = Literal["np", "pt"]

__all__ = ["Slice", "array_of", "check_framework", "memory_for"]

# What numpy calls the dtypes that it has itself, and those that the package ml_dtypes brings.
_NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "F64": "float64", "I64": "int64",
    "U64": "uint64", "C64": "complex64",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_TORCH = {**_NUMPY, **_ML_DTYPES}


def check_framework(framework: object, device: str) -> None:
    """Refuse a framework that is none of ours or not installed, and numpy elsewhere than here.

    Raises:
        RecipeError: another word, or a device beside numpy.
        SubmergeError: the framework is not installed.
    """
    if framework not in ("np", "pt"):
        raise RecipeError(f"framework: expected `np` or `pt`, got {shown(framework)}")
    if framework == "np" and device != "cpu":
        raise RecipeError(
            f"device: numpy's arrays are on the CPU, got {quoted(device)}",
            hint="`framework='pt'` gives torch tensors on any device",
        )
    _library("numpy" if framework == "np" else "torch")


def memory_for(
    output: OutputTensor, framework: Framework, device: str
) -> tuple[Memory, Callable[[], Any]]:
    """Return memory for a tensor, and what makes an array of it once it is filled.

    Raises:
        SubmergeError: the framework has no such dtype.
    """
    if framework == "np":
        dtype = _numpy(output)
        memory = room(output.nbytes)
        return memory, lambda: _library("numpy").frombuffer(memory, dtype).reshape(output.shape)
    torch = _library("torch")
    kind = getattr(torch, _TORCH.get(output.dtype, ""), None)
    if kind is None:
        raise _no_dtype(output, "torch", "`view.bytes(name)` gives what the file would hold")
    if device == "cpu":
        memory = room(output.nbytes)
        return memory, lambda: _tensor(torch, memory, kind, output)
    # Copied to the device from memory that its driver reads by itself.
    pinned = torch.empty(output.nbytes, dtype=torch.uint8, pin_memory=device.startswith("cuda"))
    return memoryview(pinned.numpy()), lambda: pinned.view(kind).reshape(output.shape).to(device)


def _tensor(torch: Any, memory: Memory, kind: Any, output: OutputTensor) -> Any:
    if not output.nbytes:
        return torch.empty(output.shape, dtype=kind)
    return torch.frombuffer(memory, dtype=kind).reshape(output.shape)


def array_of(memory: Any) -> memoryview:
    """Return the bytes of what exposes memory, or is a torch tensor on the CPU.

    Raises:
        BufferError: it does not lie in one piece.
    """
    if hasattr(memory, "data_ptr"):
        torch = _library("torch")
        memory = memory.detach().view(-1).view(torch.uint8).numpy()
    view = memoryview(memory)
    if not view.c_contiguous:
        msg = "memory in several pieces, expected one"
        raise BufferError(msg)
    return view.cast("B") if view.nbytes else memoryview(bytearray())


class Slice:
    """A tensor of which parts are read when they are asked for, as of `safe_open`.

    Args:
        output: the tensor.
        rows: returns an array of the rows from one to another.
    """

    def __init__(self, output: OutputTensor, rows: Callable[[int, int], Any]) -> None:
        self._output = output
        self._rows = rows

    def get_shape(self) -> list[int]:
        """Return the sizes of the whole tensor."""
        return list(self._output.shape)

    def get_dtype(self) -> str:
        """Return its dtype as files spell it, `BF16` say."""
        return self._output.dtype

    def __getitem__(self, index: Any) -> Any:
        """Return a part: whole numbers, slices or `...` by dimension.

        Raises:
            IndexError: beyond the tensor.
        """
        first, *rest = index if isinstance(index, tuple) else (index,)
        shape = self._output.shape
        if not shape or first is Ellipsis:
            return self._rows(0, shape[0] if shape else 1)[index]
        if isinstance(first, slice):
            taken = range(shape[0])[first]
            low, high = (min(taken), max(taken) + 1) if len(taken) else (0, 0)
            step = first.step if len(taken) else None
            return self._rows(low, high)[(slice(None, None, step), *rest)]
        row = range(shape[0])[first]
        return self._rows(row, row + 1)[(0, *rest)]


def _numpy(output: OutputTensor) -> Any:
    """Return numpy's dtype for a tensor."""
    if output.dtype in _NUMPY:
        return _library("numpy").dtype(_NUMPY[output.dtype])
    try:
        return _library("numpy").dtype(
            getattr(importlib.import_module("ml_dtypes"), _ML_DTYPES[output.dtype])
        )
    except (ImportError, KeyError, AttributeError) as error:
        hint = "ask for `dtype='f32'`, `pip install ml_dtypes`, or `framework='pt'`"
        raise _no_dtype(output, "numpy", hint) from error


def _no_dtype(output: OutputTensor, framework: str, hint: str) -> SubmergeError:
    found = f"{output.dtype} of {DTYPES[output.dtype].bits} bits"
    message = f"{output.name}: is {found}, expected a dtype that {framework} has"
    return SubmergeError(message, hint=hint)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = {"numpy": "numpy", "torch": "submerge[torch]"}[name]
        raise SubmergeError(
            f"framework: {name} cannot be imported, expected to be installed: {error}",
            hint=f"pip install '{extra}'; `view.bytes(name)` needs nothing",
        ) from error
