"""The suite is collected where Python lacks what only POSIX has: it skips, and is no error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
NAMES = {
    "os": (
        *("chown", "fork", "geteuid", "getuid", "mkfifo", "sched_getaffinity", "seteuid"),
        *("setgid", "setuid", "statvfs", "wait4", "posix_fallocate", "killpg", "getpgid"),
    ),
    "signal": ("SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGXFSZ", "setitimer"),
}

# Plugins and what they use are loaded as on this system; the tests are not.
PLUGIN = f"""
import os, signal, sys

def pytest_collection():
    for name in {MODULES!r}:
        sys.modules[name] = None
    for module, names in {NAMES!r}.items():
        for name in names:
            if hasattr(sys.modules[module], name):
                delattr(sys.modules[module], name)
"""


@pytest.mark.serial  # it takes a while, and every core
def test_the_suite_is_collected_without_what_only_posix_has(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(PLUGIN, encoding="utf-8")
    here = Path(__file__).parent
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pytest\n"
        "options = ['--quiet', '--collect-only', '-p', 'elsewhere', '-p', 'no:cacheprovider']\n"
        f"sys.exit(pytest.main([*options, '-p', 'no:xdist', {str(here)!r}]))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
