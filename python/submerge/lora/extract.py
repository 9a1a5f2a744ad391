"""What one model has beyond another, as an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.lora.asked import split
from submerge.lora.report import MadeAdapter
from submerge.merge import named, plan
from submerge.recipe import Recipe
from submerge.run import execute

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Unpack

    from submerge.lora.asked import Asked

__all__ = ["extract", "extracted_recipe"]


def extract(
    tuned: str | os.PathLike[str],
    base: str | os.PathLike[str],
    output: str | os.PathLike[str],
    **asked: Unpack[Asked],
) -> MadeAdapter:
    """Write what `tuned` has beyond `base` as an adapter of low rank.

    Of every matrix the best factors of the difference in f32, by randomised power iteration (Halko,
    Martinsson and Tropp 2011, arXiv:0909.4061); biases as exact differences. Added to `base` with
    scale 1 it gives `tuned`, but for the residual.

    Args:
        tuned: a checkpoint file or folder.
        base: the model it was trained from, of the same architecture.
        output: the `.safetensors` file to write.
        **asked: `rank`, `energy` (at most rank 512, unless a rank is given) or both, `form` and
            `dtype` (`bf16` by default), see `Asked`; and how to run, which decides no byte.

    Raises:
        RecipeError: neither rank nor energy, or out of range.
        LayoutError: models of different architectures.
        PlanError: the models are equal, or hold values that are not finite.
        CheckpointError, Cancelled, OSError: as `merge`.
    """
    wanted, options = split(asked)
    made = plan(extracted_recipe(tuned, base, wanted), output)
    return MadeAdapter.of(made, execute(made, options, "write"))


def extracted_recipe(
    tuned: str | os.PathLike[str], base: str | os.PathLike[str], wanted: Mapping[str, Any]
) -> Recipe:
    """Return the recipe that takes one model whole and writes it as an adapter onto the other."""
    models = named([tuned, base])
    taken, onto = models
    adapter = {"onto": onto, **wanted}
    output = {"dtype": adapter.pop("dtype", "bf16"), "adapter": adapter}
    return Recipe.load({"models": models, "take": taken, "output": output})
