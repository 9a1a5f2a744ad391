"""A whole diffusers pipeline around the merged transformer: which files are taken over from where.

Text encoders, tokenizers and VAE are the same in every FLUX.1 model, so they come from one parent
as they are. The scheduler is a choice: schnell's has a fixed shift of 1, that of dev and Krea
shifts with the resolution. Only names, sizes and two small JSON files are read here.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.checkpoint.files import MAX_CONFIG_BYTES, read_object
from submerge.errors import CheckpointError, RecipeError, listing, quoted
from submerge.plan.form import Copy, Text
from submerge.plan.provenance import label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.layout import Model
    from submerge.recipe import Output

__all__ = ["Taken", "take_over"]

_INDEX = "model_index.json"
_CLASS = "FluxTransformer2DModel"
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pt", ".pth")
# `model.fp16.safetensors` and `model.safetensors.index.fp16.json` are variants, these are not.
_PLAIN = re.compile(r"[^.]+\.safetensors(?:\.index\.json)?")
_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Taken(NamedTuple):
    """What stands around the transformer: files taken over, the index, and remarks."""

    copies: tuple[Copy, ...] = ()
    texts: tuple[Text, ...] = ()
    notes: tuple[str, ...] = ()


class _Pipeline(NamedTuple):
    name: str
    folder: Path
    listed: dict[str, Any]

    def component(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: is missing, expected the folder of a component that `{_INDEX}` names",
                hint="download the whole pipeline",
            )
        return folder


def take_over(wanted: Output, models: Mapping[str, Model], *, guidance: bool) -> Taken:
    """Return what an output pipeline takes from others; nothing unless one is asked for.

    `guidance` is whether the merged transformer has it, which the scheduler should suit.

    Raises:
        RecipeError: a model or folder that is no pipeline.
        CheckpointError: a pipeline that is damaged, incomplete or of another kind.
    """
    if wanted.pipeline_from is None:
        return Taken()
    base = _open(wanted.pipeline_from, models, "pipeline_from")
    other = wanted.scheduler_from
    scheduler = base if other is None else _open(other, models, "scheduler_from")
    index = {key: value for key, value in base.listed.items() if key != "_name_or_path"}
    copies: list[Copy] = []
    left: list[str] = []
    for name in _components(base):
        source = scheduler if name == "scheduler" else base
        index[name] = source.listed.get(name, index[name])
        found, skipped = _files(source.component(name), name, wanted.link)
        copies += found
        left += skipped
    notes = [_scheduler_note(scheduler, guidance=guidance)]
    if left:
        notes.append(f"not taken over from {quoted(base.name)}: {listing(left, noun='file')}")
    text = json.dumps(index, indent=2) + "\n"
    return Taken(tuple(copies), (Text(_INDEX, text),), tuple(notes))


def _open(name: str, models: Mapping[str, Model], field: str) -> _Pipeline:
    folder = models[name].checkpoint.pipeline if name in models else Path(name)
    where = f"recipe.output.{field}"
    if folder is None or not (folder / _INDEX).is_file():
        raise RecipeError(
            f"{where}: {quoted(name)} is not part of a diffusers pipeline, expected a folder with "
            f"`{_INDEX}`",
            hint="name another model, or the folder of a pipeline as `./folder`",
        )
    index = read_object(folder / _INDEX, MAX_CONFIG_BYTES)
    if index.get("transformer") != ["diffusers", _CLASS]:
        raise CheckpointError(
            f"{folder / _INDEX}: the transformer is {index.get('transformer')!r}, expected "
            f"['diffusers', '{_CLASS}']",
            hint="take the pipeline of a FLUX.1 model",
        )
    return _Pipeline(name if name in models else label(name), folder, index)


def _components(pipeline: _Pipeline) -> list[str]:
    """Return the components to take over; the index comes from a stranger."""
    names = []
    for name, value in pipeline.listed.items():
        is_component = isinstance(value, list) and len(value) == 2 and None not in value
        if name.startswith("_") or name == "transformer" or not is_component:
            continue
        if not _COMPONENT.fullmatch(name):
            raise CheckpointError(
                f"{pipeline.folder / _INDEX}: the component {quoted(name)} is no plain name",
                hint="do not use pipelines from untrusted sources",
            )
        names.append(name)
    return names


def _files(
    folder: Path, name: str, link: Literal["auto", "link", "reflink", "copy"]
) -> tuple[list[Copy], list[str]]:
    """Return the files of a component to take over, and those to leave: weights in other forms."""
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(base, f) for f in sorted(files) if not f.startswith(".")]
    has_plain = any(_PLAIN.fullmatch(path.name) and path.suffix != ".json" for path in found)
    copies, left = [], []
    for path in found:
        inside = f"{name}/{path.relative_to(folder).as_posix()}"
        is_weights = path.suffix.lower() in _WEIGHTS or ".safetensors.index." in path.name
        is_weights = is_weights or path.name.endswith(".bin.index.json")
        if is_weights and has_plain and not _PLAIN.fullmatch(path.name):
            left.append(inside)
            continue
        how = link if path.suffix.lower() in _WEIGHTS else "copy"
        # A hub cache holds links; a hard link must be to the file itself.
        real = Path(os.path.realpath(path))
        copies.append(Copy(inside, real, how, real.stat().st_size))
    return copies, left


def _scheduler_note(pipeline: _Pipeline, *, guidance: bool) -> str:
    """Return which scheduler was taken, and whether it suits a model with or without guidance."""
    if "scheduler" not in _components(pipeline):
        return f"scheduler: {quoted(pipeline.name)} has none"
    path = pipeline.component("scheduler") / "scheduler_config.json"
    config = read_object(path, MAX_CONFIG_BYTES) if path.is_file() else {}
    dynamic = config.get("use_dynamic_shifting") is True
    kind = "dynamic" if dynamic else "static"
    shift = config.get("shift", "unknown")
    note = f"scheduler: that of {quoted(pipeline.name)}, shift {shift}, {kind} shifting"
    if dynamic == guidance:
        return note
    suited = "dynamic" if guidance else "static"
    model = "with" if guidance else "without"
    return f"{note}; models {model} guidance were trained for {suited} shifting"
