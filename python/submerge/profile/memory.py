"""How much memory this process holds now, and the most it ever held.

Linux says it in `/proc/self/status`. Elsewhere only the peak of the resident memory is known, from
`getrusage`, and kinds that are not known are None. Device memory is asked of torch, and only if
the program has imported torch and used a device: measuring starts neither.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KINDS", "Reading", "read"]

_STATUS = "/proc/self/status"


class Reading(NamedTuple):
    """Memory in bytes; None where the system does not tell.

    Attributes:
        rss: resident memory: anonymous, file and shared pages together.
        anonymous: what the program allocated, as opposed to pages of files.
        file: pages of mapped files, which the system can drop and read again.
        vram: device memory in tensors, over all devices of this process.
        vram_reserved: device memory torch holds, tensors and cache together.
    """

    rss: int | None = None
    anonymous: int | None = None
    file: int | None = None
    vram: int | None = None
    vram_reserved: int | None = None


KINDS = Reading._fields


def read() -> tuple[Reading, Reading]:
    """Return what is held now, and the most that was ever held where the system keeps count."""
    now, most = _host()
    vram, reserved, most_vram, most_reserved = _devices()
    return (
        now._replace(vram=vram, vram_reserved=reserved),
        most._replace(vram=most_vram, vram_reserved=most_reserved),
    )


def _host() -> tuple[Reading, Reading]:
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib costs more than the read
            lines = file.read().splitlines()
    except OSError:
        most = _most_resident()
        return Reading(rss=most), Reading(rss=most)
    fields = dict(
        line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM", "Rss"))
    )

    def size(name: str) -> int | None:
        return int(fields[name].split()[0]) * 1024 if name in fields else None

    now = Reading(rss=size("VmRSS"), anonymous=size("RssAnon"), file=size("RssFile"))
    return now, Reading(rss=size("VmHWM"))


def _most_resident() -> int | None:
    """Return the peak of the resident memory as `getrusage` knows it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _devices() -> tuple[int | None, ...]:
    """Return allocated and reserved device memory now, and the most of both, over all devices."""
    figures = list(_each_device(sys.modules.get("torch")))
    if not figures:
        return (None,) * 4
    columns = zip(*figures, strict=True)
    return tuple(None if None in column else sum(filter(None, column)) for column in columns)


def _each_device(torch: Any) -> Iterator[tuple[int | None, ...]]:
    """Yield those four figures for each device that torch uses in this process."""
    for name in ("cuda", "xpu"):  # ROCm calls itself cuda
        backend: Any = getattr(torch, name, None)
        # A module half imported by another thread lacks some of these.
        if hasattr(backend, "memory_reserved") and backend.is_initialized():
            for device in range(backend.device_count()):
                yield (
                    backend.memory_allocated(device),
                    backend.memory_reserved(device),
                    backend.max_memory_allocated(device),
                    backend.max_memory_reserved(device),
                )
    mps: Any = getattr(torch, "mps", None)
    if hasattr(mps, "driver_allocated_memory") and torch.backends.mps.is_available():
        yield mps.current_allocated_memory(), mps.driver_allocated_memory(), None, None
