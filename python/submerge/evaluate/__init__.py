"""Judge a merge beside its parents, on the same prompts, seeds and start latents.

```python
import submerge as sm

found = sm.evaluate_guidance("merged/", parents=["schnell/", "krea/"], output="judged/")
print(found.table())
```

Needs the extra `submerge[evaluate]`. Importing this package imports neither torch nor diffusers.
"""

from __future__ import annotations

from submerge.evaluate.evaluation import Evaluation
from submerge.evaluate.options import EvaluateOptions, EvaluateOptionsDict
from submerge.evaluate.prompts import Prompt, battery, read_prompts
from submerge.evaluate.run import EvaluateArguments, evaluate_guidance
from submerge.evaluate.scorers import Scorer, scorers_of

__all__ = [
    "EvaluateArguments",
    "EvaluateOptions",
    "EvaluateOptionsDict",
    "Evaluation",
    "Prompt",
    "Scorer",
    "battery",
    "evaluate_guidance",
    "read_prompts",
    "scorers_of",
]
