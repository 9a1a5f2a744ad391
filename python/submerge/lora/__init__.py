"""Verbs about adapters themselves: what a file holds, and a model with adapters fused in."""

from submerge.lora.bake import bake
from submerge.lora.info import AdapterInfo, info

__all__ = ["AdapterInfo", "bake", "info"]
