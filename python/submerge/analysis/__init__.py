"""Look before the leap: how two models differ, where, and what recipe that suggests.

`analyze` reads the models once, in constant memory, and writes nothing; `suggest` turns what it
found into a recipe whose comments say on what evidence.
"""

from __future__ import annotations

from submerge.analysis.advice import Suggestion, suggest
from submerge.analysis.compare import Analysis, analyze

__all__ = ["Analysis", "Suggestion", "analyze", "suggest"]
