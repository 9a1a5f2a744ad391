"""ComfyUI's two file formats read into one graph of nodes.

The API format maps node ids to `{class_type, inputs}`, where an input is a value or `[node,
output]`. The workflow format lists nodes with numbered links and with widget values in the order of
the node's widgets, which only the node's own code knows: `WIDGETS` holds it for the nodes an import
needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, counted, quoted
from submerge.given import number, shown
from submerge.recipe.importers.preset import DOUBLE, SINGLE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SLIDERS", "Link", "Node", "read_graph", "value_of"]

# Sliders of ModelMergeFlux1 in the node's order, and the group each stands for.
SLIDERS = {
    "img_in.": "embed.img",
    "time_in.": "embed.time",
    "guidance_in": "guidance",
    "vector_in.": "embed.vector",
    "txt_in.": "embed.txt",
    **{f"double_blocks.{i}.": f"double[{i}]" for i in range(DOUBLE)},
    **{f"single_blocks.{i}.": f"single[{i}]" for i in range(SINGLE)},
    "final_layer.": "final",
}
WIDGETS = {
    "UNETLoader": ("unet_name", "weight_dtype"),
    "UnetLoaderGGUF": ("unet_name",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "DiffusersLoader": ("model_path",),
    "ModelMergeSimple": ("ratio",),
    "ModelMergeBlocks": ("input", "middle", "out"),
    "ModelMergeFlux1": tuple(SLIDERS),
    "ModelSubtract": ("multiplier",),
    "PrimitiveNode": ("value",),
    "PrimitiveFloat": ("value",),
}
# The workflow format's marks for a node that is skipped over, and one that never runs.
_BYPASSED, _MUTED = 4, 2


@dataclass(frozen=True, slots=True)
class Link:
    """An input that another node's output feeds."""

    node: str
    output: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph.

    Attributes:
        id: the node's number in the file.
        kind: its class.
        inputs: values and links by name.
        bypassed: whether it hands its first input through.
        muted: whether it does not run.
    """

    id: str
    kind: str
    inputs: Mapping[str, Any]
    bypassed: bool = False
    muted: bool = False

    def __str__(self) -> str:
        return f"node {self.id} ({quoted(self.kind)})"


def read_graph(data: object, name: str) -> dict[str, Node]:
    """Read either format.

    Args:
        data: the decoded JSON.
        name: what stands for the file in errors.

    Raises:
        RecipeError: the data is neither format.
    """
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return _read_workflow(data, name)
    if (
        isinstance(data, dict)
        and data
        and all(isinstance(n, dict) and "class_type" in n for n in data.values())
    ):
        return {key: _api_node(key, raw, name) for key, raw in data.items()}
    raise RecipeError(
        f"{name}: expected a ComfyUI workflow, got {shown(data)}",
        hint="in ComfyUI choose Workflow > Export or Workflow > Export (API)",
    )


def _api_node(key: str, raw: dict[str, Any], name: str) -> Node:
    inputs = raw.get("inputs", {})
    if not isinstance(raw["class_type"], str) or not isinstance(inputs, dict):
        raise RecipeError(f"{name}: node {key}: expected a class and inputs")
    return Node(key, raw["class_type"], {field: _api_input(item) for field, item in inputs.items()})


def _api_input(item: object) -> object:
    match item:
        case [str() | int() as node, int() as output]:
            return Link(str(node), output)
    return item


def _read_workflow(data: dict[str, Any], name: str) -> dict[str, Node]:
    try:
        links = dict(map(_link, data.get("links", [])))
        nodes = [_workflow_node(raw, links, name) for raw in data["nodes"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"{name}: not as ComfyUI's editor saves workflows ({type(error).__name__}: {error})",
            hint="in ComfyUI choose Workflow > Export (API)",
        ) from None
    return {node.id: node for node in nodes}


def _link(raw: Any) -> tuple[int, Link]:
    """Read `[id, from, output, to, input, type]`, or the newer form as an object."""
    if isinstance(raw, dict):
        return int(raw["id"]), Link(str(raw["origin_id"]), int(raw["origin_slot"]))
    number, node, output, *_ = raw
    return int(number), Link(str(node), int(output))


def _workflow_node(raw: dict[str, Any], links: Mapping[int, Link], name: str) -> Node:
    kind, key = str(raw["type"]), str(raw["id"])
    inputs = _widget_values(raw, kind, f"{name}: node {key} ({quoted(kind)})")
    for entry in raw.get("inputs") or []:
        if entry.get("link") is not None:
            inputs[str(entry["name"])] = links[int(entry["link"])]
    mode = raw.get("mode", 0)
    return Node(key, kind, inputs, bypassed=mode == _BYPASSED, muted=mode == _MUTED)


def _widget_values(raw: dict[str, Any], kind: str, where: str) -> dict[str, Any]:
    """Return a node's widget values by name; none for the nodes whose widgets are not known."""
    values = raw.get("widgets_values") or []
    if isinstance(values, dict):
        return dict(values)
    names = WIDGETS.get(kind, ())
    if kind.startswith("ModelMerge") and len(values) != len(names):
        raise RecipeError(
            f"{where}: expected {counted(len(names), 'widget value')}, got {len(values)}"
        )
    return dict(zip(names, values, strict=False))


def value_of(node: Node, field: str, graph: Mapping[str, Node], name: str) -> Fraction:
    """Return a number that a node takes, from its widget or from a primitive node, exactly.

    Raises:
        RecipeError: missing, not a finite number, or computed by another node.
    """
    where = f"{name}: {node}: `{field}`"
    if field not in node.inputs:
        raise RecipeError(f"{where} is missing, expected a number")
    item = node.inputs[field]
    if isinstance(item, Link):
        source = graph.get(item.node)
        if source is None or source.kind not in ("PrimitiveNode", "PrimitiveFloat"):
            raise RecipeError(
                f"{where} comes from {source or f'node {item.node}'}, expected a number",
                hint="type the number into the merge node",
            )
        return value_of(source, "value", graph, name)
    # str() gives the shortest decimal, which is what the slider showed.
    return Fraction(str(number(item, where)))
