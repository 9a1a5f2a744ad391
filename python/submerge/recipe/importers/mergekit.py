"""mergekit's YAML as a recipe: models, base, method, parameters with gradients and filters.

What decides the result is carried over or refused; what does not is named in the notes. mergekit
spreads a list of numbers over the layers it counts itself; here it is spread over the 57 blocks of
FLUX.1. Its filters look for a part of a tensor's name; those for attention, MLP and norms become
selectors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from submerge.errors import RecipeError, listing, nearest, quoted
from submerge.given import Kind, Record, choice, kind_of, listed, number, shown
from submerge.recipe.importers.preset import DOUBLE, SINGLE, Imported, model_names
from submerge.recipe.model import Recipe

__all__ = ["import_mergekit", "looks_like_mergekit"]

# Where a parameter is called something else here.
_RENAMED = {
    "multislerp": {"normalize_weights": "normalize"},
    "model_stock": {"filter_wise": "rowwise"},
    "slerp": {"t": "alpha"},
}
# Parameters that change memory, not the result.
_IDLE = frozenset({"int8_mask"})
_LEFT = ("tokenizer", "tokenizer_source", "chat_template", "parallel", "name", "model_type")
_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_FILTERS = {
    "self_attn": "**.attn",
    "attn": "**.attn",
    "attention": "**.attn",
    "mlp": "**.mlp",
    "norm": "**.norm",
}
_KNOWN = frozenset(
    {
        "linear",
        "slerp",
        "nuslerp",
        "multislerp",
        "karcher",
        "task_arithmetic",
        "ties",
        "dare_linear",
        "dare_ties",
        "breadcrumbs",
        "breadcrumbs_ties",
        "della",
        "della_linear",
        "model_stock",
        "nearswap",
        "ram",
        "ramplus_tl",
        "sce",
        "arcee_fusion",
        "passthrough",
    }
)
# Elements are merged without figures of their tensor.
_BY_ELEMENT = ("linear", "task_arithmetic", "nearswap", "ram", "passthrough")
# The base is the first of two models here, and no base.
_FROM_BASE = ("slerp", "nearswap", "arcee_fusion")
_WITH_WEIGHTS = frozenset(
    _KNOWN - {*_FROM_BASE, "karcher", "model_stock", "ram", "ramplus_tl", "sce", "passthrough"}
)


def looks_like_mergekit(text: str) -> bool:
    """Tell whether a text has the field that every mergekit configuration has."""
    return re.search(r"^merge_method[ \t]*:", text, re.MULTILINE) is not None


def import_mergekit(data: Any, name: str) -> Imported:
    """Read a mergekit configuration, as parsed from YAML.

    Args:
        data: the mapping.
        name: what to call it in errors.

    Returns:
        The recipe, and notes on what was not carried over and which way ratios point.

    Raises:
        RecipeError: malformed, or not to be expressed: slices, modules, an unknown method or
            filter.
    """
    return _Reader(data, name).read()


def _model(raw: object, where: str) -> str:
    """Read a model's path, which may stand within `{model: {path: ...}}`."""
    if isinstance(raw, dict):
        raw = raw.get("model", raw)
        raw = raw.get("path", raw) if isinstance(raw, dict) else raw
    if not isinstance(raw, str) or not raw:
        raise RecipeError(f"{where}: expected a model, got {shown(raw)}")
    if "+" in raw:
        raise RecipeError(f"{where}: {quoted(raw)} adds an adapter to a model")
    return raw


_MODEL = Kind(_model, lambda _: {})


class _Yaml(Record):
    """Null is written for what is left out."""

    none_is_given: ClassVar[bool] = True


@dataclass(frozen=True)
class _Entry(_Yaml):
    """A model and its own parameters."""

    model: Annotated[str, _MODEL]
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Config(_Yaml):
    """A mergekit configuration that has a counterpart here."""

    merge_method: str
    models: Annotated[tuple[_Entry, ...], listed(kind_of(_Entry), least=1)]
    base_model: Annotated[str, _MODEL] | None = None
    parameters: dict[str, Any] | None = None
    dtype: Annotated[str, choice(*_DTYPES)] | None = None
    out_dtype: Annotated[str, choice(*_DTYPES)] | None = None
    # Fields that a recipe has no use for.
    tokenizer: Any = None
    tokenizer_source: Any = None
    chat_template: Any = None
    parallel: Any = None
    name: Any = None
    model_type: Any = None


