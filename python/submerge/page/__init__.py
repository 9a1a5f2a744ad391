"""One page that tells what a merge is: recipe, images beside its parents', scores, memory, licence.

```python
from submerge.page import build

page = build(merge="merge.json", evaluation="tested/", measure="measure.json")
page.save("report.html")  # and report.md, report.json beside it
```

The page is one file: no server, no network, no font or script from elsewhere. What was not given is
left out. It reads without a script; light or dark follow the system until chosen otherwise.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from submerge import documents
from submerge.documents import (
    AnalysisDocument,
    EvaluationDocument,
    MeasureDocument,
    MergeDocument,
)
from submerge.errors import RecipeError, counted
from submerge.files import write_whole
from submerge.page import judged, measured, sections
from submerge.page.content import Cell, Section, badge
from submerge.page.inputs import load
from submerge.pictures.markup import Markup, join, markdown, tag
from submerge.pictures.palette import DIVERGING, NOTHING, SEQUENTIAL, SERIES

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from submerge.documents import GridDocument, ReportDocument, Source
    from submerge.documents.measurement import MeasuredModel
    from submerge.documents.painting import ModelRow

__all__ = ["Page", "build"]

# All pictures together, of the 8 MB that a page may take.
_PICTURES = 7_000_000


def build(
    *,
    merge: Source | None = None,
    analysis: Source | None = None,
    evaluation: Source | None = None,
    measure: Source | None = None,
    title: str | None = None,
) -> Page:
    """Make a page of what is known about a merge; at least one input must be given.

    Args:
        merge: what `submerge merge --json` printed, or `Report.to_dict()`.
        analysis: what `submerge analyze` wrote.
        evaluation: the folder or `evaluation.json` that `submerge test` wrote.
        measure: what `submerge measure` wrote.
        title: at the top; by default the merge's.

    Raises:
        RecipeError: nothing was given, or an input is not what it should be.
        OSError: an input cannot be read.
        SubmergeError: there are images and Pillow is not installed.
    """
    data: ReportDocument = {"format": "submerge-report/1", "title": ""}
    folder = Path()
    if merge is not None:
        data["merge"], _ = load(MergeDocument, merge, "merge.json")
    if analysis is not None:
        data["analysis"], _ = load(AnalysisDocument, analysis, "analysis.json")
    if evaluation is not None:
        data["evaluation"], folder = load(EvaluationDocument, evaluation, "evaluation.json")
    if measure is not None:
        data["measure"], _ = load(MeasureDocument, measure, "measure.json")
    if len(data) == 2:
        raise RecipeError(
            "report: expected at least one of merge, analysis, evaluation, measure, got none"
        )
    data["title"] = title or _title(data)
    made = tuple(section for section in _sections(data, folder) if section is not None)
    merge = data.get("merge")
    formula = sections.main_formula(merge) if merge is not None else None
    lead = None if formula is None else f"result = {formula}"
    return Page(data["title"], tuple(_facts(data)), made, data, lead)


def _sections(data: ReportDocument, folder: Path) -> Iterable[Section | None]:
    merge, analysis = data.get("merge"), data.get("analysis")
    evaluation, measure = data.get("evaluation"), data.get("measure")
    yield sections.notes(
        merge=merge["notes"] if merge else (),
        analysis=analysis["notes"] if analysis else (),
        evaluation=evaluation.get("notes", ()) if evaluation else (),
    )
    if evaluation is not None:
        yield judged.questions(evaluation)
        yield judged.images(evaluation, folder, _PICTURES)
        yield judged.scores(evaluation)
    if merge is not None:
        yield sections.recipe(merge)
    yield sections.blocks(merge, analysis)
    if measure is not None:
        yield measured.memory(measure)
    if merge is not None:
        yield sections.provenance(merge)
    yield measured.environments(
        evaluation=evaluation["environment"] if evaluation else None,
        measure=measure["environment"] if measure else None,
    )
    if merge is not None:
        yield sections.licence(merge)


def _title(data: ReportDocument) -> str:
    if (merge := data.get("merge")) and merge["title"]:
        return merge["title"]
    models = [*_models(data.get("evaluation")), *_models(data.get("measure"))]
    if merges := [model["name"] for model in models if model["role"] == "merge"]:
        return merges[0]
    analysis = data.get("analysis")
    return " and ".join(analysis["models"].values()) if analysis else "submerge report"


def _models(
    found: EvaluationDocument | MeasureDocument | None,
) -> Sequence[ModelRow | MeasuredModel]:
    return () if found is None else found["models"]


def _facts(data: ReportDocument) -> Iterable[tuple[str, Cell]]:
    """Yield what a reader wants to know first."""
    merge, evaluation = data.get("merge"), data.get("evaluation")
    if evaluation is not None and (found := judged.verdicts(evaluation)):
        badges = [badge(verdict, count) for verdict, count in found.items()]
        words = ", ".join(cell.text for cell in badges)
        yield "verdicts", Cell(words, join(*(join(cell.html, " ") for cell in badges)))
    if evaluation is not None:
        models, prompts = evaluation["models"], evaluation["prompts"]
        yield (
            "judged on",
            _plain(f"{counted(len(prompts), 'prompt')}, {counted(len(models), 'model')}"),
        )
    if merge is not None and merge["license"]:
        yield "licence", _plain(merge["license"])


def _plain(words: str) -> Cell:
    return Cell(words, join(words))


@dataclass(frozen=True, slots=True)
class Page:
    """A report, ready to be written.

    Attributes:
        title: of the page.
        facts: what stands at the top: name and value.
        sections: in order; only those there was something for.
        data: the inputs as one document.
        lead: what it is in one line: `result = 0.60 * schnell + 0.40 * krea`.
    """

    title: str
    facts: Sequence[tuple[str, Cell]]
    sections: Sequence[Section]
    data: ReportDocument | GridDocument
    lead: str | None = None

    def html(self) -> str:
        """Return the page."""
        script = _file("page.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        )
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", self.title),
            tag("style", Markup(_colours() + _file("page.css"))),
        )
        skip = tag("a", "skip to the content", href="#content", class_="skip")
        main = tag("main", *(section.html() for section in self.sections), id="content")
        body = tag(
            "body",
            skip,
            self._header(),
            self._nav(),
            main,
            _footer(),
            tag("script", Markup(script)),
        )
        return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"

    def _header(self) -> Markup:
        pairs = (tag("div", tag("dt", name), tag("dd", said.html)) for name, said in self.facts)
        facts = tag("dl", *pairs, class_="facts") if self.facts else None
        lead = tag("p", self.lead, class_="lead") if self.lead else None
        return tag("header", _themes(), tag("h1", self.title), lead, facts)

    def _nav(self) -> Markup:
        links = (tag("li", tag("a", s.title, href=f"#{s.key}")) for s in self.sections)
        return tag("nav", tag("ul", *links), aria_label="sections")

    def markdown(self) -> str:
        """Return the report in Markdown; charts become tables, images their paths."""
        facts = [f"- **{name}**: {markdown(said.text)}" for name, said in self.facts]
        lead = [markdown(self.lead)] if self.lead else []
        parts = [f"# {markdown(self.title)}", *lead, "\n".join(facts)]
        return "\n\n".join([*filter(None, parts), *(s.markdown() for s in self.sections)]) + "\n"

    def to_dict(self) -> ReportDocument | GridDocument:
        """Return the inputs as one, ready for JSON."""
        return self.data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, and Markdown and JSON of the same name beside it.

        Raises:
            RecipeError: the path does not end in `.html`.
            OSError: a file cannot be written.
        """
        target = Path(path)
        if target.suffix not in (".html", ".htm"):
            raise RecipeError(f"{target}: expected a path that ends in .html")
        write_whole(target.with_suffix(".json"), documents.text(self.data, indent=1))
        write_whole(target.with_suffix(".md"), self.markdown())
        write_whole(target, self.html())


def _themes() -> Markup:
    """Return the choice of colours, which works without a script."""
    choices = []
    for name in ("auto", "light", "dark"):
        button = tag(
            "input", type="radio", name="theme", id=f"theme-{name}", checked=name == "auto"
        )
        choices.append(tag("label", button, name))
    return tag("fieldset", *choices, class_="theme", aria_label="colours")


def _colours() -> str:
    """Return the rules of the colours that pictures share; those of a series are variables."""
    shades = [*SEQUENTIAL.shades(), *DIVERGING.shades(), NOTHING]
    fills = "".join(f".{s.name}{{fill:light-dark({s.light},{s.dark})}}" for s in shades)
    series = "".join(f"--{s.name}:light-dark({s.light},{s.dark});" for s in SERIES)
    return f":root{{{series}}}{fills}"


def _footer() -> Markup:
    return tag("footer", "Made by submerge. This file is complete: it loads nothing from anywhere.")


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
