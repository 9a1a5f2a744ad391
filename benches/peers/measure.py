"""Whole processes: wall, CPU, peak resident memory, and the page cache they leave behind."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Figures", "can_drop", "drop_caches", "files_of", "remove", "resident", "run", "warm"]

_DROP = Path("/proc/sys/vm/drop_caches")
_SEEN = 2000  # characters of an error worth keeping
# What one round found out must not help the next.
_LOOKING = {"SUBMERGE_STATISTICS_CACHE": "off"}


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of a process.

    Attributes:
        wall: seconds.
        cpu: seconds of user and system time.
        system: seconds of system time.
        rss: peak resident bytes, mapped file pages included.
        cached: bytes of the output left in the page cache.
        error: why it failed, or nothing.
    """

    wall: float
    cpu: float
    system: float
    rss: int
    cached: int
    error: str = ""


def run(
    command: Sequence[str],
    output: Path,
    *,
    environment: Mapping[str, str] | None = None,
    limit: float = 900,
) -> Figures:
    """Run a command that writes `output`, for at most `limit` seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        result, said = Path(scratch, "figures.json"), Path(scratch, "said.txt")
        launch = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
        with said.open("wb") as log:
            subprocess.run(
                [*launch, str(result), str(limit), "--", *command],
                env={**os.environ, **_LOOKING, **(environment or {})},
                stdout=log,
                stderr=log,
                check=True,
            )
        figures = json.loads(result.read_text(encoding="utf-8"))
        words = said.read_text(encoding="utf-8", errors="replace").strip()
    error = "" if figures["code"] == 0 else _error(figures["code"], figures["wall"], limit, words)
    return Figures(
        wall=figures["wall"],
        cpu=figures["user"] + figures["system"],
        system=figures["system"],
        rss=figures["rss"],
        cached=sum(map(resident, files_of(output))),
        error=error,
    )


def _error(code: int, wall: float, limit: float, words: str) -> str:
    if wall >= limit:
        return f"stopped after {limit:.0f} s"
    last = words[-_SEEN:].splitlines()[-1:] or ["said nothing"]
    return f"exit code {code}: {last[0]}"


def files_of(path: Path) -> list[Path]:
    """Return a file, or the safetensors files of a folder and of its transformer."""
    if path.is_dir():
        return sorted(path.rglob("*.safetensors"))
    return [path] if path.exists() else []


def resident(path: Path) -> int:
    """Return how many bytes of a file are in the page cache; 0 where the system cannot say."""
    size = path.stat().st_size
    if not size or not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    with path.open("rb") as file:
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "cannot map", str(path))
    try:
        if libc.mincore(at, size, pages):
            raise OSError(ctypes.get_errno(), "cannot ask for cached pages", str(path))
    finally:
        libc.munmap(at, size)
    return min(size, sum(page & 1 for page in pages.raw) * mmap.PAGESIZE)


def warm(paths: Iterable[Path]) -> None:
    """Read files whole, so that they are in the page cache."""
    buffer = bytearray(1 << 22)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def can_drop() -> bool:
    """Tell whether this process may empty the page cache."""
    return os.access(_DROP, os.W_OK)


def drop_caches() -> None:
    """Empty the page cache of everything that is on disk already."""
    os.sync()
    _DROP.write_text("3\n", encoding="ascii")


def remove(path: Path) -> None:
    """Delete an output and wait until the disk is idle."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()
    os.sync()
