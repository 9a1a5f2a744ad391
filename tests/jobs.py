"""Jobs that take a while, in this process and in others, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import factory
from factory import Flux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Large units and few blocks; the files hold no data and take no room. The narrower ones are for
# jobs that run to their end.
WIDE = Flux(1, 1, 3072, 128, 4096, 768, guidance=True)
NARROWER = Flux(1, 1, 1536, 128, 4096, 768, guidance=True)
# Seconds in which a job has stopped. Promised are 0.25; a busy machine must not fail a test.
GENEROUS = 1.0


@dataclass
class Scene:
    """Two sparse models, of a gigabyte each if wide, and an empty folder for the output."""

    root: Path
    flux: Flux = WIDE
    models: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.models = {
            name: str(factory.save_sparse(self.root / f"{name}.safetensors", self.flux))
            for name in ("schnell", "krea")
        }
        self.folder.mkdir()

    @property
    def folder(self) -> Path:
        return self.root / "out"

    @property
    def output(self) -> Path:
        return self.folder / "merged.safetensors"

    def left(self) -> list[str]:
        """Everything in the folder of the output, hidden names too."""
        return names(self.folder)

    def recipe(self) -> dict[str, object]:
        return {"models": self.models, "alpha": 0.3}

    def command(self, *options: str) -> list[str]:
        """The merge as a command line, slow enough to be met in the middle."""
        models = list(self.models.values())
        slow = ["--threads", "1", "--isa", "scalar", "--quiet"]
        return [
            *(sys.executable, "-m", "submerge", "merge", *models, "-o", str(self.output)),
            *(*slow, *options),
        ]


def names(folder: Path | str) -> list[str]:
    """Everything in a folder, hidden names too."""
    return sorted(path.name for path in Path(folder).iterdir())


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def written(pid: int) -> int:
    """Bytes a process has written so far."""
    text = Path(f"/proc/{pid}/io").read_text()
    return int(text.partition("wchar: ")[2].split()[0])


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that will happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def run_python(code: str, *arguments: object) -> dict[str, object]:
    """Run code in an interpreter of its own; its last line of output is JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A filesystem of its own in `folder`."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user to whom something can be refused, which nothing is to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
