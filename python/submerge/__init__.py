"""Merge FLUX checkpoints block by block, in constant memory.

```python
import submerge as sm

report = sm.merge("recipe.yaml", "merged/")
print(report.table())
```

Importing submerge imports nothing else; each name below is loaded when it is first used.
Every ratio (`alpha`) is the share of the second model.
"""

from __future__ import annotations

import sys

# What `typing` calls by this name; importing it would double the cost of importing submerge.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from submerge.analysis import Analysis, Suggestion, analyze, suggest
    from submerge.diff import Difference, diff
    from submerge.errors import (
        AdapterError,
        Cancelled,
        CheckpointError,
        InternalError,
        LayoutError,
        PlanError,
        RecipeError,
        SubmergeError,
    )
    from submerge.evaluate import (
        EvaluateOptions,
        EvaluateOptionsDict,
        Evaluation,
        Scorer,
        evaluate_guidance,
    )
    from submerge.export import export_merged_model
    from submerge.grid import Grid, grid
    from submerge.inference import (
        GeneratedImage,
        InferenceOptions,
        InferenceOptionsDict,
        InferenceResult,
        LoadedModel,
        LoadPlan,
        load_model,
        run_inference,
    )
    from submerge.inspection import Inspection, inspect
    from submerge.measure import Measurement, Workload, WorkloadDict, measure
    from submerge.merge import MergedModel, convert, merge, merge_flux_models, plan
    from submerge.plan import Plan
    from submerge.profile import Profile, profile
    from submerge.recipe import Recipe
    from submerge.report import Report
    from submerge.reproduce import Reproduction, reproduce
    from submerge.run import CancelToken, RunOptions
    from submerge.verify import Verification, verify
    from submerge.view import View, open  # noqa: A004 - never the builtin in this file

    __version__: str

# Where each public name lives.
_HOMES = {
    "AdapterError": "errors",
    "Analysis": "analysis",
    "CancelToken": "run",
    "Cancelled": "errors",
    "CheckpointError": "errors",
    "Difference": "diff",
    "EvaluateOptions": "evaluate",
    "EvaluateOptionsDict": "evaluate",
    "Evaluation": "evaluate",
    "GeneratedImage": "inference",
    "Grid": "grid",
    "InferenceOptions": "inference",
    "InferenceOptionsDict": "inference",
    "InferenceResult": "inference",
    "Inspection": "inspection",
    "InternalError": "errors",
    "LayoutError": "errors",
    "LoadPlan": "inference",
    "LoadedModel": "inference",
    "Measurement": "measure",
    "MergedModel": "merge",
    "Plan": "plan",
    "PlanError": "errors",
    "Profile": "profile",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "Report": "report",
    "Reproduction": "reproduce",
    "RunOptions": "run",
    "Scorer": "evaluate",
    "SubmergeError": "errors",
    "Suggestion": "analysis",
    "Verification": "verify",
    "View": "view",
    "Workload": "measure",
    "WorkloadDict": "measure",
    "__version__": "run",
    "analyze": "analysis",
    "convert": "merge",
    "diff": "diff",
    "evaluate_guidance": "evaluate",
    "export_merged_model": "export",
    "grid": "grid",
    "inspect": "inspection",
    "load_model": "inference",
    "measure": "measure",
    "merge": "merge",
    "merge_flux_models": "merge",
    "open": "view",
    "plan": "merge",
    "profile": "profile",
    "reproduce": "reproduce",
    "run_inference": "inference",
    "suggest": "analysis",
    "verify": "verify",
}

__all__ = [
    "AdapterError",
    "Analysis",
    "CancelToken",
    "Cancelled",
    "CheckpointError",
    "Difference",
    "EvaluateOptions",
    "EvaluateOptionsDict",
    "Evaluation",
    "GeneratedImage",
    "Grid",
    "InferenceOptions",
    "InferenceOptionsDict",
    "InferenceResult",
    "Inspection",
    "InternalError",
    "LayoutError",
    "LoadPlan",
    "LoadedModel",
    "Measurement",
    "MergedModel",
    "Plan",
    "PlanError",
    "Profile",
    "Recipe",
    "RecipeError",
    "Report",
    "Reproduction",
    "RunOptions",
    "Scorer",
    "SubmergeError",
    "Suggestion",
    "Verification",
    "View",
    "Workload",
    "WorkloadDict",
    "__version__",
    "analyze",
    "convert",
    "diff",
    "evaluate_guidance",
    "export_merged_model",
    "grid",
    "inspect",
    "load_model",
    "measure",
    "merge",
    "merge_flux_models",
    "open",
    "plan",
    "profile",
    "reproduce",
    "run_inference",
    "suggest",
    "verify",
]


class _Package(type(sys)):  # type: ignore[misc]  # the type of a module
    """Keeps the verbs callable: `submerge.merge` is the function, whoever imports the module first.

    Importing the module `submerge.merge` would otherwise bind it over the function of that name.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, type(sys))):
            super().__setattr__(name, value)


if not TYPE_CHECKING:  # a type checker that saw this would believe in every name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            msg = f"module 'submerge' has no attribute {name!r}"
            raise AttributeError(msg)
        import importlib

        value = getattr(importlib.import_module(f"submerge.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__


sys.modules[__name__].__class__ = _Package
