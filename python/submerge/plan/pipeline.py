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
from typing import TYPE_CHECKING, Literal, NamedTuple

from submerge.checkpoint import read_header
from submerge.checkpoint.components import (
    INDEX,
    Component,
    Pipeline,
    is_index,
    is_weights,
    variant_of,
)
from submerge.checkpoint.files import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, read_object
from submerge.checkpoint.names import is_safetensors
from submerge.errors import CheckpointError, RecipeError, listing, quoted
from submerge.files import expanded
from submerge.plan.form import Copy, Text
from submerge.plan.labels import label
from submerge.plan.licence import is_licence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.layout import Model
    from submerge.recipe import Output

__all__ = ["Giver", "Taken", "files_of", "giver_of", "take_over"]

_CLASS = "FluxTransformer2DModel"
# `model.fp16.safetensors` and `model.safetensors.index.fp16.json` are variants, these are not.
_PLAIN = re.compile(r"[^.]+\.safetensors(?:\.index\.json)?")
# Written anew for every output folder.
_OWN = ("README.md", "NOTICE")


class Taken(NamedTuple):
    """What stands around the transformer: files taken over, the index, and remarks."""

    copies: tuple[Copy, ...] = ()
    texts: tuple[Text, ...] = ()
    notes: tuple[str, ...] = ()


class Giver(NamedTuple):
    """A pipeline that components are taken from, and what the recipe or its path calls it."""

    name: str
    pipeline: Pipeline


def take_over(wanted: Output, models: Mapping[str, Model], *, guidance: bool) -> Taken:
    """Return what an output pipeline takes from others; a remark on it where none is asked for.

    `guidance` is whether the merged transformer has it, which the scheduler should suit.

    Raises:
        RecipeError: a model or folder that is no pipeline.
        CheckpointError: a pipeline that is damaged, incomplete or of another kind.
    """
    if wanted.pipeline_from is None:
        return Taken(notes=tuple(_left_behind(models)))
    base = giver_of(wanted.pipeline_from, models, "pipeline_from")
    other = wanted.scheduler_from
    scheduler = base if other is None else giver_of(other, models, "scheduler_from")
    listed = base.pipeline.listed
    index = {key: value for key, value in listed.items() if key != "_name_or_path"}
    copies: list[Copy] = []
    texts: list[Text] = []
    notes = [_scheduler_note(scheduler, guidance=guidance)]
    left = [n for n in base.pipeline.beside if not is_licence(n) and n not in _OWN]
    for name in _components(base):
        source = scheduler if name == "scheduler" else base
        index[name] = source.pipeline.listed.get(name, index[name])
        found = files_of(source.pipeline.component(name), wanted.link)
        copies += found.copies
        texts += found.texts
        left += found.left
        notes += found.notes
    if left:
        notes.append(f"not taken over from {quoted(base.name)}: {listing(left, noun='item')}")
    text = json.dumps(index, indent=2) + "\n"
    return Taken(tuple(copies), (*texts, Text(INDEX, text)), tuple(notes))


def _left_behind(models: Mapping[str, Model]) -> list[str]:
    """Say what of a pipeline that was named as a model is in no output of a transformer alone."""
    for name, model in models.items():
        checkpoint = model.checkpoint
        if checkpoint.form == "pipeline" and checkpoint.pipeline is not None:
            rest = [n for n in Pipeline.open(checkpoint.pipeline).names if n != "transformer"]
            without = ", ".join(map(quoted, rest))
            note = f"the transformer alone is written, without {without} of the pipeline "
            return [f"{note}{quoted(name)}; `pipeline_from: {name}` takes them over"]
    return []


