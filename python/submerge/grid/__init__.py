"""Grids of images over a recipe's numbers, seeds, steps and guidance: the model is loaded once.

```python
import submerge as sm

made = sm.grid(
    "recipe.yaml",
    ["a fox in snow"],
    x={"alpha": [0.0, 0.25, 0.5]},
    y="set:single[*].mlp=0.2..0.8,0.5",
    output="grid",
)
print(made.page)  # grid/index.html
```

From one merge to the next only the tensors that differ are made anew, in place. A second run into
the same folder paints only what is missing.
"""

from __future__ import annotations

from submerge.grid.made import Grid
from submerge.grid.run import GridArguments, grid

__all__ = ["Grid", "GridArguments", "grid"]
