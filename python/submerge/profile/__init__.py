"""Where time and memory go: samples of the process's memory, and named spans of time.

```python
import submerge
from submerge.profile import span

with submerge.profile() as p:
    with span("denoise", prompt=0):
        ...
print(p.peak["rss"], p.average["anonymous"])
p.save("trace.json")  # opens in https://ui.perfetto.dev or chrome://tracing
```

The memory measured is the process's, so every span of every thread belongs to every profile that is
running; without one, `span` does nothing. Merging marks its spans `open`, `compute` and `commit`.
"""

from __future__ import annotations

from submerge.profile.environment import environment
from submerge.profile.memory import KINDS, Reading, read
from submerge.profile.profiler import Profile, Sample, profile
from submerge.profile.spans import Span, record, span

__all__ = [
    "KINDS",
    "Profile",
    "Reading",
    "Sample",
    "Span",
    "environment",
    "profile",
    "read",
    "record",
    "span",
]
