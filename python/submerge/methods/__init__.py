"""Merge methods: one frozen dataclass each, and the only place where their defaults live.

A method is written `{name: {parameter: value}}`, or `name` alone. Adding one takes a dataclass in
the module of its family, whose field types say how its parameters are read, and its name in
`registry`; the errors, the JSON Schema, the table of methods and its page follow.

Ratios are shares of the SECOND model: `alpha: 0.3` means `0.7 * first + 0.3 * second`.
"""

from submerge.methods.base import (
    Blend,
    Method,
    Setting,
    Weights,
    copied,
    number_in_words,
    weighted_sum,
    weighted_words,
)
from submerge.methods.parse import METHOD, parse_method, plain_method
from submerge.methods.registry import METHODS
from submerge.methods.weighted import AddDifference, Linear, Take, notes_on

__all__ = [
    "METHOD",
    "METHODS",
    "AddDifference",
    "Blend",
    "Linear",
    "Method",
    "Setting",
    "Take",
    "Weights",
    "copied",
    "notes_on",
    "number_in_words",
    "parse_method",
    "plain_method",
    "weighted_sum",
    "weighted_words",
]
