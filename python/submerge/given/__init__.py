"""The reader of everything users write: recipes, methods, options, prompts, workloads, sidecars.

What may be written is declared once, as the fields of a `Record`: a frozen dataclass whose types
say how each field is read. From that follow the reading, errors that name every field that is wrong
(`recipe.rules[2].method.slerp.alpha: expected ...`) and the nearest name there is, and the JSON
Schema. Nothing is converted, numbers that are not finite are refused.
"""

from submerge.given.faults import Faults, inside, keyed, meant, one_of, shown
from submerge.given.kinds import (
    ANY,
    PATH,
    SIZE,
    Count,
    Definitions,
    Filled,
    Kind,
    Seed,
    choice,
    hinted,
    kind_of,
    listed,
    made,
    mapping,
    named,
    number,
    ranged,
    shared,
    size,
    whole,
)
from submerge.given.records import Declared, Options, Record, declare, declared, plain
from submerge.given.schema import schema_of
from submerge.given.text import (
    DOCUMENT,
    PROMPTS,
    Bounds,
    dump_yaml,
    load_document,
    load_file,
    load_json,
    load_text,
    plain_copy,
    read_document,
    read_text,
)

__all__ = [
    "ANY",
    "DOCUMENT",
    "PATH",
    "PROMPTS",
    "SIZE",
    "Bounds",
    "Count",
    "Declared",
    "Definitions",
    "Faults",
    "Filled",
    "Kind",
    "Options",
    "Record",
    "Seed",
    "choice",
    "declare",
    "declared",
    "dump_yaml",
    "hinted",
    "inside",
    "keyed",
    "kind_of",
    "listed",
    "load_document",
    "load_file",
    "load_json",
    "load_text",
    "made",
    "mapping",
    "meant",
    "named",
    "number",
    "one_of",
    "plain",
    "plain_copy",
    "ranged",
    "read_document",
    "read_text",
    "schema_of",
    "shared",
    "shown",
    "size",
    "whole",
]
