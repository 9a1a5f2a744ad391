"""What torch and diffusers raise, as an error of ours: what was asked, and what can be done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from submerge.errors import CheckpointError, SubmergeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["explained", "explained_folder", "is_out_of_memory"]

_FOREIGN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
# How allocators word it that have no exception of their own.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory could not be had."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _NO_MEMORY)


@contextmanager
def explained(
    where: str, size: str, *, hint: str, own: Callable[[Exception], bool] | None = None
) -> Iterator[None]:
    """Have the libraries' exceptions, all but those of files, travel as one of ours.

    Args:
        where: what was done, for the message.
        size: what decides the memory it takes.
        hint: what helps against anything but a lack of memory.
        own: tells exceptions of the caller's own, which pass.

    Raises:
        SubmergeError: in place of what a library raised.
    """
    try:
        yield
    except _FOREIGN as error:
        if isinstance(error, SubmergeError) or (own is not None and own(error)):
            raise
        if is_out_of_memory(error):
            raise SubmergeError(
                f"{where}: out of memory, {size}",
                hint="give a smaller `memory_budget`, or paint smaller or fewer at a time",
            ) from error
        raise SubmergeError(f"{where}: {type(error).__name__}: {error}", hint=hint) from error


@contextmanager
def explained_folder(folder: Path) -> Iterator[None]:
    """Say which folder of a pipeline a library could not make sense of.

    Raises:
        CheckpointError: in place of what a library raised, but for a lack of memory.
    """
    try:
        yield
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{folder}: cannot be loaded: {error}",
            hint="the component may be damaged or of another version; download it again",
        ) from error
