"""What a family of models is, as data: its units, its blocks, its layouts, its guidance.

A family is declared once, in a module of tables, and entered in `FAMILIES`; recognising a file,
laying out an output, selectors, reports and plans follow from the tables.

The finest row range any layout uses is a unit. A layout is a table from a module's name to the
units it stacks along dimension 0, in the order in which the modules occur in the model. Every unit
occurs once in each layout; that, and nothing else, is the conversion between them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from submerge.layout.model import Architecture, OutTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["FAMILIES", "Family", "GuidanceNetwork", "Names", "Shape", "Stack", "Table"]

# Rows and columns of a unit in the words of `Family.size`: fields of `Architecture`, numbers, their
# products and sums. A unit without columns is a norm's scale, every other one a linear layer with
# weight and bias.
Shape: TypeAlias = tuple[str, str | None]
Table: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]


class Stack(NamedTuple):
    """A run of like blocks.

    Attributes:
        name: what units and selectors call it: `double` in `double[7]`.
        units: the units of one block, without the parameter's name.
        streams: what stands before a part in a unit's name where a block holds several of a kind.
    """

    name: str
    units: Mapping[str, Shape]
    streams: tuple[str, ...] = ()


class Names(NamedTuple):
    """One layout: the modules before, in and after the stacks.

    Attributes:
        norm: how it calls a norm's parameter.
        before: the modules before the blocks.
        stacks: by the stack's canonical name, what it is called here and the modules of a block.
        after: the modules after the blocks.
    """

    norm: str
    before: Table
    stacks: Mapping[str, tuple[str, Table]]
    after: Table


class GuidanceNetwork(NamedTuple):
    """The MLP that embeds a guidance value, `W2 @ act(W1 @ e(g) + b1) + b2`.

    Attributes:
        name: the first word of its units.
        layers: the units of the two layers, without the parameter's name.
        activation: what stands between them.
        scale: what the value is multiplied by before the sinusoid.
        max_period: the longest period of the sinusoid.
        added_to: the bias its result is added to before anything else sees it.
    """

    name: str
    layers: tuple[str, str]
    activation: str
    scale: float
    max_period: float
    added_to: str

    def has(self, unit: str) -> bool:
        """Tell whether a unit belongs to the network."""
        return unit.startswith(self.name + ".")

    def sinusoid(self, value: float, width: int) -> tuple[float, ...]:
        """Return the embedding of a value that the network takes: `width` numbers, cos then sin.

        `[cos(s g f_i)..., sin(s g f_i)...]` with `f_i = max_period ** (-i / half)`, in f64; an odd
        width is padded with a zero.
        """
        half = width // 2
        step = -math.log(self.max_period)
        angles = [self.scale * value * math.exp(step * i / half) for i in range(half)]
        return (*map(math.cos, angles), *map(math.sin, angles), *(0.0,) * (width % 2))


@dataclass(frozen=True, eq=False)
class Family:
    """Models that merge block by block.

    Attributes:
        name: the word in `Architecture.family`.
        title: its name for people.
        before: the units in front of the blocks, in execution order.
        stacks: the stacks in execution order.
        after: the units behind the blocks.
        parts: what units inside blocks are reported under: the one their name begins with.
        read: the sizes that tensors tell: a field of `Architecture`, the unit and its dimension.
        layouts: its naming conventions.
        guidance: the network that not every model of the family has, if there is one.
        mlp_ratio: `mlp / hidden` where the family fixes it.
        published: the architecture of the published model, to tell relatives from it.
        guided_words: what a model with guidance is called, and one without.
        kinds: models of the family by input channels that are not the usual ones.
        relatives: depths, and the models of another family that share names and shapes with this.
        rope_axes: how a head's width is split where no config says so.
        config: returns the config.json an architecture is loaded from, if there is one.
        config_defaults: what the loader assumes for fields that a config does not state.
        gguf: what `general.architecture` calls it in a GGUF; empty if loaders have no word for it.
    """

    name: str
    title: str
    before: Mapping[str, Shape]
    stacks: tuple[Stack, ...]
    after: Mapping[str, Shape]
    parts: tuple[str, ...]
    read: Mapping[str, tuple[str, int]]
    layouts: Mapping[str, Names]
    guidance: GuidanceNetwork | None = None
    mlp_ratio: int | None = None
    published: Architecture | None = None
    guided_words: Mapping[bool, str] = field(default_factory=dict)
    kinds: Mapping[int, str] = field(default_factory=dict)
    relatives: Mapping[tuple[int, ...], str] = field(default_factory=dict)
    rope_axes: Callable[[int], tuple[int, ...]] = lambda _: ()
    config: Callable[[Architecture], dict[str, Any]] | None = None
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    gguf: str = ""

    @functools.cached_property
    def order(self) -> dict[str, int]:
        """The rank in execution order of the first word of a unit's name."""
        words = (unit.split(".")[0] for unit in (*self.before, *self._stack_names, *self.after))
        return {word: rank for rank, word in enumerate(dict.fromkeys(words))}

    @functools.cached_property
    def behind(self) -> frozenset[str]:
        """The first words of the units behind the blocks."""
        return frozenset(unit.split(".")[0] for unit in self.after)

    @functools.cached_property
    def by_stack(self) -> dict[str, Stack]:
        """The stacks by name."""
        return {stack.name: stack for stack in self.stacks}

    @property
    def _stack_names(self) -> tuple[str, ...]:
        return tuple(stack.name for stack in self.stacks)

    def guides(self, unit: str) -> bool:
        """Tell whether a unit belongs to the guidance network."""
        return self.guidance is not None and self.guidance.has(unit)

    def depth_words(self, depths: tuple[int, ...]) -> str:
        """Return the depths for a message: `19 double + 38 single blocks`."""
        pairs = zip(depths, self._stack_names, strict=True)
        return " + ".join(f"{depth} {name}" for depth, name in pairs) + " blocks"

    def unit_shapes(self, arch: Architecture) -> dict[str, tuple[int, ...]]:
        """Return the shape of every unit by canonical name, in execution order."""
        return dict(_unit_shapes(self, arch))

    def tensors_of(self, arch: Architecture, layout: str, prefix: str = "") -> list[OutTensor]:
        """Return the tensors of a layout in module order (the order of the model's state dict)."""
        names, shapes = self.layouts[layout], _unit_shapes(self, arch)
        tensors = []
        for module, units in self.modules(names, arch):
            linear = f"{units[0]}.bias" in shapes
            for parameter in ("weight", "bias") if linear else ("weight",):
                inside = tuple(f"{unit}.{parameter}" for unit in units)
                rows = sum(shapes[unit][0] for unit in inside)
                name = f"{prefix}{module}.{parameter if linear else names.norm}"
                tensors.append(OutTensor(name, (rows, *shapes[inside[0]][1:]), inside))
        return tensors

    def block_parameters(self, layout: str, stack: str) -> frozenset[str]:
        """Return what may follow a block's index in a layout: `img_mlp.0.weight`."""
        names, shapes = self.layouts[layout], self.by_stack[stack].units
        return frozenset(
            f"{module}.{parameter}"
            for module, units in names.stacks[stack][1]
            for parameter in (("weight", "bias") if shapes[units[0]][1] else (names.norm,))
        )

    def size(self, arch: Architecture, words: str) -> int:
        """Return a size from its words: `hidden`, `256`, `3*hidden`, `hidden+mlp`."""
        return sum(
            math.prod(
                int(factor) if factor.isdecimal() else getattr(arch, factor)
                for factor in summand.split("*")
            )
            for summand in words.split("+")
        )

    def _units(self, arch: Architecture) -> Iterator[tuple[str, Shape]]:
        """Yield every unit, without parameter names, in execution order."""
        for unit, shape in self.before.items():
            if arch.guidance or not self.guides(unit):
                yield unit, shape
        for stack, depth in zip(self.stacks, arch.depths, strict=True):
            for index in range(depth):
                for unit, shape in stack.units.items():
                    yield f"{stack.name}.{index}.{unit}", shape
        yield from self.after.items()

    def modules(self, names: Names, arch: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the modules of a layout in order, with the units each one stacks."""
        for module, units in names.before:
            if arch.guidance or not self.guides(units[0]):
                yield module, units
        for stack, depth in zip(self.stacks, arch.depths, strict=True):
            called, table = names.stacks[stack.name]
            for index in range(depth):
                for module, units in table:
                    inside = tuple(f"{stack.name}.{index}.{unit}" for unit in units)
                    yield f"{called}.{index}.{module}", inside
        yield from names.after


@functools.lru_cache(maxsize=16)
def _unit_shapes(family: Family, arch: Architecture) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    size = functools.cache(functools.partial(family.size, arch))
    for unit, (rows, columns) in family._units(arch):  # noqa: SLF001 - cached for the class
        height = size(rows)
        if columns is None:
            shapes[f"{unit}.weight"] = (height,)
        else:
            shapes[f"{unit}.weight"] = (height, size(columns))
            shapes[f"{unit}.bias"] = (height,)
    return shapes


FAMILIES: dict[str, Family] = {}
"""The families submerge knows, by name; `layout` enters them."""
