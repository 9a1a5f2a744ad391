"""A merge as a model before it is a file: tensors on demand, none written.

```python
import submerge as sm

with sm.open("schnell/", "krea/", alpha=0.3, layout="diffusers") as view:
    weight = view["transformer_blocks.0.attn.to_q.weight"]
    more = view.with_(alpha=0.4)
    print(more.changed(view))
```

The same plan and kernels as `merge`: the bytes are those of the file. Code written for
`safetensors.safe_open` takes a view as it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from submerge.files import expanded
from submerge.merge import MergedModel, named, single_model_recipe
from submerge.recipe import Recipe
from submerge.recipe.saved import is_checkpoint
from submerge.run import RunArguments, RunOptions
from submerge.view.mapping import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from submerge.view.mapping import Framework

__all__ = ["OpenArguments", "View", "open"]


class OpenArguments(RunArguments, total=False):
    """Further keywords of `submerge.open`.

    Attributes:
        alpha: share of the second model.
        adapters: LoRAs and others, as a recipe's field has them.
        layout: `diffusers`, `bfl`, `comfy`, or `same` as the recipe says.
        dtype: a number format, or `same` as the recipe says.
    """

    alpha: float
    adapters: Sequence[str | Mapping[str, Any]]
    layout: str
    dtype: str


def open(  # noqa: A001 - it is called `submerge.open`
    what: str | os.PathLike[str] | Mapping[str, Any] | Recipe | MergedModel,
    other: str | os.PathLike[str] | None = None,
    *,
    framework: Framework = "np",
    device: str = "cpu",
    **how: Unpack[OpenArguments],
) -> View:
    """Open a merge, or a checkpoint as it is, as a mapping of names to arrays; nothing is written.

    Args:
        what: a recipe (a file, its text, a dict), or a model that submerge reads.
        other: a second model, to be merged with the first.
        framework: `np` for numpy arrays, `pt` for torch tensors. bf16 and fp8 in numpy need the
            package ml_dtypes, or `dtype="f32"`.
        device: where torch tensors are given.
        **how: see `OpenArguments`, and how to run, see `RunOptions`.

    Raises:
        RecipeError, CheckpointError, LayoutError, AdapterError: as `submerge.plan`.
        SubmergeError: the framework is not installed.
        OSError: a file cannot be read.
    """
    asked: dict[str, Any] = dict(how)
    fields: dict[str, Any] = {
        name: asked.pop(name) for name in ("alpha", "adapters", "layout", "dtype") if name in asked
    }
    options = RunOptions.of(asked)
    recipe = _recipe(what, other, fields)
    path = None
    if other is None and isinstance(what, str | os.PathLike) and not _is_text(what):
        path = expanded(what)
    return View(recipe, framework=framework, device=device, options=options, path=path)


def _recipe(what: Any, other: Any, fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe that is meant."""
    if isinstance(what, MergedModel):
        what = what.path
    if other is not None:
        data: dict[str, Any] = {"models": named([what, other])}
    elif _is_model(what):
        data = single_model_recipe(what).to_dict()
    else:
        data = Recipe.load(what).to_dict()
    if "alpha" in fields:
        for name in ("method", "weight", "take"):
            data.pop(name, None)
        data["alpha"] = fields["alpha"]
    output = data.get("output", {}) | {
        k: fields[k] for k in ("layout", "dtype") if fields.get(k, "same") != "same"
    }
    data = (
        {**data, "output": output} if output else {k: v for k, v in data.items() if k != "output"}
    )
    return Recipe.load(data).with_adapters(fields.get("adapters", ()))


def _is_model(what: object) -> bool:
    """Tell whether a path is a model's."""
    if not isinstance(what, str | os.PathLike) or _is_text(what):
        return False
    return is_checkpoint(expanded(what))


def _is_text(what: object) -> bool:
    """Tell a recipe itself from a path: it has a line break, or begins with a brace."""
    return isinstance(what, str) and ("\n" in what or what.lstrip().startswith("{"))
