"""Verbs about adapters themselves: what a file holds, and a model with adapters fused in."""

from submerge.lora.bake import bake
from submerge.lora.combine import convert, merge, resize
from submerge.lora.extract import extract
from submerge.lora.info import AdapterInfo, info
from submerge.lora.report import MadeAdapter, MadeModule

__all__ = [
    "AdapterInfo",
    "MadeAdapter",
    "MadeModule",
    "bake",
    "convert",
    "extract",
    "info",
    "merge",
    "resize",
]
