"""A process whose file operations fail, kill or stop it where it is told to.

Run as a program under `faults.c`: it reads one JSON object a line, merges in a process of its own,
and answers with one JSON object a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Faulty:
    """The program, as a test speaks to it."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler")
        library = folder / "faults.so"
        flags = ["-O1", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([compiler, *flags, str(HERE / "faults.c"), "-ldl"], check=True)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"LD_PRELOAD": str(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def merge(self, recipe: object, output: Path, **more: Any) -> dict[str, Any]:
        """Merge; `at`: which operation, `act`: what happens, `only`: of which kind, `plain`.

        Returns `ok` and `notes`, or `error`, or neither if the process was killed; and `count`.
        """
        pid = self.start(recipe, output, **more)
        assert pid
        return self.answer()

    def start(self, recipe: object, output: Path, **more: Any) -> int:
        """The number of the process that merges."""
        assert self._process.stdin is not None
        asked = {"recipe": recipe, "output": str(output), **more}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return int(self.answer()["pid"])

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def merge(asked: dict[str, Any], faults: ctypes.CDLL) -> dict[str, Any]:
    import submerge

    under = str(Path(asked["output"]).parent).encode()
    only, plain = asked.get("only", "").encode(), int(asked.get("plain", False))
    faults.faults(under, only, asked.get("at", -1), asked.get("act", 0), plain)
    run: Any = {"overwrite": asked.get("overwrite", False), "statistics_cache": "off"}
    try:
        report = submerge.merge(asked["recipe"], asked["output"], threads=1, **run)
        answer = {"ok": True, "notes": report.remarks}
    except (submerge.SubmergeError, OSError) as error:
        notes = getattr(error, "__notes__", [])
        answer = {"error": "\n".join([str(error), *notes])}
    count = faults.faults_counted()
    faults.faults(b"", b"", -1, 0, 0)
    return answer | {"count": count}


def main() -> None:
    import submerge.merge  # noqa: F401 - once, and not in every process

    faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for line in sys.stdin:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, json.dumps(merge(json.loads(line), faults)).encode())
            os._exit(0)
        os.close(theirs)
        print(json.dumps({"pid": child}), flush=True)
        with os.fdopen(ours) as pipe:
            print(pipe.read() or "{}", flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
