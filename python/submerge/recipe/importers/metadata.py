"""Recipes that tools leave in the header of what they have merged.

- `submerge.recipe`: submerge's own, with the names of its models and no paths;
- `mecha_recipe`: sd-mecha's text;
- `sd_merge_recipe` and `sd_merge_models`: JSON of AUTOMATIC1111's checkpoint merger (type `webui`)
  and of supermerger. The first names its models by SHA-256, the second has a name for each.
- `prompt` or `workflow`: ComfyUI's graph.

AUTOMATIC1111's multiplier M is the share of the second model, as `alpha` is:

    Weighted sum        (1 - M) A + M B
    Add difference      A + M (B - C)
    No interpolation    A
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from submerge.errors import RecipeError, counted, listing, nearest, quoted
from submerge.given import load_json, mapping, number, shown
from submerge.recipe.importers.comfy import import_workflow
from submerge.recipe.importers.mecha import import_mecha
from submerge.recipe.importers.preset import Imported, model_names
from submerge.recipe.importers.supermerger import import_vector
from submerge.recipe.model import Recipe
from submerge.recipe.saved import KEY

__all__ = ["import_metadata", "looks_like_metadata"]

_ROLES = ("A", "B", "C")
_WEBUI = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
_SUPERMERGER = ("model_a", "model_b", "model_c")
_METHODS = {"No interpolation": 1, "Weighted sum": 2, "Add difference": 3}
_MODES = {"Weight sum": "Weighted sum", "Add difference": "Add difference"}
_KEYS = (KEY, "mecha_recipe", "sd_merge_recipe", "prompt", "workflow")


def looks_like_metadata(data: object) -> bool:
    """Tell whether decoded JSON is such metadata, or AUTOMATIC1111's recipe alone."""
    return isinstance(data, Mapping) and bool(
        {"mecha_recipe", "sd_merge_recipe", "interp_method", "calcmode"} & set(data)
    )


def import_metadata(
    metadata: Mapping[str, Any],
    name: str,
    models: Mapping[str, str] | None = None,
    node: str | None = None,
) -> Imported:
    """Read the recipe in a checkpoint's metadata.

    Args:
        metadata: the header's `__metadata__`, or AUTOMATIC1111's recipe itself.
        name: what stands for it in errors.
        models: paths of the models by the names they get, in the order A, B, C; None for the names
            in the metadata. Not for sd-mecha and ComfyUI, which name files.
        node: of sd-mecha's and ComfyUI's graphs, which node is the result.

    Raises:
        RecipeError: there is none, or one that cannot be expressed.
    """
    metadata = mapping(metadata, name)
    if "interp_method" in metadata or "calcmode" in metadata:
        metadata = {"sd_merge_recipe": metadata}
    graph = next((key for key in _KEYS if metadata.get(key)), None)
    if graph is None:
        expected = ", ".join(map(quoted, _KEYS))
        raise RecipeError(f"{name}: no recipe in its metadata, expected one of {expected}")
    if graph == KEY:
        return _own(load_json(str(metadata[KEY]), f"{name}: {quoted(KEY)}"), models)
    if graph == "sd_merge_recipe":
        if node is not None:
            raise RecipeError(f"{name}: `sd_merge_recipe` has no nodes, expected no `node`")
        return _Merger(metadata, name, models).read()
    if models is not None:
        raise RecipeError(f"{name}: `{graph}` names its models itself, expected no `models`")
    where, text = f"{name}: `{graph}`", str(metadata[graph])
    if graph == "mecha_recipe":
        return import_mecha(text, where, node)
    return import_workflow(load_json(text, where), where, node)


def _own(data: Any, models: Mapping[str, str] | None) -> Imported:
    """Read submerge's own recipe; `models` are the paths of its models, in their order."""
    recipe = Recipe.load(data)
    adapters = [source.path for source in recipe.adapters]
    unknown = [listing(adapters, noun="adapter")] if adapters else []
    if models is None:
        unknown.insert(0, listing([s.path for s in recipe.models.values()], noun="model"))
    remarks = [f"an output says no paths: put those of {' and '.join(unknown)} in"]
    if models is None:
        return Imported(recipe, remarks)
    if len(models) != len(recipe.models):
        raise RecipeError(
            f"models: the recipe has {counted(len(recipe.models), 'model')}, expected a path for "
            f"each, got {len(models)}"
        )
    written = recipe.to_dict()
    for (name, source), path in zip(written["models"].items(), models.values(), strict=True):
        fields = {} if isinstance(source, str) else source
        written["models"][name] = {**fields, "path": path}
    return Imported(Recipe.load(written), remarks if adapters else [])


