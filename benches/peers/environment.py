"""Where rivals live: an environment of their own, outside the repository; and the machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["RIVALS", "cache_folder", "machine", "rivals"]

RIVALS = ("torch", "safetensors", "mergekit==0.1.5", "sd-mecha==1.1.8")
_ASK = """import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))"""


def cache_folder() -> Path:
    """Return where the pair and the rivals are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "submerge-bench"


def rivals(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return the rivals' interpreter and their versions, installing them if needed.

    Raises:
        RuntimeError: they cannot be installed.
    """
    python = folder / "bin" / "python"
    if (versions := _versions(python)) is None:
        uv = shutil.which("uv")
        made = [uv, "venv", "--quiet", "--clear"] if uv else [sys.executable, "-m", "venv"]
        install = [uv, "pip", "install", "--quiet", "--python", str(python)] if uv else None
        _run([*made, str(folder)])
        _run([*(install or [str(python), "-m", "pip", "install", "--quiet"]), *RIVALS])
        versions = _versions(python)
    if versions is None:
        raise RuntimeError(f"{folder}: installed, but not {' '.join(RIVALS)}")
    return python, versions


def _versions(python: Path) -> dict[str, str] | None:
    names = [name.partition("==")[0] for name in RIVALS]
    try:
        done = subprocess.run(
            [python, "-c", _ASK, *names], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    versions: dict[str, str] = json.loads(done.stdout)
    wanted = dict(name.split("==") for name in RIVALS if "==" in name)
    return versions if versions.items() >= wanted.items() else None


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip().splitlines()[-1:]}")


def machine(work: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    from submerge.run import build_info

    return {
        "processor": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "filesystem": _filesystem(work),
        "python": platform.python_version(),
        "submerge": {k: build_info()[k] for k in ("version", "numerics", "profile")},
    }


def _line(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _filesystem(folder: Path) -> str | None:
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    here = folder.resolve()
    fields = [line.split() for line in mounts]
    holding = [f for f in fields if here.is_relative_to(f[1])]
    return max(holding, key=lambda f: len(f[1]))[2] if holding else None
