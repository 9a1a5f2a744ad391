"""Paint images again and compare them bit by bit with those that lie there.

```python
import submerge as sm

found = sm.reproduce("tested/evaluation.json")
print(found.text())
assert found.identical
```

Every image says in its metadata what decides it: prompt, seed, options, dtype and the model's
fingerprint. Where the pixels differ, what changed in the environment is the first place to look.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge import documents
from submerge.documents import EvaluationDocument
from submerge.errors import CheckpointError, RecipeError, counted, listing, quoted
from submerge.files import path_of
from submerge.inference import load_model, read_metadata, run_inference
from submerge.inference.images import opened
from submerge.profile import environment
from submerge.run import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from submerge.documents import ImageDocument, ReproductionDocument
    from submerge.documents.painting import PaintedModel, ReproducedImage
    from submerge.inference import LoadedModel

__all__ = ["Reproduction", "reproduce"]

# Options whose values an image's metadata names but does not hold.
_NOT_RECORDED = ("controlnet", "ip_adapter", "more")
# Facts of an environment that decide no pixel.
_HARMLESS = ("memory",)


class _Asked(NamedTuple):
    """An image to paint again."""

    path: Path
    metadata: ImageDocument

    @property
    def options(self) -> dict[str, Any]:
        """What it was painted with, beside prompt and seed."""
        return dict(self.metadata["options"])


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of painting images again.

    Attributes:
        images: `{path, model, prompt, seed, pixels, different, max, mean}`: how many pixels there
            are and how many differ, the largest difference of a channel and the mean over all of
            them, of 255. An image that came out in another size has None for all but `pixels`.
        changed: what is not as it was: fact to what it was and what it is.
    """

    images: Sequence[ReproducedImage]
    changed: Mapping[str, tuple[Any, Any]]

    @property
    def identical(self) -> bool:
        """Whether every image has every pixel as it was."""
        return all(image["different"] == 0 for image in self.images)

    def to_dict(self) -> ReproductionDocument:
        """Return everything as plain data, ready for JSON."""
        return {
            "format": "submerge-reproduction/1",
            "identical": self.identical,
            "images": list(self.images),
            "changed": {name: {"was": was, "is": now} for name, (was, now) in self.changed.items()},
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return everything as JSON."""
        return documents.text(self.to_dict(), indent=indent)

    def text(self) -> str:
        """Return the outcome in words: a line for each image that differs, then what changed."""
        differing = [image for image in self.images if image["different"] != 0]
        same = len(self.images) - len(differing)
        lines = [f"{same} of {counted(len(self.images), 'image')} identical, bit by bit"]
        lines += map(_line, differing)
        if self.changed:
            lines.append("not as it was:")
        lines += [f"  {name}: {was}, now {now}" for name, (was, now) in self.changed.items()]
        return "\n".join(lines)


def _line(image: ReproducedImage) -> str:
    if image["different"] is None:
        return f"  {image['path']}: another size"
    share = image["different"] / image["pixels"]
    return (
        f"  {image['path']}: {image['different']:,} of {image['pixels']:,} pixels differ"
        f" ({share:.2%}), by at most {image['max']} of 255, by {image['mean']:.3g} in the mean"
    )


def reproduce(
    report: str | os.PathLike[str],
    *,
    models: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None = None,
    load: Mapping[str, Any] | None = None,
    limit: int | None = None,
    output: str | os.PathLike[str] | None = None,
    notify: Callable[[str], object] | None = None,
) -> Reproduction:
    """Paint the images of an evaluation, or one image, again and compare.

    Args:
        report: `evaluation.json` or its folder, or a PNG that submerge painted.
        models: where models lie, by name or for all of them; needed for a PNG, and for an
            evaluation whose models have moved.
        load: keywords of `load_model`; the dtype is the recorded one.
        limit: paint no more than this many images of each model.
        output: a folder for the new images; by default they are compared and forgotten.
        notify: told in words what is being done.

    Raises:
        RecipeError: a model's place is not known, or an image records too little to be repeated.
        CheckpointError: an image is not one that submerge painted, or not the one recorded.
        SubmergeError: as `load_model`.
        OSError: a file cannot be read or written.
    """
    path = path_of(report, "report")
    path = path / "evaluation.json" if path.is_dir() else path
    single = path.suffix.lower() == ".png"
    recorded = None if single else documents.read(EvaluationDocument, path)
    asked = {"image": [_asked(path)]} if recorded is None else _of(recorded, path.parent, limit)
    places = _places(asked, recorded, models)
    images: list[ReproducedImage] = []
    changed: dict[str, tuple[Any, Any]] = {}
    facts: dict[str, Any] = {}
    for name, wanted in asked.items():
        if notify is not None:
            notify(f"{name}: painting {counted(len(wanted), 'image')} again")
        with _loaded(places[name], wanted[0].metadata["model"], load or {}) as model:
            changed |= _other_model(name, wanted, model)
            batch = recorded["options"].get("batch") if recorded else None
            folder = None if output is None else path_of(output, "output") / name
            images += [
                _compared(one, again, _relative(one.path, path.parent), name)
                for one, again in _repeated(model, wanted, batch or 1, folder)
            ]
            facts = environment(device=str(model.device), dtype=model.plan.dtype)
    return Reproduction(images, changed | _changes(recorded, facts))


def _asked(path: Path, sha256: str | None = None) -> _Asked:
    """Return what an image says of itself.

    Raises:
        CheckpointError: its bytes are not those recorded.
        RecipeError: it names options whose values it does not hold.
    """
    metadata = read_metadata(path)
    if sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise CheckpointError(
                f"{path}: expected the sha256 {sha256[:16]}…, got {found[:16]}…",
                hint="the image is not the one that was evaluated",
            )
    if missing := [name for name in _NOT_RECORDED if metadata["options"].get(name)]:
        raise RecipeError(
            f"{path}: painted with {listing(missing, noun='option')}, whose values it does not"
            " hold; expected one that can be repeated"
        )
    return _Asked(path, metadata)


def _of(recorded: EvaluationDocument, folder: Path, limit: int | None) -> dict[str, list[_Asked]]:
    """Return the images of each model, in the order they were painted."""
    found: dict[str, list[_Asked]] = {}
    for image in recorded["images"]:
        if image["path"] is None:
            raise RecipeError("images: expected those of an evaluation that was saved, got no path")
        wanted = found.setdefault(image["model"], [])
        if limit is None or len(wanted) < limit:
            wanted.append(_asked(documents.beside(folder, image["path"]), image["sha256"]))
    if not found:
        raise RecipeError("images: expected at least one image in the evaluation, got none")
    return found


def _places(
    asked: Iterable[str],
    recorded: EvaluationDocument | None,
    models: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None,
) -> dict[str, str]:
    """Return where each model lies: as given, else as recorded."""
    known = {model["name"]: model["path"] for model in recorded["models"]} if recorded else {}
    names = list(asked)
    if models is None or not hasattr(models, "items"):
        given = {} if models is None else dict.fromkeys(names, str(models))
    else:
        given = {str(name): str(path) for name, path in models.items()}
        if unknown := [name for name in given if name not in names]:
            raise RecipeError(
                f"models: expected {', '.join(map(quoted, names))}, got {quoted(unknown[0])}"
            )
    places = known | given
    if missing := [name for name in names if name not in places]:
        raise RecipeError(
            f"models: expected the place of {listing(missing, noun='model')}, got none",
            hint="an image does not record where its model lies: name it",
        )
    return places


def _loaded(place: str, painted: PaintedModel, load: Mapping[str, Any]) -> LoadedModel:
    """Load a model as it was loaded: in the same dtype, its layers quantised alike."""
    known = {"dtype": painted["dtype"], "quantization": painted.get("quantization")}
    return load_model(place, **{**known, **load})


def _repeated(
    model: LoadedModel, wanted: Sequence[_Asked], batch: int, output: Path | None
) -> Iterable[tuple[_Asked, Any]]:
    """Paint again, whole runs of prompts and seeds at once; yield each with its new picture."""
    for options, group in itertools.groupby(wanted, key=lambda one: one.options):
        asked = list(group)
        prompts = list(dict.fromkeys(one.metadata["prompt"] for one in asked))
        seeds = tuple(dict.fromkeys(one.metadata["seed"] for one in asked))
        pairs = [(one.metadata["prompt"], one.metadata["seed"]) for one in asked]
        whole = pairs == list(itertools.product(prompts, seeds))
        runs = [(prompts, seeds)] if whole else [([prompt], (seed,)) for prompt, seed in pairs]
        how = options | {"batch": batch}
        made = [
            image
            for texts, numbers in runs
            for image in run_inference(model, texts, how | {"seeds": numbers})
        ]
        for one, image in zip(asked, made, strict=True):
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                image.save(output / one.path.name)
            yield one, image.image


def _compared(one: _Asked, again: Any, path: str, name: str) -> ReproducedImage:
    """Return how an image differs from what was painted now."""
    import numpy as np

    with opened(one.path) as file:
        was = np.asarray(file.convert("RGB"), dtype=np.int16)
    now = np.asarray(again.convert("RGB"), dtype=np.int16)
    same = was.shape == now.shape
    gap = np.abs(was - now) if same else None
    return {
        "path": path,
        "model": name,
        "prompt": one.metadata["prompt"],
        "seed": one.metadata["seed"],
        "pixels": was.shape[0] * was.shape[1],
        "different": None if gap is None else int(np.count_nonzero(gap.any(axis=2))),
        "max": None if gap is None else int(gap.max()),
        "mean": None if gap is None else float(gap.mean()),
    }


def _other_model(
    name: str, wanted: Sequence[_Asked], model: LoadedModel
) -> dict[str, tuple[Any, Any]]:
    """Return what of the model and of submerge is not as the images record it."""
    metadata = wanted[0].metadata
    recorded = metadata["model"]
    return _differing(
        {
            "submerge": (metadata["version"], __version__),
            f"fingerprint of {name}": (recorded["fingerprint"], model.parts.fingerprint()),
            f"dtype of {name}": (recorded["dtype"], model.plan.dtype),
            f"quantization of {name}": (
                recorded.get("quantization"),
                model.plan.chosen.quantization,
            ),
        }
    )


def _changes(
    recorded: EvaluationDocument | None, now: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the facts of the environment that are not as recorded."""
    was = recorded["environment"] if recorded else {}
    names = [name for name in dict.fromkeys([*was, *now]) if name not in _HARMLESS] if was else []
    return _differing({name: (was.get(name), now.get(name)) for name in names})


def _differing(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
