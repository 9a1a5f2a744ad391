"""What this machine and installation are like: the facts a bug report should begin with."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import counted
from submerge.files import path_of
from submerge.plan.sizes import bytes_in_words
from submerge.profile.environment import cores, installed, physical_memory
from submerge.run import build_info
from submerge.statistics import LIMIT, StatisticsCache

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

__all__ = ["Findings", "doctor"]

_PACKAGES = ("diffusers", "huggingface_hub", "numpy", "peft", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Findings:
    """What `doctor` found.

    Attributes:
        core: what the compiled core says of itself.
        system: platform, Python, cores and memory in bytes.
        packages: versions of the packages submerge works with, or None where absent.
        paths: for each folder the filesystem, the free bytes, and how files there are read.
        statistics: the folder of the statistics cache, or None, its files and bytes, and the most
            bytes it may have.
        problems: what should be mended.
    """

    core: dict[str, Any]
    system: dict[str, Any]
    packages: dict[str, str | None]
    paths: dict[str, dict[str, Any]]
    statistics: dict[str, Any]
    problems: tuple[str, ...]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the findings as JSON."""
        plain = {
            "core": self.core,
            "system": self.system,
            "packages": self.packages,
            "paths": self.paths,
            "statistics": self.statistics,
            "problems": list(self.problems),
        }
        return json.dumps(plain, indent=indent, ensure_ascii=False)

    def text(self) -> str:
        """Return the findings in words, a fact a line."""
        system, core = self.system, self.core
        lines = [
            f"submerge   {core['version']} ({core['profile']}), numerics {core['numerics']}",
            f"kernels    {', '.join(core['isas'])}",
            f"system     {system['platform']}",
            f"python     {system['python']}",
            f"cores      {system['cores']}",
            f"memory     {bytes_in_words(system['memory'])}",
            *(
                f"{name:<10} {version or 'not installed'}"
                for name, version in self.packages.items()
            ),
        ]
        for path, facts in self.paths.items():
            free = bytes_in_words(facts["free"])
            lines.append(f"{path}: {facts['filesystem']}, {free} free")
        lines.append(self._kept())
        return "\n".join([*lines, *(f"problem: {text}" for text in self.problems)])

    def _kept(self) -> str:
        kept = self.statistics
        if kept["folder"] is None:
            return "statistics are not kept"
        size, limit = bytes_in_words(kept["bytes"]), bytes_in_words(kept["limit"])
        return (
            f"statistics in {kept['folder']}: {counted(kept['files'], 'file')}, {size} of {limit}"
        )


def doctor(folders: Sequence[str | os.PathLike[str]] = (".",)) -> Findings:
    """Look at the installation, the machine and the folders models lie in."""
    core = build_info()
    problems = []
    if core["profile"] != "release":
        problems.append(f"the core is a {core['profile']} build and slow; install a release build")
    return Findings(
        core=core,
        system={
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cores": cores(),
            "memory": physical_memory() or 0,
        },
        packages={name: installed(name) for name in _PACKAGES},
        paths={str(folder): _folder(path_of(folder, "folder")) for folder in folders},
        statistics=_statistics(),
        problems=tuple(problems),
    )


def _statistics() -> dict[str, Any]:
    cache = StatisticsCache.of(None)
    files, nbytes = cache.size()
    folder = None if cache.folder is None else str(cache.folder)
    return {"folder": folder, "files": files, "bytes": nbytes, "limit": LIMIT}


def _folder(folder: Path) -> dict[str, Any]:
    return {
        "filesystem": _filesystem(folder),
        "free": shutil.disk_usage(folder).free,
    }


def _filesystem(folder: Path) -> str:
    """Return the type of the filesystem a folder is on, where /proc tells."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown filesystem"
    at = folder.resolve()
    points = _mounts(mounts.read_text(encoding="utf-8", errors="replace").splitlines())
    inside = [(len(point), kind) for point, kind in points if at.is_relative_to(point)]
    return max(inside)[1] if inside else "unknown filesystem"


def _mounts(lines: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (fields[1].replace("\\040", " "), fields[2]) for line in lines if (fields := line.split())
    ]
