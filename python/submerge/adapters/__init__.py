"""Adapters: what their files hold, and what each does to which unit of a model.

Formats are tables: `keys` says how a module is named and what each of its tensors is, the layouts'
own tables say which units the module stacks. Nothing here merges; `Resolved.deltas` are formulas
over rows of the adapter's tensors, which a plan turns into terms.
"""

from submerge.adapters.adapter import Adapter, Module, is_adapter, open_adapter
from submerge.adapters.deltas import (
    Delta,
    Difference,
    Factors,
    Hadamard,
    Kronecker,
    Magnitude,
    Multiplied,
    Product,
    Replacement,
    Span,
    spans,
)
from submerge.adapters.encoders import Part, part_for
from submerge.adapters.places import Target, format_of, in_words, targets_of
from submerge.adapters.resolve import F32_MAX, Compat, Resolved, resolve

__all__ = [
    "F32_MAX",
    "Adapter",
    "Compat",
    "Delta",
    "Difference",
    "Factors",
    "Hadamard",
    "Kronecker",
    "Magnitude",
    "Module",
    "Multiplied",
    "Part",
    "Product",
    "Replacement",
    "Resolved",
    "Span",
    "Target",
    "format_of",
    "in_words",
    "is_adapter",
    "open_adapter",
    "part_for",
    "resolve",
    "spans",
    "targets_of",
]
