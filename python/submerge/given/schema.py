"""JSON Schemas for editors and other tools, from what the fields of records declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from submerge.given.kinds import Definitions
    from submerge.given.records import Record

__all__ = ["schema_of"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(record: type[Record], title: str) -> dict[str, Any]:
    """Return the schema of a record; what several fields take is written once and referred to."""
    definitions: Definitions = {}
    schema = record.json_schema(definitions)
    return {
        "$schema": _DIALECT,
        "title": title,
        **schema,
        "$defs": dict(sorted(definitions.items())),
    }
