"""Run one command and write what it took: `launch.py RESULT SECONDS -- COMMAND...`.

A process of its own, started without site packages: Linux counts the memory of whoever starts a
program into that program's peak, and the bench itself holds far more than what it measures.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    result, limit, _, *command = sys.argv[1:]
    begun = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    late = threading.Timer(float(limit), os.kill, (child, 9))
    late.daemon = True
    late.start()
    _, status, used = os.wait4(child, 0)
    wall = time.monotonic() - begun
    late.cancel()
    figures = {
        "code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "user": used.ru_utime,
        "system": used.ru_stime,
        "rss": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    Path(result).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
