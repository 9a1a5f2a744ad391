"""The sections about the merge itself: recipe, blocks, provenance, licence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import counted
from submerge.page.charts import seconds_in_words
from submerge.page.content import Block, Code, Details, Facts, Notes, Prose, Section, Table
from submerge.page.inputs import known
from submerge.page.maps import Maps
from submerge.pictures.heatmap import HeatMap, Place
from submerge.plan.labels import label
from submerge.plan.sizes import bytes_in_words
from submerge.plan.words import selectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.documents import AnalysisDocument, MergeDocument
    from submerge.documents.figures import MergeRow, Unused

    Cells = Mapping[Place, tuple[float, int]]

__all__ = ["blocks", "licence", "main_formula", "notes", "provenance", "recipe", "written"]

# More formulas than this, those of a gradient for example, are folded away.
_SHOWN = 10


class _Figure(NamedTuple):
    """A figure of an analysis: its name, title, how to read it; the rest as in `HeatMap`."""

    name: str
    title: str
    note: str
    shape: str
    centre: float | None = None
    falling: bool = False


_FIGURES = (
    _Figure(
        "cosine",
        "Cosine of the parents",
        "1 is the same direction; the strongest colour differs most.",
        "{:.4f}",
        falling=True,
    ),
    _Figure(
        "relative_delta",
        "Distance of the parents",
        "Length of the difference over the first model's.",
        "{:.1%}",
    ),
    _Figure(
        "norm_ratio",
        "Ratio of lengths",
        "The second model's length over the first's.",
        "{:.3f}",
        centre=1.0,
    ),
    _Figure(
        "delta_norm",
        "Length of the difference",
        "Not relative: larger tensors have more of it.",
        "{:.3g}",
    ),
    _Figure(
        "sign_conflict",
        "Conflicting signs",
        "Share of elements whose deltas point apart.",
        "{:.0%}",
        centre=0.5,
        falling=True,
    ),
    _Figure(
        "effective_rank",
        "Effective rank of the difference",
        "How many directions it takes.",
        "{:.1f}",
    ),
)


def _name(row: MergeRow) -> str:
    block, stream, part = row["block"], row.get("stream", ""), row["part"]
    return block if block == part else ".".join(filter(None, (block, stream, part)))


def _formulas(merge: MergeDocument) -> dict[str, list[MergeRow]]:
    found: dict[str, list[MergeRow]] = {}
    for row in merge["rows"]:
        for formula in row["formulas"]:
            found.setdefault(formula, []).append(row)
    return found


def main_formula(merge: MergeDocument) -> str | None:
    """Return the formula most elements were made by."""
    sizes = {
        formula: sum(row["elements"] for row in rows) for formula, rows in _formulas(merge).items()
    }
    return max(sizes, key=lambda formula: sizes[formula]) if sizes else None


def recipe(merge: MergeDocument) -> Section:
    """Say the recipe in words: each formula with the parts it made, then as it was given."""
    universe = [_name(row) for row in merge["rows"]]
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
    facts = (("layout", merge["layout"]), ("numbers", merge["dtype"]))
    found.append(Facts([*facts, ("guidance", merge["guidance"])]))
    if merge["recipe"]:
        found.append(Details("the recipe as it was given", [Code(written(merge["recipe"]))]))
    return Section("recipe", "Recipe", found)


def written(given: Mapping[str, Any]) -> str:
    """Return the recipe as JSON, with the names of its models instead of this machine's paths."""
    shown = dict(given)
    models = shown.get("models")
    if isinstance(models, dict):
        shown["models"] = {
            name: label(source)
            if isinstance(source, str)
            else source | {"path": label(str(source.get("path")))}
            for name, source in models.items()
            if isinstance(source, str | dict)
        }
    return json.dumps(shown, indent=2, ensure_ascii=False)


