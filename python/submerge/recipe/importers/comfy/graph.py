"""ComfyUI's two file formats read into one graph of nodes.

The API format maps node ids to `{class_type, inputs}`, where an input is a value or `[node,
output]`. The workflow format lists nodes with numbered links and with widget values in the order of
the node's widgets, which only the node's own code knows: `WIDGETS` holds it for the nodes an import
needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from submerge.errors import RecipeError, counted, quoted
from submerge.given import Kind, Record, hinted, kind_of, number, shown, whole
from submerge.recipe.importers.preset import DOUBLE, SINGLE

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

__all__ = ["SLIDERS", "Link", "Node", "model_sources", "model_users", "read_graph", "value_of"]

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
    "SetNode": ("name",),
    "GetNode": ("name",),
}
# The workflow format's marks for a node that is skipped over, and one that never runs.
_BYPASSED, _MUTED = 4, 2


def _id(raw: object, where: str) -> str:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise RecipeError(f"{where}: expected a node's id, got {shown(raw)}")
    return str(raw)


_Integer = Annotated[int, whole(-(1 << 53), 1 << 53)]
# A slot's type is a word; -1 or a list of choices for some.
_TYPE = Kind(lambda raw, _: str(raw), lambda _: {})
_ID = Kind(_id, lambda _: {"type": ["integer", "string"]})


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
        outputs: the types of its outputs, where the file holds them.
    """

    id: str
    kind: str
    inputs: Mapping[str, Any]
    bypassed: bool = False
    muted: bool = False
    outputs: tuple[str, ...] | None = None

    @property
    def is_subgraph(self) -> bool:
        """Whether nodes hide in it that this file does not show in their places."""
        return len(self.kind) == 36 and self.kind.count("-") == 4

    def makes_model(self, sources: Container[str]) -> bool:
        """Tell whether a model comes out of it, by its outputs' types or by who takes them.

        `sources` are the ids of all nodes whose output is taken as a model, see `model_sources`.
        """
        if self.is_subgraph or any(word in self.kind.lower() for word in ("lora", "merge")):
            return True
        if self.outputs is not None:
            return "MODEL" in self.outputs
        return self.id in sources

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
        read = {key: _ApiNode.parse(raw, f"{name}: node {key}") for key, raw in data.items()}
        return {
            key: Node(key, node.class_type, {n: _api_input(i) for n, i in node.inputs.items()})
            for key, node in read.items()
        }
    raise RecipeError(
        f"{name}: expected a ComfyUI workflow, got {shown(data)}",
        hint="in ComfyUI choose Workflow > Export or Workflow > Export (API)",
    )


class _Saved(Record):
    """What ComfyUI writes holds much that no merge asks for, and null for what is not there."""

    open: ClassVar[bool] = True
    none_is_given: ClassVar[bool] = True


@dataclass(frozen=True)
class _ApiNode(_Saved):
    """A node of the API format."""

    class_type: str
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Input(_Saved):
    """A slot of a node of the editor, with the number of the link that leads to it."""

    name: str
    link: _Integer | None = None


@dataclass(frozen=True)
class _Output(_Saved):
    """A slot that a node of the editor puts something out by."""

    type: Annotated[str, _TYPE]


@dataclass(frozen=True)
class _EditorNode(_Saved):
    """A node of the editor's format."""

    id: Annotated[str, _ID]
    type: str
    mode: _Integer = 0
    inputs: tuple[_Input, ...] | None = None
    outputs: tuple[_Output, ...] | None = None
    widgets_values: Any = None


@dataclass(frozen=True)
class _LinkObject(_Saved):
    """A link in the newer form of the editor's format."""

    id: _Integer
    origin_id: Annotated[str, _ID]
    origin_slot: _Integer

    @classmethod
    def parse(cls, raw: object, where: str) -> Self:
        """Read the object, or `[id, from, output, to, input, type]`."""
        if isinstance(raw, list):
            raw = dict(zip(("id", "origin_id", "origin_slot"), raw, strict=False))
        return super().parse(raw, where)


