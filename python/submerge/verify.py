"""Whether a model on disk is sound: structure, config, finite numbers, the recipe's bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import open_checkpoint
from submerge.errors import CheckpointError, PlanError, counted
from submerge.layout import Model, identify
from submerge.merge import plan, single_model_recipe
from submerge.report import rows_of
from submerge.run import RunArguments, RunOptions, execute

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Unpack

    from submerge.recipe import Recipe

__all__ = ["Check", "Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: its name, whether it is right, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        path: the model.
        checks: what was looked at, in order.
    """

    path: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raise `CheckpointError` naming the checks that did not pass, if there are any."""
        if failed := [f"{check.name}: {check.found}" for check in self.checks if not check.passed]:
            raise CheckpointError(f"{self.path}: {'; '.join(failed)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data, ready for JSON."""
        checks = [{"name": c.name, "passed": c.passed, "found": c.found} for c in self.checks]
        return {"path": str(self.path), "passed": self.passed, "checks": checks}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the findings as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def text(self) -> str:
        """Return a line for each check."""
        return "\n".join(
            f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}"
            for check in self.checks
        )


def verify(
    path: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None = None,
    layout: str = "auto",
    **run: Unpack[RunArguments],
) -> Verification:
    """Check a model: its structure, its config, that every number is finite.

    A damaged file raises; what is sound but wrong is a check that did not pass.

    Args:
        path: a checkpoint file or folder.
        recipe: recompute the model from it and compare byte for byte.
        layout: what to expect: `auto`, `diffusers`, `bfl`, `comfy` or `generic`.
        **run: how to run, see `RunOptions`.

    Raises:
        CheckpointError, LayoutError: the model is damaged, or none that submerge knows; a config
            that contradicts the weights is among the latter.
        RecipeError, Cancelled, OSError: as `merge`.
    """
    options = RunOptions.of(run).with_(stats=True)
    model = identify(open_checkpoint(path), layout=layout)
    checks = [_structure(model), _config(model), _finite(model, options)]
    if recipe is not None:
        checks.append(_recomputed(Path(path), recipe, options))
    return Verification(Path(path), tuple(checks))


def _structure(model: Model) -> Check:
    """Opening and identifying are strict: a model that got this far is complete."""
    checkpoint = model.checkpoint
    found = (
        f"{model.variant}, layout {model.layout}, {counted(len(checkpoint.tensors), 'tensor')} "
        f"in {counted(len(checkpoint.files), 'file')}"
    )
    return Check("structure", not checkpoint.warnings, "; ".join([found, *checkpoint.warnings]))


def _config(model: Model) -> Check:
    """Compare the config with the weights on the one point that decides how a model loads."""
    config = model.checkpoint.config
    if config is None:
        return Check("config", True, "none beside the weights")
    guidance = config.get("guidance_embeds", False)
    weights = "with" if model.arch.guidance else "without"
    return Check(
        "config",
        guidance == model.arch.guidance,
        f"guidance_embeds {json.dumps(guidance)}, weights {weights} guidance embedder",
    )


def _finite(model: Model, options: RunOptions) -> Check:
    recipe = single_model_recipe(model.checkpoint.path, layout=_layout(model))
    # Nothing is written: the target only has to be somewhere else than the input.
    made = plan(recipe, model.checkpoint.path.with_name("measured.safetensors"))
    rows = rows_of(made, execute(made, options, "measure"))
    bad = [row for row in rows if row.nonfinite_out]
    elements = sum(row.elements for row in rows)
    if not bad:
        return Check("finite", True, f"{elements:,} elements, all finite")
    worst = max(bad, key=lambda row: row.nonfinite_out)
    total = sum(row.nonfinite_out for row in bad)
    return Check(
        "finite",
        False,
        f"{total:,} of {elements:,} elements are infinite or NaN, "
        f"{worst.nonfinite_out:,} of them in {' '.join(dict.fromkeys((worst.block, worst.part)))}",
    )


def _layout(model: Model) -> str:
    return "generic" if model.layout == "generic" else "auto"


def _recomputed(
    path: Path, recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe, options: RunOptions
) -> Check:
    made = plan(recipe, path)
    try:
        figures = execute(made, options.with_(stats=False), "check")
    except PlanError as error:
        return Check("recipe", False, error.message)
    return Check(
        "recipe",
        True,
        f"{figures['bytes_read']:,} bytes recomputed, every byte of the output equal",
    )