def blocks(merge: MergeDocument | None, analysis: AnalysisDocument | None) -> Section | None:
    """Map the model: each model's share, and how far the parents lie apart."""
    maps = _shares(merge) if merge else []
    figures: dict[str, Cells] = {}
    if analysis is not None:
        figures = {figure.name: _figure(analysis, figure.name) for figure in _FIGURES}
    elif merge is not None:
        figures = _pairs(merge)
    found = [
        HeatMap(f.title, f.note, figures[f.name], f.shape, f.centre, f.falling)
        for f in _FIGURES
        if figures.get(f.name)
    ]
    first, rest = [*maps, *found[:2]], found[2:]
    if not first:
        return None
    content: list[Block] = [Maps(first)]
    if rest:
        content.append(Details("more figures for each block", [Maps(rest)]))
    return Section("blocks", "Block by block", content)


def _shares(merge: MergeDocument) -> list[HeatMap]:
    """Return a map of the share of every model but the first."""
    models = [parent["name"] for parent in merge["parents"]]
    maps = []
    for model in models[1:]:
        cells = _cells((row, row["shares"].get(model, 0.0)) for row in merge["rows"])
        if cells:
            note = (
                f"0 is {models[0]} alone, 1 is {model} alone."
                if len(models) == 2
                else "Of all models."
            )
            maps.append(HeatMap(f"Share of {model}", note, cells, bounds=(0.0, 1.0)))
    return maps


def _cells(rows: Iterable[tuple[Any, float | None]]) -> Cells:
    """Return the cells of rows, of a merge or an analysis, whose figure is known."""
    return {
        Place(row["block"], row.get("stream", ""), row["part"]): (value, row["elements"])
        for row, figure in rows
        if (value := known(figure)) is not None
    }


def _figure(analysis: AnalysisDocument, name: str) -> Cells:
    return _cells((row, row.get(name)) for row in analysis["blocks"])  # type: ignore[misc]


def _pairs(merge: MergeDocument) -> dict[str, Cells]:
    """Return cosine and distance as the merge measured them, of its first pair of models."""
    paired = [(row, row["pairs"][0]) for row in merge["rows"] if row["pairs"]]
    return {
        "cosine": _cells((row, pair["cosine"]) for row, pair in paired),
        "relative_delta": _cells((row, pair["relative_l2"]) for row, pair in paired),
    }


def notes(**inputs: Sequence[str]) -> Section | None:
    """List what a reader should know before anything else, by the input that says it."""
    found = [note for said in inputs.values() for note in said]
    return Section("notes", "Worth knowing", [Notes(list(dict.fromkeys(found)))]) if found else None


def provenance(merge: MergeDocument) -> Section:
    """Say what the output was made of and by, and what was left over."""
    rows = [[p["name"], p["label"], p["variant"]] for p in merge["parents"]]
    found: list[Block] = [Table(["model", "source", "kind"], rows)] if rows else []
    found.append(Facts(_made_by(merge)))
    if merge["unused"]:
        lines = [[of["model"], of["reason"], _names(of)] for of in merge["unused"]]
        found.append(
            Details("input tensors that were not used", [Table(["model", "why", "tensors"], lines)])
        )
    return Section("provenance", "Provenance", found)


def _names(unused: Unused) -> str:
    names = unused["tensors"]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _made_by(merge: MergeDocument) -> list[tuple[str, str]]:
    files, run = merge["files"], merge["run"]
    size = bytes_in_words(sum(files.values()))
    return [
        ("weights", f"{size} in {counted(len(files), 'file')}"),
        ("merged in", seconds_in_words(run["seconds"])),
        ("peak memory of the merge", bytes_in_words(run["peak_rss"])),
        ("threads", str(run["threads"])),
        ("io", run["io"]),
        ("isa", run["isa"]),
        *((name, str(version)) for name, version in merge["versions"].items()),
    ]


def licence(merge: MergeDocument) -> Section | None:
    """Say the licence of the output, and what each parent brought to it."""
    words = merge["license"]
    if not words:
        return None
    found: list[Block] = [Prose(words, "lead")]
    if "non-commercial" in words:
        found.append(
            Prose("Non-commercial: the terms stay with whatever is made of these weights.")
        )
    rows = [[parent["name"], parent["license"]] for parent in merge["parents"]]
    found.append(Table(["model", "licence"], rows))
    found.append(Prose("Found in the files, not legal advice.", "small"))
    return Section("licence", "Licence", found)
