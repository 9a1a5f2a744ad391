"""Run a model: load it within a memory budget, paint with it.

```python
import submerge as sm

with sm.load_model("merged/", memory_budget="12GB") as model:
    print(model.plan.describe())
    images = sm.run_inference(model, ["a fox in snow"], {"steps": 4, "seed": 0})
    images[0].save("fox.png")
```

Needs the extra `submerge[diffusers]`; planning alone does not.
"""

from __future__ import annotations

from submerge.inference.activations import Work
from submerge.inference.images import GeneratedImage, InferenceResult, read_metadata
from submerge.inference.loading import LoadedModel, check_loading, load_model, plan_loading
from submerge.inference.options import InferenceOptions, InferenceOptionsDict
from submerge.inference.planner import LoadPlan, Machine, Sizes, plan_load
from submerge.inference.running import run_inference

__all__ = [
    "GeneratedImage",
    "InferenceOptions",
    "InferenceOptionsDict",
    "InferenceResult",
    "LoadPlan",
    "LoadedModel",
    "Machine",
    "Sizes",
    "Work",
    "check_loading",
    "load_model",
    "plan_load",
    "plan_loading",
    "read_metadata",
    "run_inference",
]
