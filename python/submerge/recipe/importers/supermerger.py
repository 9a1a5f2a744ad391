"""Block weight vectors of supermerger: 61 numbers for FLUX.1, each the share of model B.

The order is that of supermerger's `BLOCKIDFLUX`: CLIP, T5, IN, D00..D18, S00..S37, OUT. Its "weight
sum" is `(1 - alpha) * A + alpha * B`, so its numbers are submerge's `alpha` as they stand.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from submerge.errors import RecipeError, quoted
from submerge.recipe.importers.preset import DOUBLE, GROUPS, SINGLE, Imported, to_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["import_vector"]

_LENGTH = 3 + DOUBLE + SINGLE + 1
_ELSEWHERE = {20: "SDXL", 26: "Stable Diffusion 1 and 2", 110: "SDXL (long form)"}
_NUMBER = re.compile(r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,2})?")


def import_vector(text: str, name: str, models: Mapping[str, str]) -> Imported:
    """Read 61 numbers parted by commas; a preset's name before a tab or a colon is allowed.

    Args:
        text: the vector.
        name: what stands for the text in errors.
        models: paths of A and B by the names they get in the recipe, in this order.

    Raises:
        RecipeError: other than 61 numbers, a letter for a random number, other than two models.
    """
    if len(models) != 2:
        raise RecipeError(
            f"{name}: a vector merges model A with model B, expected two, got {len(models)}"
        )
    items = [item.strip() for item in _numbers(text).strip().strip(",").split(",")]
    if len(items) != _LENGTH:
        other = _ELSEWHERE.get(len(items))
        raise RecipeError(
            f"{name}: a FLUX.1 vector, expected {_LENGTH} numbers, got {len(items)}",
            hint=f"this is a vector for {other}"
            if other
            else "the order is CLIP, T5, IN, D00..D18, S00..S37, OUT",
        )
    clip, t5, embedders, *rest = [_number(item, f"{name}[{i}]") for i, item in enumerate(items)]
    first, second = models
    shares = dict(zip(GROUPS[5:], rest, strict=True)) | dict.fromkeys(GROUPS[:5], embedders)
    form = {group: {first: 1 - share, second: share} for group, share in shares.items()}
    return Imported(
        to_recipe(dict(models), form), _notes(first, second, shares["double[0]"], (clip, t5))
    )


def _numbers(text: str) -> str:
    """Return a preset line without its name, which a tab or a colon parts from the numbers."""
    colon = min((at for at in map(text.find, "\t:") if at >= 0), default=0)
    name = text[:colon]
    is_name = "," not in name and any(c.isascii() and (c.isalpha() or c == "_") for c in name)
    return text[colon + 1 :] if is_name else text


def _number(item: str, where: str) -> Fraction:
    if not _NUMBER.fullmatch(item):
        raise RecipeError(
            f"{where}: expected a number, got {quoted(item)}",
            hint="letters stand for random numbers in supermerger; write the numbers it drew",
        )
    return Fraction(item)


def _notes(
    first: str, second: str, share: Fraction, encoders: tuple[Fraction, Fraction]
) -> list[str]:
    clip, t5 = encoders
    direction = (
        "direction: supermerger's numbers are the share of model B, as `alpha` is: D00 = "
        f"{float(share):g} is {float(1 - share):g} * {first} + {float(share):g} * {second}"
    )
    mode = (
        "read as mode `weight sum` with calculation mode `normal`; elemental rules, `adjust` and "
        "beta are not part of a vector"
    )
    embedders = "IN covers img_in, txt_in, time_in, vector_in and guidance_in"
    norms = (
        f"supermerger leaves the query and key norms (`*.scale`) at {first}'s; here they follow "
        f"their block. For its way add the rule `{{where: '**.norm', take: {first}}}`"
    )
    guidance = (
        f"where only one model has a guidance embedder, supermerger's result has it if {first} "
        "has; here `guidance` decides (`keep` unless changed)"
    )
    notes = [direction, mode, embedders, norms, guidance]
    if clip or t5:
        notes.append(
            f"not carried over: CLIP = {float(clip):g} and T5 = {float(t5):g}; text encoders are "
            "not merged. Name the model to keep them from with `extras`"
        )
    return notes
