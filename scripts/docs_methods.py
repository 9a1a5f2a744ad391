"""Writes docs/methods.md from the methods themselves: `python scripts/docs_methods.py`."""

from __future__ import annotations

from pathlib import Path

from submerge.methods.catalogue import catalogue

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
MARK = "<!-- from the methods: scripts/docs_methods.py writes what follows -->\n"


def page(text: str) -> str:
    """Return the page with all behind the mark made anew."""
    intro, mark, _ = text.partition(MARK)
    return f"{intro}{mark}\n{catalogue().page()}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
