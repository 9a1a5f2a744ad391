"""The sections about the merge itself: recipe, blocks, provenance, licence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from submerge.errors import counted
from submerge.page.charts import seconds_in_words
from submerge.page.content import Block, Code, Details, Facts, Prose, Section, Table
from submerge.page.heat import HeatMap, HeatMaps
from submerge.page.inputs import items, number, text
from submerge.plan.provenance import label
from submerge.plan.sizes import bytes_in_words
from submerge.plan.words import selectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["blocks", "licence", "main_formula", "provenance", "recipe"]

# More formulas than this, those of a gradient for example, are folded away.
_SHOWN = 10

# Figures of an analysis: name, title, how to read it, how it is written.
_FIGURES: tuple[tuple[str, str, str, str], ...] = (
    (
        "cosine",
        "Cosine of the parents",
        "1 is the same direction; strong colour differs most.",
        "{:.4f}",
    ),
    (
        "relative_delta",
        "Distance of the parents",
        "Length of the difference over the first model's.",
        "{:.1%}",
    ),
    ("norm_ratio", "Ratio of lengths", "The second model's length over the first's.", "{:.3f}"),
    (
        "delta_norm",
        "Length of the difference",
        "Not relative: larger tensors have more of it.",
        "{:.3g}",
    ),
    ("sign_conflict", "Conflicting signs", "Share of elements whose deltas point apart.", "{:.0%}"),
    (
        "effective_rank",
        "Effective rank of the difference",
        "How many directions it takes.",
        "{:.1f}",
    ),
)


def _rows(merge: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in items(merge, "rows") if row.get("block") and row.get("part")]


def _name(row: Mapping[str, Any]) -> str:
    block, part = text(row["block"]), text(row["part"])
    return block if block == part else f"{block}.{part}"


def _formulas(merge: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows(merge):
        for formula in row.get("formulas") or ():
            found.setdefault(text(formula), []).append(row)
    return found


def main_formula(merge: Mapping[str, Any]) -> str | None:
    """Return the formula most elements were made by."""
    sizes = {
        formula: sum(number(row.get("elements")) or 0 for row in rows)
        for formula, rows in _formulas(merge).items()
    }
    return max(sizes, key=lambda formula: sizes[formula]) if sizes else None


def recipe(merge: Mapping[str, Any]) -> Section:
    """Say the recipe in words: each formula with the parts it made, then as it was given."""
    universe = [_name(row) for row in _rows(merge)]
    lines = []
    for formula, rows in _formulas(merge).items():
        whole = [_name(row) for row in rows if len(row["formulas"]) == 1]
        shared = [_name(row) for row in rows if len(row["formulas"]) > 1]
        where = [
            *selectors(universe, whole),
            *(f"{s} (in part)" for s in selectors(universe, shared)),
        ]
        lines.append([formula, "everywhere" if where == ["**"] else ", ".join(where)])
    columns = ["formula", "parts"]
    found: list[Block] = [Table(columns, lines[:_SHOWN])] if lines else []
    if len(lines) > _SHOWN:
        more = counted(len(lines) - _SHOWN, "more formula")
        found.append(Details(more, [Table(columns, lines[_SHOWN:])]))
    names = (("layout", "layout"), ("dtype", "numbers"), ("guidance", "guidance"))
    found.append(Facts([(said, text(merge[name])) for name, said in names if merge.get(name)]))
    if isinstance(merge.get("recipe"), dict):
        found.append(Details("the recipe as it was given", [Code(_public(merge["recipe"]))]))
    return Section("recipe", "Recipe", found)


def _public(given: Mapping[str, Any]) -> str:
    """Return the recipe as JSON, with the names of its models instead of this machine's paths."""
    shown = dict(given)
    models = shown.get("models")
    if isinstance(models, dict):
        shown["models"] = {
            name: label(source)
            if isinstance(source, str)
            else source | {"path": label(text(source.get("path")))}
            for name, source in models.items()
            if isinstance(source, str | dict)
        }
    return json.dumps(shown, indent=2, ensure_ascii=False)


def blocks(merge: Mapping[str, Any] | None, analysis: Mapping[str, Any] | None) -> Section | None:
    """Map the model: each model's share, and how far the parents lie apart."""
    maps = _shares(merge) if merge else []
    figures: dict[str, Mapping[tuple[str, str], float]] = {}
    if analysis is not None:
        rows = items(analysis, "blocks")
        figures = {name: _cells(rows, name) for name, *_ in _FIGURES}
    elif merge is not None:
        figures = _pairs(merge)
    found = [
        HeatMap(title, note, figures[name], _bounds(name, figures[name]), shape)
        for name, title, note, shape in _FIGURES
        if figures.get(name)
    ]
    first, rest = [*maps, *found[:2]], found[2:]
    if not first:
        return None
    content: list[Block] = [HeatMaps(first)]
    if rest:
        content.append(Details("more figures for each block", [HeatMaps(rest)]))
    notes = (analysis or {}).get("notes")
    content += [Prose(text(note), "small") for note in (notes if isinstance(notes, list) else ())]
    return Section("blocks", "Block by block", content)


