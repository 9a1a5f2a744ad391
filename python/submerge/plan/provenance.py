"""What an output's files say of themselves: format, ModelSpec, the recipe, its inputs.

The bytes of a file are a function of the recipe and of the input tensors. So nothing here depends
on where the inputs lie, on times, inodes, the sharding or the layout of their files, nor on the
clock:

- a model is identified by the canonical names, dtypes and shapes of its units, not of its files;
- a path in the recipe is reduced to a label: the hub id where the path tells it, else the name of
  the file or folder that is the model's own, without `.safetensors`, `transformer/` and the like.
  `a.safetensors`, `a/` and `/models/a/transformer/` are all `a`;
- there is no date and no hash of the contents, which would have to be known before writing.

The one thing taken from inputs' metadata is their licence.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from submerge.plan.labels import label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.adapters import Adapter
    from submerge.layout import Architecture, Model
    from submerge.plan.adapted import Fused
    from submerge.plan.licence import Licence
    from submerge.recipe import Recipe

__all__ = ["identity", "metadata", "public_recipe", "recipe_json"]


def public_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's normal form with every path reduced to its label."""
    data = recipe.to_dict()
    for name, source in data["models"].items():
        if isinstance(source, str):
            data["models"][name] = label(source)
        else:
            source["path"] = label(source["path"])
    for at, source in enumerate(data.get("adapters", ())):
        fields = {"path": source} if isinstance(source, str) else source
        public = {**fields, "path": label(fields["path"])}
        data["adapters"][at] = public["path"] if isinstance(source, str) else public
    output = data.get("output", {})
    for field in ("pipeline_from", "scheduler_from"):
        if field in output and output[field] not in data["models"]:
            output[field] = label(output[field])
    return data


def recipe_json(public: Mapping[str, Any]) -> str:
    """Return the text `submerge.recipe` holds; the order of models and selectors has a meaning."""
    return json.dumps(public, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def identity(model: Model) -> dict[str, Any]:
    """Return what a model is like without reading its tensors: how many, how large, which shapes.

    `names_and_shapes_sha256` is that of the lines `unit dtype rows shape-of-a-row`, sorted by unit.
    Where it is equal, names, dtypes and shapes are, not the numbers.
    """
    tensors = model.checkpoint.tensors
    lines, size = [], 0
    for unit, info in sorted(model.units.items()):
        tensor = tensors[info.place.tensor]
        trailing = tensor.shape[1:]
        lines.append(f"{unit} {info.dtype} {info.rows} {'x'.join(map(str, trailing))}\n")
        size += tensor.stored(info.rows)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"units": len(lines), "bytes": size, "names_and_shapes_sha256": digest}


def _identity_of(adapter: Adapter) -> dict[str, Any]:
    """Return what an adapter's file is like, as `identity` does of a model, by tensor."""
    tensors = adapter.checkpoint.tensors
    lines = [f"{n} {i.dtype} {'x'.join(map(str, i.shape))}\n" for n, i in sorted(tensors.items())]
    return {
        "tensors": len(lines),
        "bytes": sum(info.nbytes for info in tensors.values()),
        "names_and_shapes_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
    }


def metadata(
    public: Mapping[str, Any],
    models: Mapping[str, Model],
    arch: Architecture,
    words: Mapping[str, str],
    licence: Licence,
    adapters: Sequence[Fused] = (),
) -> dict[str, str]:
    """Return the metadata of every weight file.

    `words` are the title, the description, the layout, the parents, and the suffix that the
    architecture of an adapter has, `/lora`. ModelSpec 1.0.1 (Stability-AI/ModelSpec) only where
    the architecture is known, since it must be named.
    """
    from submerge import _core

    build = json.loads(_core.build_info())
    labels = {name: _path_label(public["models"][name]) for name in models}
    inputs = [{"name": n, "model": labels[n], **identity(m)} for n, m in models.items()]
    inputs += [
        {"name": fused.name, "adapter": label(fused.source.path), **_identity_of(fused.adapter)}
        for fused in adapters
    ]
    text = recipe_json(public)
    found = {
        "format": "pt",
        "submerge.version": str(build["version"]),
        "submerge.numerics": str(build["numerics"]),
        "submerge.recipe": text,
        "submerge.recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "submerge.inputs": json.dumps(inputs, separators=(",", ":")),
        "submerge.license": licence.text,
    }
    if arch.family == "flux1":
        found |= _modelspec(arch, words, licence)
    return found


def _modelspec(arch: Architecture, words: Mapping[str, str], licence: Licence) -> dict[str, str]:
    implementation = "https://github.com/black-forest-labs/flux"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        # The ids sd-scripts writes; guidance alone decides how a loader runs the model.
        "modelspec.architecture": ("flux-1-dev" if arch.guidance else "flux-1-schnell")
        + words["suffix"],
        "modelspec.implementation": "diffusers"
        if words["layout"] == "diffusers"
        else implementation,
        "modelspec.title": words["title"],
        "modelspec.description": words["description"],
        "modelspec.resolution": "1024x1024",
        "modelspec.license": licence.text,
        "modelspec.merged_from": words["parents"],
        "modelspec.tags": "merge, submerge, flux" if ", " in words["parents"] else "submerge, flux",
    }


def _path_label(source: Any) -> str:
    return str(source if isinstance(source, str) else source["path"])
