"""The statistics of units, kept on disk between runs: the statistics cache.

Methods that need statistics of a whole unit before they merge it read the models twice or more
often. Statistics depend on the models, and on few of a method's arguments, so a later merge of the
same files need not compute them again. The core says under which keys: they name the arithmetic's
version, the device, inode, size and times of change of every operand's file (the inode's own too,
which nobody can put back), the place in it, and what was searched. Nothing is found by a model's
contents.

There is one file for each set of models, of JSON behind a checksum. Whatever is wrong with one (cut
short, foreign, changed) makes it count as absent; a folder that cannot be written keeps nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from submerge.files import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.plan import Plan

__all__ = ["LIMIT", "OFF", "VARIABLE", "Statistics", "StatisticsCache", "doubt"]

# Statistics as numbers, by key.
Statistics: TypeAlias = "dict[str, list[int]]"

OFF = "off"
# Where the cache is, if no option says so.
VARIABLE = "SUBMERGE_STATISTICS_CACHE"
# Bytes of all files together, and of one; what was used least recently goes first.
LIMIT = 64_000_000
_FILE_LIMIT = 4_000_000
_SUFFIX = ".statistics"
# A file that changed less than this ago may change again and look the same: clocks are coarse.
_SETTLED_NS = 2_000_000_000
_WORDS = 2**64


class Size(NamedTuple):
    """Files of the cache, and their bytes."""

    files: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class StatisticsCache:
    """A folder of statistics; None keeps nothing.

    Nothing here raises for what is in the folder or what the system refuses.
    """

    folder: Path | None

    @classmethod
    def of(cls, setting: str | os.PathLike[str] | None) -> StatisticsCache:
        """Return the cache that an option names: a folder, `off`, or None for the default.

        The default is `SUBMERGE_STATISTICS_CACHE`, a folder or `off`, or else
        `submerge/statistics` in the user's cache directory.
        """
        if setting is None:
            setting = os.environ.get(VARIABLE) or None
        if setting is None:
            home = _caches()
            return cls(None if home is None else home / "submerge" / "statistics")
        return cls(None if setting == OFF else expanded(setting).absolute())

    def recall(self, plan: Plan) -> Statistics:
        """Return what is known of a plan's models, of whose files there is no `doubt`."""
        if self.folder is None:
            return {}
        path = _path(self.folder, plan)
        with suppress(OSError):
            os.utime(path)
        return _read(path)

    def keep(self, plan: Plan, known: Statistics, found: Mapping[str, list[int]]) -> bool:
        """Write down what was found, beside what others have meanwhile; whether that worked."""
        if self.folder is None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = _path(self.folder, plan)
            _write(path, known | _read(path) | dict(found))
            _trim(self.folder, path)
        except (OSError, ValueError):
            return False
        return True

    def size(self) -> Size:
        """Return how many files there are, and their bytes."""
        files = [] if self.folder is None else _files(self.folder)
        return Size(len(files), sum(nbytes for _, nbytes, _ in files))


def doubt(plan: Plan) -> str | None:
    """Return in words why nothing may be kept of a plan's models; None if it may.

    A file that was touched within the last two seconds may change again without a trace, and so
    may one whose last touch lies ahead of the clock, or is not told by the file system.
    """
    touched = [source.identity["ctime_ns"] for source in plan.sources]
    now = time.time_ns()
    if not all(touched):
        return "unused: a model's file system does not say when files were last touched"
    if max(touched, default=0) > now:
        return "unused: a model was touched at a time that lies ahead of the clock"
    if max(touched, default=0) > now - _SETTLED_NS:
        return "unused: a model was touched within the last 2 seconds"
    return None


def _path(folder: Path, plan: Plan) -> Path:
    """Return the file for a set of models, however a recipe calls and orders them."""
    identities = sorted(
        json.dumps([*sorted(s.identity.items()), "" if s.identity["ino"] else str(s.path)])
        for s in plan.sources
    )
    name = hashlib.sha256("\n".join(identities).encode()).hexdigest()[:32]
    return folder / (name + _SUFFIX)


def _caches() -> Path | None:
    """Return the user's cache directory, if there is a home to have one in."""
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    given = os.environ.get(variable, "")
    if Path(given).is_absolute():
        return Path(given)
    with suppress(RuntimeError):
        home = Path.home()
        return home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return None


def _read(path: Path) -> Statistics:
    """Return what a file holds; nothing, if it is not exactly what `_write` wrote."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would be waited for without end
            return {}
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT + 1)
        digest, _, text = content.partition(b"\n")
        if len(content) > _FILE_LIMIT or digest.decode() != hashlib.sha256(text).hexdigest():
            return {}
        found = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and all(map(_right, found.values())) else {}


def _right(numbers: object) -> bool:
    return isinstance(numbers, list) and all(
        type(number) is int and 0 <= number < _WORDS for number in numbers
    )


def _write(path: Path, statistics: Statistics) -> None:
    """Write a file, which appears whole; what was known first goes if there is too much."""
    entries = [f"{json.dumps(k)}:{json.dumps(v)}" for k, v in statistics.items()]
    room = _FILE_LIMIT - 100
    kept: list[str] = []
    for entry in reversed(entries):
        room -= len(entry) + 1
        if room < 0:
            break
        kept.append(entry)
    text = ("{" + ",".join(reversed(kept)) + "}").encode()
    descriptor, hidden = tempfile.mkstemp(prefix=".", suffix=_SUFFIX + ".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        Path(hidden).replace(path)
    except OSError:
        with suppress(OSError):
            Path(hidden).unlink()
        raise


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """Return the time of the last use, the bytes and the path of every file of the cache."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.endswith((_SUFFIX, _SUFFIX + ".part")):
                with suppress(OSError):
                    facts = path.lstat()
                    found.append((facts.st_mtime_ns, facts.st_size, path))
    return sorted(found)


def _trim(folder: Path, last: Path) -> None:
    """Remove what was used least recently until the rest is within the limit."""
    files = _files(folder)
    total = sum(nbytes for _, nbytes, _ in files)
    for _, nbytes, path in files:
        if total <= LIMIT:
            return
        if path != last:
            with suppress(OSError):
                path.unlink()
            total -= nbytes
