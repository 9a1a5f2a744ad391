"""What the core's sources say when they refuse: one text for each place that makes an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["reached", "texts"]

# A defect of the core itself has no test: it cannot be reached.
_MAKES = (
    r"Error::(?:plan|checkpoint)\(\s*(?:format!\(\s*)?",
    r"Error::io\([^\"]*?,\s*",
    r"Err\(\s*(?:format!\(\s*)?",
    r"let what\s*=\s*(?:format!\(\s*)?",
)
_TEXT = re.compile(rf'(?:{"|".join(_MAKES)})"((?:[^"\\]|\\.|\\\n)*)"', re.DOTALL)


def texts(folder: Path) -> dict[str, str]:
    """Return `{"io/sink.rs:41": "{}: cannot ..."}` for every text outside of tests."""
    found = {}
    for path in sorted(folder.rglob("*.rs")):
        name = path.relative_to(folder).as_posix()
        if name.endswith("tests.rs") or "/tests/" in name:
            continue
        source = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests {")[0]
        for match in _TEXT.finditer(source):
            text = re.sub(r"\\\n\s*", "", match[1]).replace('\\"', '"')
            if "Error::internal(" not in source[max(0, match.start() - 60) : match.end()]:
                line = source.count("\n", 0, match.start(1)) + 1
                found[f"{name}:{line}"] = text
    return found


def reached(found: dict[str, str], messages: Iterable[str], tests: str) -> set[str]:
    """Return the places whose text some message has, or whose longest words some test names."""
    all_messages = "\n".join(messages)
    return {
        place
        for place, text in found.items()
        if _pattern(text).search(all_messages) or _words(text) in tests
    }


def _pieces(text: str) -> list[str]:
    return [piece.replace("{{", "{") for piece in re.split(r"\{[^{}]*\}", text)]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, _pieces(text))))


def _words(text: str) -> str:
    """The longest piece of a text that is the same in every message made of it."""
    longest = max(_pieces(text), key=len).strip(" ,:`")
    return longest if len(longest) > 10 else "\0"