class _Merger:
    """Reads `sd_merge_recipe` with the names of its models."""

    def __init__(
        self, metadata: Mapping[str, Any], name: str, models: Mapping[str, str] | None
    ) -> None:
        self.name = name
        self.models = models
        self.recipe = self._json(metadata["sd_merge_recipe"], "sd_merge_recipe")
        self.known = self._json(metadata.get("sd_merge_models") or {}, "sd_merge_models")
        self.notes: list[str] = []

    def read(self) -> Imported:
        kind = self.recipe.get("type", "webui" if "interp_method" in self.recipe else None)
        if kind == "webui":
            return self._webui()
        if kind == "sd-webui-supermerger" or (kind is None and "calcmode" in self.recipe):
            return self._supermerger()
        raise RecipeError(
            f"{self.name}: `sd_merge_recipe.type`, expected `webui` or `sd-webui-supermerger`, "
            f"got {shown(kind)}"
        )

    def _webui(self) -> Imported:
        method = self.recipe.get("interp_method")
        if method not in _METHODS:
            self._unknown("interp_method", method, _METHODS)
        for field in ("is_inpainting", "is_instruct_pix2pix"):
            if self.recipe.get(field):
                raise RecipeError(
                    f"{self.name}: `{field}`: a model with more input channels, expected models of "
                    "one shape"
                )
        for field in ("bake_in_vae", "discard_weights"):
            if self.recipe.get(field) not in (None, "", "None", False):
                self.notes.append(
                    f"not carried over: `{field}` = {quoted(str(self.recipe[field]))}"
                )
        dtype = {"output": {"dtype": "f16"}} if self.recipe.get("save_as_half") else {}
        return self._merged(str(method), "multiplier", _WEBUI, dtype)

    def _supermerger(self) -> Imported:
        mode = self.recipe.get("mode")
        if mode not in _MODES:
            self._unknown("mode", mode, _MODES)
        calculation = self.recipe.get("calcmode", "normal")
        if calculation != "normal":
            raise RecipeError(
                f"{self.name}: `calcmode`, expected `normal`, got {shown(calculation)}",
                hint="`submerge methods` lists the formulas there are",
            )
        if any(self._texts(self.recipe.get("elemental_merge"))):
            raise RecipeError(f"{self.name}: `elemental_merge` has no counterpart, expected none")
        if not self.recipe.get("mbw"):
            return self._merged(_MODES[str(mode)], "base_alpha", _SUPERMERGER, {})
        if mode != "Weight sum":
            raise RecipeError(f"{self.name}: blocks with mode {shown(mode)}, expected `Weight sum`")
        weights = self.recipe.get("weights_alpha")
        items = weights if isinstance(weights, list) else str(weights).split(",")
        vector = ",".join(map(str, [self.recipe.get("base_alpha"), *items]))
        found = import_vector(vector, self.name, self._paths(_SUPERMERGER, 2))
        return Imported(found.recipe, found.notes + self.notes)

    def _merged(
        self, method: str, factor: str, fields: tuple[str, ...], also: Mapping[str, Any]
    ) -> Imported:
        paths = self._paths(fields, _METHODS[method])
        first, *others = paths
        # str() gives the shortest decimal, which is what the slider showed.
        multiplier = float(
            Fraction(str(number(self.recipe.get(factor), f"{self.name}: `{factor}`")))
        )
        data: dict[str, Any] = {"models": dict(paths), **also}
        if not others:
            return Imported(Recipe.load(data | {"take": first}), self.notes)
        if len(others) == 1:
            data["method"] = {"linear": {"alpha": multiplier}}
            said = f"{1 - multiplier:g} * {first} + {multiplier:g} * {others[0]}"
        else:
            roles = {"to": first, "plus": others[0], "minus": others[1]}
            data["method"] = {"add_difference": {"alpha": multiplier, **roles}}
            said = f"{first} + {multiplier:g} * ({others[0]} - {others[1]})"
        notes = [
            f"direction: `{factor}` belongs to model B, as `alpha` does: {said}",
            "the web UI computes in the files' own type; here arithmetic is f32",
        ]
        return Imported(Recipe.load(data), notes + self.notes)

    def _paths(self, fields: tuple[str, ...], count: int) -> dict[str, str]:
        """Return the models' paths by the names they get in the recipe."""
        if self.models is not None:
            if len(self.models) != count:
                raise RecipeError(
                    f"{self.name}: merges {count} models, expected {count} paths, "
                    f"got {len(self.models)}"
                )
            return dict(self.models)
        found = []
        for role, field in zip(_ROLES, fields[:count], strict=False):
            digest = self.recipe.get(field)
            entry = self.known.get(str(digest))
            name = entry.get("name") if isinstance(entry, dict) else None
            path = name if isinstance(name, str) and name else f"model_{role.lower()}.safetensors"
            said = f", SHA-256 {digest}" if isinstance(digest, str) and digest else ""
            self.notes.append(
                f"model {role} is {quoted(path)}{said}: put the path in its place"
                if path == name
                else f"model {role} has no name in the metadata{said}: put its path under `models`"
            )
            found.append(path)
        if len(set(found)) != len(found):
            raise RecipeError(
                f"{self.name}: {listing(found, noun='model')}, expected different ones"
            )
        return {name: path for path, name in model_names(found).items()}

    def _unknown(self, field: str, got: object, known: Mapping[str, object]) -> None:
        close = nearest(str(got), known)
        raise RecipeError(
            f"{self.name}: `{field}`, expected one of {', '.join(map(quoted, known))}, "
            f"got {shown(got)}",
            hint=f"did you mean {quoted(close[0])}?" if close else None,
        )

    def _json(self, raw: object, field: str) -> dict[str, Any]:
        found = load_json(raw, f"{self.name}: `{field}`") if isinstance(raw, str) else raw
        if not isinstance(found, Mapping):
            raise RecipeError(f"{self.name}: `{field}`, expected an object, got {shown(found)}")
        return dict(found)

    @staticmethod
    def _texts(raw: object) -> list[str]:
        items = raw if isinstance(raw, list) else [raw]
        return [str(item) for item in items if item]
