"""Sets of units in words: their formulas, and the shortest selectors that reach exactly them."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from submerge.blocks import block_of, execution_key, is_behind_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["adapted", "formulas", "selectors"]


def formulas(made: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Return each formula with the selectors of its units, in the order the model runs them.

    `made` holds the formula of every unit by name.
    """
    ordered = sorted(made, key=execution_key)
    names: dict[str, list[str]] = {}
    for unit in ordered:
        names.setdefault(made[unit], []).append(unit)
    return [(formula, selectors(ordered, units)) for formula, units in names.items()]


def adapted(formula: str, onto: Mapping[str | None, Sequence[str]]) -> str:
    """Return a formula with what adapters add: `0.50 * (schnell + 0.80 * style) + 0.50 * krea`.

    `onto` holds what is added to each model by name, and under None what is added to the result.
    """
    for model, more in onto.items():
        if model is not None and more:
            whole = " + ".join((model, *more))
            inside = whole if formula == model else f"({whole})"
            # A method may be called like a model: `ties(...)`.
            name = rf"(?<![\w-]){re.escape(model)}(?![\w(-])"
            formula = re.sub(name, lambda _, text=inside: text, formula)  # type: ignore[misc]
    return " + ".join((formula, *onto.get(None, ())))


def selectors(universe: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """Return selectors that match exactly the chosen ones among all units.

    Whole modules and runs of blocks collapse: `double[0:8].img.attn`, `single`, `**`.
    """
    everything, wanted = list(universe), set(chosen)
    if wanted and wanted.issuperset(everything):
        return ["**"]
    plain = [unit for unit in everything if _block(unit) is None]
    found = _split(plain, wanted, None)
    last = [selector for selector in found if is_behind_blocks(selector)]
    found = [selector for selector in found if not is_behind_blocks(selector)]
    stacks: dict[str, list[str]] = {}
    for unit in everything:
        if block := _block(unit):
            stacks.setdefault(block[0], []).append(unit)
    for stack in sorted(stacks, key=execution_key):
        found += _blocks(stack, stacks[stack], wanted)
    return found + last


@functools.lru_cache(maxsize=8192)
def _block(unit: str) -> tuple[str, int, str] | None:
    words, block = unit.split(".", 2), block_of(unit)
    return None if block is None or len(words) < 3 else (*block, words[2])


def _blocks(stack: str, universe: Sequence[str], wanted: set[str]) -> list[str]:
    """Collapse the blocks of one stack: indices that share a prefix become slices."""
    rests: dict[int, list[str]] = {}
    chosen: dict[int, set[str]] = {}
    for unit in universe:
        block = _block(unit)
        if block is not None:
            rests.setdefault(block[1], []).append(block[2])
            if unit in wanted:
                chosen.setdefault(block[1], set()).add(block[2])
    by_prefix: dict[str | None, list[int]] = {}
    for index in sorted(chosen):
        whole = chosen[index].issuperset(rests[index])
        for prefix in [None] if whole else _split(rests[index], chosen[index], None):
            by_prefix.setdefault(prefix, []).append(index)
    return [
        stack + _indices(indices, len(rests)) + ("" if prefix is None else f".{prefix}")
        for prefix, indices in by_prefix.items()
    ]


def _indices(indices: Sequence[int], total: int) -> str:
    """Return `[0:8]`, `[3]`, `[0,2:5]`, or nothing when every block is meant."""
    if len(indices) == total:
        return ""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1]:
            runs[-1][1] = index + 1
        else:
            runs.append([index, index + 1])
    return f"[{','.join(str(a) if b == a + 1 else f'{a}:{b}' for a, b in runs)}]"


def _prefixes(universe: Sequence[str], wanted: set[str], prefix: str) -> list[str]:
    """Return the shortest dotted prefixes that cover exactly the wanted names."""
    inside = [name for name in universe if _under(name, prefix)]
    hits = sum(name in wanted for name in inside)
    if hits == 0:
        return []
    return [prefix] if hits == len(inside) else _split(inside, wanted, prefix)


def _split(inside: Sequence[str], wanted: set[str], prefix: str | None) -> list[str]:
    """Return what covers the wanted names below a prefix that not all of them share.

    None is no prefix, which differs from an empty one: a name may begin with a dot.
    """
    start = 0 if prefix is None else len(prefix) + 1
    # Outside FLUX a tensor's name may be the leading part of another's; no selector splits those.
    whole = [name for name in inside if name == prefix and name in wanted]
    below = [name for name in inside if name != prefix]
    heads = dict.fromkeys(name[:start] + name[start:].split(".")[0] for name in below)
    return whole + [found for head in heads for found in _prefixes(below, wanted, head)]


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
