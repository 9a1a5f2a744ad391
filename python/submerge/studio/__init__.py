"""The studio: a page on this machine for the whole work, from two files to a saved merge.

```python
from submerge.studio import Settings, serve

serve(Settings(roots=("models/",), file="studio.sqlite"))
```

A server on the loopback address and a page without a framework. What the page shows is made by the
verbs of this package; what it keeps is recipes, in one SQLite file. Needs the extra
`submerge[studio]`; nothing below this package knows of it.
"""

from __future__ import annotations

from submerge.studio.server import Settings, serve

__all__ = ["Settings", "serve"]
