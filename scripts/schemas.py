"""Write the JSON Schemas of the documents into docs/schemas/.

python scripts/schemas.py
"""

from __future__ import annotations

from pathlib import Path

from submerge.documents import DOCUMENTS, published

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


def main() -> None:
    """Write a file for each kind of document."""
    FOLDER.mkdir(exist_ok=True)
    for kind in DOCUMENTS:
        (FOLDER / f"{kind}.schema.json").write_text(published(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