def giver_of(
    name: str, models: Mapping[str, Model], field: Literal["pipeline_from", "scheduler_from"]
) -> Giver:
    """Return the pipeline that a field of the output names.

    Raises:
        RecipeError: a model or folder that is no pipeline.
        CheckpointError: its index is damaged, or of another kind of model.
    """
    folder = models[name].checkpoint.pipeline if name in models else expanded(name)
    where = f"recipe.output.{field}"
    if folder is None or not (folder / INDEX).is_file():
        raise RecipeError(
            f"{where}: {quoted(name)} is not part of a diffusers pipeline, expected a folder with "
            f"`{INDEX}`",
            hint="name another model, or the folder of a pipeline as `./folder`",
        )
    pipeline = Pipeline.open(folder)
    if pipeline.listed.get("transformer") != ["diffusers", _CLASS]:
        raise CheckpointError(
            f"{folder / INDEX}: the transformer is {pipeline.listed.get('transformer')!r}, "
            f"expected ['diffusers', '{_CLASS}']",
            hint="take the pipeline of a FLUX.1 model",
        )
    return Giver(name if name in models else label(name), pipeline)


def _components(giver: Giver) -> list[str]:
    return [name for name in giver.pipeline.names if name != "transformer"]


class _Files(NamedTuple):
    """The files of a component: what is copied, what is written anew, what is left, remarks."""

    copies: list[Copy]
    texts: list[Text]
    left: list[str]
    notes: list[str]


def files_of(component: Component, link: Literal["auto", "link", "reflink", "copy"]) -> _Files:
    """Return which files of a component to take over; weights in other forms are left.

    Where there is only a variant (`model.fp16.safetensors`), it takes the plain name: the pipeline
    must open without being asked for it, as its transformer does.

    Raises:
        CheckpointError: a damaged file, or a shard less.
        OSError: a file that cannot be read.
    """
    files = [Path(file) for file in component.files]
    has_plain = any(_PLAIN.fullmatch(file.name) and file.suffix != ".json" for file in files)
    variants = {found[0] for file in files if (found := variant_of(file.name)) is not None}
    chosen = None if has_plain else min(variants, default=None)
    made = _Files([], [], [f"{component.name}/{name}" for name in component.litter], [])
    if chosen is not None:
        made.notes.append(
            f"{component.name}: its variant {quoted(chosen)} is taken over under the plain name"
        )
    for file in files:
        numbers, listing_shards = is_weights(file.name), is_index(file.name)
        variant = variant_of(file.name)
        wanted = _PLAIN.fullmatch(file.name) is not None if has_plain else chosen is None
        if variant is not None and variant[0] == chosen:
            wanted = True
        if (numbers or listing_shards) and not wanted:
            made.left.append(f"{component.name}/{file.as_posix()}")
            continue
        path = component.folder / file
        name = file if chosen is None or variant is None else file.with_name(variant[1])
        inside = f"{component.name}/{name.as_posix()}"
        if listing_shards:
            component.check_shards(file.as_posix())
            if name != file:
                made.texts.append(Text(inside, _renamed(path)))
                continue
        elif is_safetensors(file.name):
            read_header(path)
        # A hub cache holds links; a hard link must be to the file itself.
        real = Path(os.path.realpath(path))
        made.copies.append(Copy.of(inside, real, link if numbers else "copy"))
    return made


def _renamed(path: Path) -> str:
    """Return an index whose shards go by their plain names."""
    index = read_object(path, MAX_INDEX_BYTES)
    shards = {tensor: str(shard) for tensor, shard in index["weight_map"].items()}
    plain = {shard: (variant_of(shard) or ("", shard))[1] for shard in shards.values()}
    index["weight_map"] = {tensor: plain[shard] for tensor, shard in shards.items()}
    return json.dumps(index, indent=2) + "\n"


def _scheduler_note(giver: Giver, *, guidance: bool) -> str:
    """Return which scheduler was taken, and whether it suits a model with or without guidance."""
    if "scheduler" not in _components(giver):
        return f"scheduler: {quoted(giver.name)} has none"
    path = giver.pipeline.folder / "scheduler" / "scheduler_config.json"
    config = read_object(path, MAX_CONFIG_BYTES) if path.is_file() else {}
    dynamic = config.get("use_dynamic_shifting") is True
    kind = "dynamic" if dynamic else "static"
    shift = config.get("shift", "unknown")
    note = f"scheduler: that of {quoted(giver.name)}, shift {shift}, {kind} shifting"
    if dynamic == guidance:
        return note
    suited = "dynamic" if guidance else "static"
    model = "with" if guidance else "without"
    return f"{note}; models {model} guidance were trained for {suited} shifting"