def _shares(merge: Mapping[str, Any]) -> list[HeatMap]:
    """Return a map of the share of every model but the first."""
    models = [text(parent.get("name")) for parent in items(merge, "parents")]
    maps = []
    for model in models[1:]:
        cells = {
            (text(row["block"]), text(row["part"])): number(row["shares"].get(model)) or 0.0
            for row in _rows(merge)
            if isinstance(row.get("shares"), dict)
        }
        if cells:
            note = (
                f"0 is {models[0]} alone, 1 is {model} alone."
                if len(models) == 2
                else "Of all models."
            )
            maps.append(HeatMap(f"Share of {model}", note, cells, (0.0, 1.0)))
    return maps


def _cells(rows: Sequence[Mapping[str, Any]], name: str) -> dict[tuple[str, str], float]:
    return {
        (text(row.get("block")), text(row.get("part"))): value
        for row in rows
        if (value := number(row.get(name))) is not None
    }


def _pairs(merge: Mapping[str, Any]) -> dict[str, Mapping[tuple[str, str], float]]:
    """Return cosine and distance as the merge measured them, of its first pair of models."""
    rows = [(row, items(row, "pairs")) for row in _rows(merge)]
    flat = [
        {**pairs[0], "block": row["block"], "part": row["part"]} for row, pairs in rows if pairs
    ]
    return {"cosine": _cells(flat, "cosine"), "relative_delta": _cells(flat, "relative_l2")}


def _bounds(name: str, cells: Mapping[tuple[str, str], float]) -> tuple[float, float]:
    """Return the figures of the palest and the darkest shade: dark is where models differ most."""
    least, most = min(cells.values()), max(cells.values())
    if name == "cosine":
        return (1.0, least)
    return (least, most) if name in ("norm_ratio", "effective_rank") else (0.0, most)


def provenance(merge: Mapping[str, Any]) -> Section:
    """Say what the output was made of and by, and what was left over."""
    rows = [
        [text(parent.get(name)) for name in ("name", "label", "variant")]
        for parent in items(merge, "parents")
    ]
    found: list[Block] = [Table(["model", "source", "kind"], rows)] if rows else []
    found.append(Facts(_made_by(merge)))
    if isinstance(notes := merge.get("notes"), list):
        found += [Prose(text(note), "small") for note in notes]
    if unused := items(merge, "unused"):
        lines = [
            [text(entry.get("model")), text(entry.get("reason")), _names(entry)] for entry in unused
        ]
        found.append(
            Details("input tensors that were not used", [Table(["model", "why", "tensors"], lines)])
        )
    return Section("provenance", "Provenance", found)


def _names(entry: Mapping[str, Any]) -> str:
    names = entry.get("tensors") or ()
    return ", ".join(map(text, names[:10])) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )


def _made_by(merge: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    files = merge.get("files")
    if isinstance(files, dict) and files:
        size = sum(number(size) or 0 for size in files.values())
        facts.append(("weights", f"{bytes_in_words(int(size))} in {counted(len(files), 'file')}"))
    run = merge.get("run")
    if isinstance(run, dict):
        seconds, rss = number(run.get("seconds")), number(run.get("peak_rss"))
        if seconds is not None:
            facts.append(("merged in", seconds_in_words(seconds)))
        if rss is not None:
            facts.append(("peak memory of the merge", bytes_in_words(int(rss))))
        facts += [(name, text(run[name])) for name in ("threads", "io", "isa") if run.get(name)]
    versions = merge.get("versions")
    if isinstance(versions, dict):
        facts += [(text(name), text(version)) for name, version in versions.items()]
    return facts


def licence(merge: Mapping[str, Any]) -> Section | None:
    """Say the licence of the output, and what each parent brought to it."""
    if not merge.get("license"):
        return None
    rows = [
        [text(parent.get("name")), text(parent.get("license"))]
        for parent in items(merge, "parents")
    ]
    words = text(merge["license"])
    found: list[Block] = [Prose(words, "lead")]
    if "non-commercial" in words:
        found.append(
            Prose("Non-commercial: the terms stay with whatever is made of these weights.")
        )
    found.append(Table(["model", "licence"], rows))
    found.append(Prose("Found in the files, not legal advice.", "small"))
    return Section("licence", "Licence", found)