class _Reader:
    def __init__(self, data: Any, name: str) -> None:
        if not isinstance(data, dict) or "merge_method" not in data:
            raise RecipeError(f"{name}: expected a mapping with `merge_method`, got {shown(data)}")
        self.name = name
        self.notes: list[str] = []
        self._refuse(data)
        self.config = _Config.parse(data, name)
        self.entries = [(entry.model, entry.parameters or {}) for entry in self.config.models]

    def read(self) -> Imported:
        method, entries, base = self.config.merge_method, self.entries, self.config.base_model
        paths = [path for path, _ in entries]
        if base is not None:
            paths = [base, *(path for path in paths if path != base)]
        names = model_names(list(dict.fromkeys(paths)))
        recipe: dict[str, Any] = {"models": {name: path for path, name in names.items()}}
        if method == "passthrough":
            recipe["take"] = self._taken(entries, names)
        else:
            recipe["method"] = {method: self._parameters(method, entries, names, base)}
            recipe["compat"] = "mergekit"
            if base is not None and method not in (*_FROM_BASE, "linear", "karcher"):
                recipe["base"] = names[base]
            if method not in _BY_ELEMENT:
                recipe["scope"] = "tensor"
        if dtype := self.config.out_dtype or self.config.dtype:
            recipe["output"] = {"dtype": _DTYPES[dtype]}
        self._say(method)
        return Imported(Recipe.load(recipe), self.notes)

    def _refuse(self, data: dict[str, Any]) -> None:
        method = str(data["merge_method"])
        if method not in _KNOWN:
            close = nearest(method, _KNOWN)
            raise RecipeError(
                f"{self.name}: merge_method {quoted(method)} has no counterpart",
                hint=f"did you mean {quoted(close[0])}?"
                if close
                else "`submerge methods` lists what there is",
            )
        for field in ("slices", "modules"):
            if field in data:
                raise RecipeError(
                    f"{self.name}.{field}: layers put together anew, expected `models`; the "
                    "blocks of a diffusion model keep their places"
                )

    def _taken(self, entries: list[tuple[str, dict[str, Any]]], names: dict[str, str]) -> str:
        if len(entries) != 1 or entries[0][1] or self.config.parameters:
            raise RecipeError(f"{self.name}: passthrough, expected one model without parameters")
        return names[entries[0][0]]

    def _parameters(
        self,
        method: str,
        entries: list[tuple[str, dict[str, Any]]],
        names: dict[str, str],
        base: str | None,
    ) -> dict[str, Any]:
        """Return the method's parameters: those of all, and those of each model by its name."""
        renamed = _RENAMED.get(method, {})
        shared = self.config.parameters or {}
        found: dict[str, Any] = {}
        for key, raw in shared.items():
            if key in _IDLE:
                self.notes.append(f"{key}: changes no result, left out")
            elif key == "weight":
                others = [path for path, _ in entries if path != base or method == "linear"]
                value = self._value(raw, "parameters.weight")
                found["weight"] = {names[path]: value for path in others}
            else:
                found[renamed.get(key, key)] = self._value(raw, f"parameters.{key}")
        for i, (path, own) in enumerate(entries):
            if path == base and method not in ("linear", "nuslerp"):
                if own:
                    self.notes.append(f"models[{i}]: the base's parameters mean nothing, left out")
                continue
            for key, raw in own.items():
                value = self._value(raw, f"models[{i}].parameters.{key}")
                beside = {names[other] for other, _ in entries} - {names.get(str(base))}
                each = found.get(key)
                if not isinstance(each, dict) or not set(each) <= beside:
                    each = found[key] = {} if each is None else dict.fromkeys(beside, each)
                each[names[path]] = value
        return self._alpha(found, entries, names) if method == "nuslerp" else found

    def _alpha(
        self,
        found: dict[str, Any],
        entries: list[tuple[str, dict[str, Any]]],
        names: dict[str, str],
    ) -> dict[str, Any]:
        """Turn the two weights of nuslerp into the second model's share."""
        flat = found.pop("nuslerp_flatten", True)
        # By this word mergekit means vectors along the first dimension: columns.
        columns = found.pop("nuslerp_row_wise", False)
        if columns and not flat:
            raise RecipeError(
                f"{self.name}.parameters.nuslerp_row_wise: vectors down the columns, expected "
                "whole tensors or rows",
                hint="with `nuslerp_flatten: false` alone mergekit's vectors are rows",
            )
        if columns:
            self.notes.append("nuslerp_row_wise: means nothing while nuslerp_flatten holds")
        if not flat:
            found["rowwise"] = True
        weights = found.pop("weight", {})
        base = self.config.base_model
        pair = [names[path] for path, _ in entries if path != base]
        shares = [weights.get(name) for name in pair]
        if len(pair) != 2 or not all(isinstance(share, float) for share in shares):
            raise RecipeError(
                f"{self.name}: nuslerp, expected two models with a number as `weight` each"
            )
        total = shares[0] + shares[1]
        found["alpha"] = shares[1] / total if abs(total) >= 1e-6 else 0.5
        return found

    def _value(self, raw: object, at: str) -> Any:
        """Return a number, a gradient, or a mapping of selectors."""
        where = f"{self.name}.{at}"
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, list) and raw and isinstance(raw[0], dict):
            return self._filtered(raw, where)
        if isinstance(raw, list):
            points = [number(item, f"{where}[{i}]") for i, item in enumerate(raw)]
            return _spread(points, where)
        if isinstance(raw, dict) and set(raw) <= {"value", "filter"}:
            return self._filtered([raw], where)
        return raw if isinstance(raw, int) and at.endswith("max_iter") else number(raw, where)

    def _filtered(self, raw: list[Any], where: str) -> Any:
        """Return what the first filter that matches says; without one it is the rest's."""
        found: dict[str, Any] = {}
        for i, entry in enumerate(raw):
            at = f"{where}[{i}]"
            if not isinstance(entry, dict) or "value" not in entry:
                raise RecipeError(f"{at}: expected {{filter, value}}, got {shown(entry)}")
            value = self._value(entry["value"], f"{at.removeprefix(self.name + '.')}.value")
            text = entry.get("filter")
            if text in (None, "*"):
                if not found:
                    return value
                found["default"] = value
                return found
            selector = _FILTERS.get(str(text))
            if selector is None:
                raise RecipeError(
                    f"{at}.filter: {quoted(str(text))} names no part of a FLUX.1 model, expected "
                    f"one of {', '.join(map(quoted, _FILTERS))}",
                    hint="write the recipe's own selector instead",
                )
            found.setdefault(selector, value)
        raise RecipeError(f"{where}: no value for the rest, expected a last entry without a filter")

    def _say(self, method: str) -> None:
        """Note which way ratios point, and what was left out."""
        if method in _FROM_BASE:
            self.notes.append(
                f"{method}: mergekit's base is the first model; `alpha` is the share of the "
                "second, as its `t` is"
                if method == "slerp"
                else f"{method}: mergekit's base is the first model"
            )
        if method in _WITH_WEIGHTS:
            self.notes.append(f"{method}: weights belong to the models they are named for")
        if method not in _BY_ELEMENT:
            self.notes.append(
                f"{method}: mergekit takes figures of whole tensors, hence `scope: tensor`; models "
                "and output must have one layout, or leave `scope` out and get those of units"
            )
        if self.config.dtype is not None:
            self.notes.append(
                "dtype: of the output; arithmetic is f32 here, whatever the dtype of the files"
            )
        left = [field for field in _LEFT if getattr(self.config, field) is not None]
        if left:
            self.notes.append(f"not carried over: {listing(left, noun='field')}")


def _spread(points: list[float], where: str) -> Any:
    """Return mergekit's gradient through these points, over all blocks of FLUX.1."""
    if not points:
        raise RecipeError(f"{where}: expected numbers, got an empty list")
    if len(set(points)) == 1:
        return points[0]
    if len(points) == 2:
        return {"from": points[0], "to": points[1]}
    last = DOUBLE + SINGLE - 1
    values = []
    for i in range(last + 1):
        at = i / last * (len(points) - 1)
        low = min(int(at), len(points) - 2)
        values.append((1 - (at - low)) * points[low] + (at - low) * points[low + 1])
    return values
