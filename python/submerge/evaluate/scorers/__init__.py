"""Scorers: what gives an image a number, with the weights each needs and the formula it uses."""

from __future__ import annotations

from submerge.evaluate.scorers.base import Scorer
from submerge.evaluate.scorers.catalogue import scorers_of

__all__ = ["Scorer", "scorers_of"]
