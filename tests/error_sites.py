"""A pytest plugin that notes from where in submerge each exception was made, and what it said.

`ERROR_SITES` in the environment names the JSON file it writes at the end. Property tests are left
out: they take long and find no kind of error that no example shows. So are the completeness tests
that use this.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge import errors

if TYPE_CHECKING:
    import pytest

PACKAGE = str(Path(errors.__file__).parent)
SITES: set[str] = set()
MESSAGES: set[str] = set()
_init = errors.SubmergeError.__init__


def _noting(self: errors.SubmergeError, message: str, **keywords: Any) -> None:
    frame = sys._getframe(1)
    name = frame.f_code.co_filename
    if name.startswith(PACKAGE):
        SITES.add(f"{Path(name).relative_to(PACKAGE).as_posix()}:{frame.f_lineno}")
    MESSAGES.add(message)
    _init(self, message, **keywords)


def pytest_configure() -> None:
    errors.SubmergeError.__init__ = _noting  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [
        item
        for item in items
        if "reached" not in getattr(item, "fixturenames", ())
        and not hasattr(getattr(item, "obj", None), "hypothesis")
    ]


def pytest_unconfigure() -> None:
    found = {"sites": sorted(SITES), "messages": sorted(MESSAGES)}
    Path(os.environ["ERROR_SITES"]).write_text(json.dumps(found), encoding="utf-8")
