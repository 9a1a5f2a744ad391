"""Pictures small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import RecipeError, SubmergeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Thumbnail", "thumbnails"]

# Longest side and quality, from what looks best to what is smallest.
_SIZES = ((512, 82), (448, 78), (384, 76), (320, 72), (256, 68), (192, 60), (128, 50), (96, 40))
# So many pictures tell how large the others will be.
_TRIED = 12


class Thumbnail(NamedTuple):
    """A picture as a `data:` address, and its size in pixels."""

    address: str
    width: int
    height: int


def thumbnails(paths: Iterable[Path], budget: int) -> Mapping[Path, Thumbnail]:
    """Return every picture as WebP, as large as the budget lets all of them be.

    Args:
        paths: of the pictures.
        budget: the most characters that all addresses together may take.

    Raises:
        RecipeError: a file is no picture; the smallest that can be shown do not fit the budget.
        SubmergeError: Pillow is not installed.
    """
    wanted = sorted(set(paths))
    if not wanted:
        return {}
    for step, (side, quality) in enumerate(_SIZES):
        last = step == len(_SIZES) - 1
        tried = {
            path: _encoded(path, side, quality) for path in wanted[:: max(1, len(wanted) // _TRIED)]
        }
        expected = sum(map(_characters, tried.values())) / len(tried) * len(wanted)
        if expected > budget and not last:
            continue
        made = {path: tried.get(path) or _encoded(path, side, quality) for path in wanted}
        if sum(map(_characters, made.values())) <= budget:
            return made
    raise RecipeError(
        f"images: {len(wanted):,} pictures do not fit in {budget:,} bytes",
        hint="report on fewer prompts or seeds",
    )


def _characters(thumbnail: Thumbnail) -> int:
    return len(thumbnail.address)


def _encoded(path: Path, side: int, quality: int) -> Thumbnail:
    image_module = _pillow()
    try:
        with image_module.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, image_module.DecompressionBombError) as error:
        raise RecipeError(f"{path}: expected a picture, got {error}") from None
    picture.thumbnail((side, side), image_module.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, method=2)
    code = base64.b64encode(file.getvalue()).decode()
    return Thumbnail(f"data:image/webp;base64,{code}", *picture.size)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise SubmergeError(
            "images: Pillow is not installed, which makes pictures smaller",
            hint="pip install 'submerge[diffusers]'",
        ) from None
    return Image
