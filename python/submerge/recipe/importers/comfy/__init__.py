"""ComfyUI workflows that merge FLUX.1 models, evaluated as linear forms.

ComfyUI's nodes patch model1 with model2 lazily and compute once, so a chain of them is one weighted
sum:

    ModelMergeSimple, ModelMergeFlux1    ratio * model1 + (1 - ratio) * model2
    ModelMergeBlocks                     the same, see `_ratios`
    ModelAdd                             model1 + model2
    ModelSubtract                        multiplier * (model1 - model2)

Ratios are the share of model1 there, of the second model here.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from submerge.errors import RecipeError, counted, listing, quoted
from submerge.recipe.importers.comfy.graph import (
    SLIDERS,
    Link,
    Node,
    model_sources,
    model_users,
    read_graph,
    value_of,
)
from submerge.recipe.importers.preset import GROUPS, Form, Imported, model_names, to_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["import_workflow"]

MERGES = ("ModelMergeFlux1", "ModelMergeSimple", "ModelMergeBlocks", "ModelAdd", "ModelSubtract")
_LOADERS = {
    "UNETLoader": "unet_name",
    "UnetLoaderGGUF": "unet_name",
    "CheckpointLoaderSimple": "ckpt_name",
    "CheckpointLoader": "ckpt_name",
    "DiffusersLoader": "model_path",
}
# What these do to a model does not touch its weights.
_WEIGHTLESS = ("ModelSampling", "DifferentialDiffusion", "TorchCompileModel", "RescaleCFG")
_SAVERS = ("ModelSave", "CheckpointSave")
_MAX_CHAIN = 100


def import_workflow(data: object, name: str, node: str | None = None) -> Imported:
    """Read the merge of a workflow, in the editor's or the API's format.

    Args:
        data: the decoded JSON.
        name: what stands for the file in errors.
        node: id of the merge node to read; None for the one whose result no other merge uses.

    Raises:
        RecipeError: no merge or several, or a model that comes from other than loaders and merges.
    """
    graph = read_graph(data, name)
    reader = _Reader(graph, name)
    last = _chosen(graph, name, node)
    form = reader.form(last.id, 0)
    reader.notes += _afterwards(graph, last, name, named=node is not None)
    models = {found: path for path, found in reader.models.items()}
    return Imported(to_recipe(models, form), reader.notes + _closing_notes(graph, models))


def _chosen(graph: Mapping[str, Node], name: str, node: str | None) -> Node:
    merges = [found for found in graph.values() if found.kind in MERGES and not found.muted]
    if node is not None:
        if node not in graph or graph[node].kind not in MERGES:
            raise RecipeError(
                f"{name}: node {quoted(node)} is no merge, expected one of {_ids(merges)}"
            )
        return graph[node]
    merges = [found for found in merges if not found.bypassed]
    if not merges:
        others = sorted({found.kind for found in graph.values() if "Merge" in found.kind})
        raise RecipeError(
            f"{name}: no merge of FLUX.1 models, expected one of {', '.join(map(quoted, MERGES))}",
            hint=f"it has {', '.join(map(quoted, others))}" if others else None,
        )
    used = _upstream(merges, graph)
    last = [found for found in merges if found.id not in used]
    if len(last) != 1:
        raise RecipeError(
            f"{name}: {counted(len(last), 'merge')} that no other merge uses, expected 1: "
            f"{_ids(last)}",
            hint="name the node to import",
        )
    return last[0]


def _ids(nodes: list[Node]) -> str:
    return ", ".join(str(node) for node in nodes[:10]) or "none"


def _upstream(nodes: Iterable[Node], graph: Mapping[str, Node]) -> set[str]:
    """Return the ids of all nodes that feed one of these."""
    found: set[str] = set()
    todo = list(nodes)
    while todo:
        for item in todo.pop().inputs.values():
            if isinstance(item, Link) and item.node not in found and item.node in graph:
                found.add(item.node)
                todo.append(graph[item.node])
    return found


def _afterwards(graph: Mapping[str, Node], last: Node, name: str, *, named: bool) -> list[str]:
    """Refuse a merge that other nodes change on the way to the image; return what is left aside.

    A merge that was asked for by name, or that is saved as it is, stands for itself.
    """
    users = model_users(graph, last, through=_passes)
    sources = model_sources(graph)
    changing = [node for node in users if node.makes_model(sources)]
    if not changing:
        return []
    if not named and not any(node.kind in _SAVERS for node in users):
        raise RecipeError(
            f"{name}: {changing[0]} changes the merged model, expected nothing between the merge "
            "and the sampler",
            hint=_hint(changing[0]) or f"name the node to import what comes before: {last.id}",
        )
    return [f"not carried over: {node} changes the merged model afterwards" for node in changing]


def _passes(node: Node) -> bool:
    """Tell whether a node hands its model on with the same weights."""
    return node.bypassed or node.kind == "Reroute" or node.kind.startswith(_WEIGHTLESS)


class _Reader:
    """Evaluates nodes; collects the models met and notes for the user."""

    def __init__(self, graph: Mapping[str, Node], name: str) -> None:
        self.graph = graph
        self.name = name
        self.models: dict[str, str] = {}  # path -> name, in the order met
        self.notes: list[str] = []
        self._done: dict[str, Form] = {}

    def form(self, key: str, depth: int) -> Form:
        """Return what a node's model output is made of."""
        if key not in self._done:
            if depth > _MAX_CHAIN:
                raise RecipeError(
                    f"{self.name}: more than {_MAX_CHAIN} nodes in a row, or a circle"
                )
            if key not in self.graph:
                raise RecipeError(
                    f"{self.name}: a link leads to node {quoted(key)}, which is not there"
                )
            self._done[key] = self._evaluate(self.graph[key], depth)
        return self._done[key]

    def _evaluate(self, node: Node, depth: int) -> Form:
        if node.muted:
            raise RecipeError(f"{self.name}: {node} is muted, but a merge needs its model")
        if node.kind in _LOADERS and not node.bypassed:
            return self._load(node)
        if node.kind in MERGES and not node.bypassed:
            return self._merge(node, depth)
        link = next((node.inputs[f] for f in ("model", "model1", "") if f in node.inputs), None)
        if not _passes(node) or not isinstance(link, Link):
            raise RecipeError(
                f"{self.name}: {node} changes or makes a model, expected loaders and merges only",
                hint=_hint(node),
            )
        if node.kind != "Reroute":
            why = "is bypassed and handed its model on" if node.bypassed else "changes no weights"
            self.notes.append(f"not carried over: {node} {why}")
        return self.form(link.node, depth + 1)

    def _load(self, node: Node) -> Form:
        path = node.inputs.get(_LOADERS[node.kind])
        if not isinstance(path, str) or not path:
            raise RecipeError(
                f"{self.name}: {node} names no file, expected `{_LOADERS[node.kind]}`"
            )
        if path not in self.models:
            self.models = model_names([*self.models, path])
        dtype = node.inputs.get("weight_dtype", "default")
        if dtype != "default":
            self.notes.append(
                f"not carried over: {node} loads {quoted(path)} as {dtype}; "
                "here the file's own type is merged"
            )
        return {group: {self.models[path]: Fraction(1)} for group in GROUPS}

    def _merge(self, node: Node, depth: int) -> Form:
        first, second = (self._parent(node, field, depth) for field in ("model1", "model2"))
        one, two = self._factors(node)
        return {
            group: _sum((one[group], first[group]), (two[group], second[group])) for group in GROUPS
        }

    def _parent(self, node: Node, field: str, depth: int) -> Form:
        link = node.inputs.get(field)
        if not isinstance(link, Link):
            raise RecipeError(f"{self.name}: {node}: `{field}` is not connected, expected a model")
        return self.form(link.node, depth + 1)

    def _factors(self, node: Node) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
        """Return the factor of model1 and of model2 for every group."""
        if node.kind == "ModelAdd":
            return dict.fromkeys(GROUPS, Fraction(1)), dict.fromkeys(GROUPS, Fraction(1))
        if node.kind == "ModelSubtract":
            factor = value_of(node, "multiplier", self.graph, self.name)
            return dict.fromkeys(GROUPS, factor), dict.fromkeys(GROUPS, -factor)
        ratios = self._ratios(node)
        ratio = ratios["double[0]"]
        self.notes.append(
            f"direction: {node} gives model1's share, `alpha` is the second model's: "
            f"alpha = 1 - ratio, so the ratio {float(ratio):g} of double block 0 became "
            f"alpha {float(1 - ratio):g}"
        )
        return ratios, {group: 1 - found for group, found in ratios.items()}

    def _ratios(self, node: Node) -> dict[str, Fraction]:
        """Return the share of model1 for every group.

        ModelMergeBlocks gives each tensor the slider with the longest name that its own starts
        with, else the first slider. No FLUX tensor starts with `input`, `middle` or `out`, so that
        `input` decides all; the names of ModelMergeFlux1's sliders never overlap.
        """
        if node.kind == "ModelMergeSimple":
            return dict.fromkeys(GROUPS, value_of(node, "ratio", self.graph, self.name))
        if node.kind == "ModelMergeBlocks":
            self.notes.append(
                f"{node} knows no FLUX blocks: its `input` acts on every tensor, "
                "`middle` and `out` on none"
            )
            return dict.fromkeys(GROUPS, value_of(node, "input", self.graph, self.name))
        unknown = [field for field in node.inputs if field not in (*SLIDERS, "model1", "model2")]
        if unknown:
            raise RecipeError(
                f"{self.name}: {node} has unknown inputs: {listing(unknown, noun='input')}"
            )
        return {
            group: value_of(node, slider, self.graph, self.name)
            for slider, group in SLIDERS.items()
        }


def _sum(*terms: tuple[Fraction, Mapping[str, Fraction]]) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for factor, form in terms:
        for model, coefficient in form.items():
            total[model] = total.get(model, Fraction(0)) + factor * coefficient
    return total


def _hint(node: Node) -> str | None:
    if "lora" in node.kind.lower():
        return "bypass the LoRA in ComfyUI and export again, or bake it into its model first"
    if node.is_subgraph:
        return "this is a subgraph: choose Workflow > Export (API), which has none"
    return None


def _closing_notes(graph: Mapping[str, Node], models: Mapping[str, str]) -> list[str]:
    first = quoted(next(iter(models)))
    embedder = (
        f"where only one model has a guidance embedder, ComfyUI's result has it if {first} has; "
        "here `guidance` decides (`keep` unless changed)"
    )
    files = (
        "`models` holds the names ComfyUI shows; its files lie in models/diffusion_models, "
        "models/unet or models/checkpoints"
    )
    notes = [embedder, files]
    others = [str(node) for node in graph.values() if node.kind.startswith("CLIPMerge")]
    if others:
        notes.append(f"not carried over: {', '.join(others)}; text encoders are not merged")
    return notes