@dataclass(frozen=True)
class _Workflow(_Saved):
    """The editor's format."""

    nodes: tuple[_EditorNode, ...]
    links: tuple[_LinkObject, ...] | None = None


def _api_input(item: object) -> object:
    match item:
        case [str() | int() as node, int() as output]:
            return Link(str(node), output)
    return item


def _read_workflow(data: dict[str, Any], name: str) -> dict[str, Node]:
    read = hinted(kind_of(_Workflow), "in ComfyUI choose Workflow > Export (API)").read(
        data, f"{name}: workflow"
    )
    links = {link.id: Link(link.origin_id, link.origin_slot) for link in read.links or ()}
    return {node.id: _node(node, links, name) for node in read.nodes}


def _node(raw: _EditorNode, links: Mapping[int, Link], name: str) -> Node:
    inputs = _widget_values(raw, f"{name}: node {raw.id} ({quoted(raw.type)})")
    for entry in raw.inputs or ():
        if entry.link is not None:
            if entry.link not in links:
                raise RecipeError(
                    f"{name}: node {raw.id}: link {entry.link} is not there, expected all links"
                )
            inputs[entry.name] = links[entry.link]
    outputs = None if raw.outputs is None else tuple(output.type for output in raw.outputs)
    return Node(raw.id, raw.type, inputs, raw.mode == _BYPASSED, raw.mode == _MUTED, outputs)


def _widget_values(raw: _EditorNode, where: str) -> dict[str, Any]:
    """Return a node's widget values by name; none for the nodes whose widgets are not known."""
    values = raw.widgets_values
    if isinstance(values, dict):
        return dict(values)
    found = values if isinstance(values, list) else []
    names = WIDGETS.get(raw.type, ())
    if raw.type.startswith("ModelMerge") and len(found) != len(names):
        raise RecipeError(
            f"{where}: expected {counted(len(names), 'widget value')}, got {len(found)}"
        )
    return dict(zip(names, found, strict=False))


def model_sources(graph: Mapping[str, Node]) -> set[str]:
    """Return the ids of the nodes whose output another takes by an input named after models."""
    return {
        item.node
        for node in graph.values()
        for name, item in node.inputs.items()
        if isinstance(item, Link) and name.startswith("model")
    }


def model_users(
    graph: Mapping[str, Node], node: Node, through: Callable[[Node], bool]
) -> list[Node]:
    """Return the nodes that take what a node puts out, also through nodes that hand it on."""
    found: dict[str, Node] = {}
    users, done = _users(graph), {node.id}
    todo = [node]
    while todo:
        for user in users.get(todo.pop().id, ()):
            if user.id in done or user.muted:
                continue
            done.add(user.id)
            if through(user) or user.kind in ("SetNode", "GetNode"):
                todo.append(user)
            else:
                found[user.id] = user
    return list(found.values())


def _users(graph: Mapping[str, Node]) -> dict[str, list[Node]]:
    """Return who takes the first output of each node.

    A `GetNode` hands on what a `SetNode` of the same name was given.
    """
    users: dict[str, list[Node]] = {}
    named: dict[str, list[Node]] = {}
    for node in graph.values():
        if node.kind == "GetNode":
            named.setdefault(str(node.inputs.get("name")), []).append(node)
        for item in node.inputs.values():
            if isinstance(item, Link) and item.output == 0:
                users.setdefault(item.node, []).append(node)
    for node in graph.values():
        if node.kind == "SetNode":
            users.setdefault(node.id, []).extend(named.get(str(node.inputs.get("name")), ()))
    return users


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
        known = source is not None and source.kind in ("PrimitiveNode", "PrimitiveFloat")
        if source is None or not known or isinstance(source.inputs.get("value"), Link):
            raise RecipeError(
                f"{where} comes from {source or f'node {quoted(item.node)}'}, expected a number",
                hint="type the number into the merge node",
            )
        return value_of(source, "value", graph, name)
    # str() gives the shortest decimal, which is what the slider showed.
    return Fraction(str(number(item, where)))
