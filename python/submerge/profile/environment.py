"""What a figure or an image depends on besides its inputs: versions, hardware and settings."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from submerge import _core

__all__ = ["cores", "environment", "installed", "physical_memory"]

_PACKAGES = (
    "accelerate",
    "diffusers",
    "numpy",
    "peft",
    "pillow",
    "tokenizers",
    "torch",
    "transformers",
)


def environment(*, device: str | None = None, dtype: str | None = None) -> dict[str, Any]:
    """Return versions, hardware and settings: what to record beside a figure or an image.

    Imports nothing: what torch knows is asked only where the program has imported it.

    Args:
        device: where the model ran, `cpu` or `cuda:0`.
        dtype: the type it computed in, `bfloat16`.

    Returns:
        `submerge`, `numerics`, `python`, `system`, `cpu`, `cores` (that this process may use),
        `memory` (bytes), the version of each package installed, `device`, `dtype`, and from torch
        `device_name`, `threads` and `deterministic`. What is not known is left out.
    """
    import platform

    core = json.loads(_core.build_info())
    facts: dict[str, Any] = {
        "submerge": core["version"],
        "numerics": core["numerics"],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _processor(),
        "cores": cores(),
        "memory": physical_memory(),
        **{name: installed(name) for name in _PACKAGES},
        "device": device,
        "dtype": dtype,
        **_torch(device),
    }
    return {name: value for name, value in facts.items() if value is not None}


def installed(package: str) -> str | None:
    """Return the version of a package, or None where it is absent."""
    import importlib.metadata  # costs as much as the rest of a small merge's imports

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_memory() -> int | None:
    """Return the machine's memory in bytes, or None where the system does not tell."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _processor() -> str | None:
    """Return the processor's name, as its maker writes it."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or None


def _torch(device: str | None) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    facts = {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    kind = (device or "cpu").partition(":")[0]
    name = getattr(getattr(torch, kind, None), "get_device_name", None)
    if kind != "cpu" and name is not None:
        facts["device_name"] = name(device)
    return facts
