"""Every JSON document that submerge writes: its type, its version, its schema, one way in and out.

`docs/schemas/` holds the JSON Schemas. A document says in `format` what it is and which version of
that; one of a newer version, of another kind or damaged is one clear error. Fields that are not
known are ignored, so a version changes only when what was there changes its meaning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, TypeVar, cast

from submerge.documents.adapter import AdapterDocument, MakingDocument
from submerge.documents.evaluation import EvaluationDocument
from submerge.documents.figures import AnalysisDocument, MergeDocument
from submerge.documents.form import checked, format_of, plain, schema
from submerge.documents.grid import GridDocument
from submerge.documents.inspection import (
    DifferenceDocument,
    InspectionDocument,
    VerificationDocument,
)
from submerge.documents.measurement import MeasureDocument
from submerge.documents.painting import EmbeddingsDocument, ImageDocument, ReproductionDocument
from submerge.errors import RecipeError, quoted
from submerge.given import shown
from submerge.given.text import DOCUMENT, load_document, plain_copy, read_document

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]

__all__ = [
    "DOCUMENTS",
    "AdapterDocument",
    "AnalysisDocument",
    "DifferenceDocument",
    "EmbeddingsDocument",
    "EvaluationDocument",
    "GridDocument",
    "ImageDocument",
    "InspectionDocument",
    "MakingDocument",
    "MeasureDocument",
    "MergeDocument",
    "ReportDocument",
    "ReproductionDocument",
    "VerificationDocument",
    "beside",
    "parsed",
    "published",
    "read",
    "text",
]

Document = TypeVar("Document")


class ReportDocument(TypedDict):
    """What `submerge report` writes beside its page: the inputs as one.

    Attributes:
        title: of the page.
    """

    format: Literal["submerge-report/1"]
    title: str
    merge: NotRequired[MergeDocument]
    analysis: NotRequired[AnalysisDocument]
    evaluation: NotRequired[EvaluationDocument]
    measure: NotRequired[MeasureDocument]


DOCUMENTS: Mapping[str, Any] = {
    "adapter": AdapterDocument,
    "making": MakingDocument,
    "merge": MergeDocument,
    "difference": DifferenceDocument,
    "inspection": InspectionDocument,
    "verification": VerificationDocument,
    "analysis": AnalysisDocument,
    "evaluation": EvaluationDocument,
    "measure": MeasureDocument,
    "report": ReportDocument,
    "reproduction": ReproductionDocument,
    "image": ImageDocument,
    "grid": GridDocument,
    "embeddings": EmbeddingsDocument,
}


def read(form: type[Document], source: Source) -> Document:
    """Return a document, checked, from a JSON file or from plain data.

    Raises:
        RecipeError: not JSON, of another kind or version, or not what its version says.
        OSError: the file cannot be read.
    """
    if isinstance(source, Mapping):
        kind = next(name for name, known in DOCUMENTS.items() if known is form)
        # In Python a figure that cannot be said is NaN.
        bounds = DOCUMENT._replace(finite=False)
        return _document(form, plain(plain_copy(source, kind, bounds)), kind)
    return _document(form, read_document(source), os.fspath(source))


def parsed(form: type[Document], words: str, where: str) -> Document:
    """Return the document a text holds; `where` is what errors call it.

    Raises:
        RecipeError: as `read`.
    """
    return _document(form, load_document(words, where), where)


def _document(form: type[Document], data: Any, where: str) -> Document:
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: expected a JSON object, got {shown(data)}")
    wanted, found = format_of(form), data.get("format")
    if found != wanted:
        got = quoted(found) if isinstance(found, str) else shown(found)
        raise RecipeError(
            f"{where}: expected the format {quoted(wanted)}, got {got}", hint=_advice(form, found)
        )
    return cast(Document, checked(form, data, where))


def _advice(form: Any, found: object) -> str:
    """Say what a document of another format is, and what to do."""
    kind, version = format_of(form).removeprefix("submerge-").split("/")
    name, _, number = str(found).removeprefix("submerge-").partition("/")
    if name in DOCUMENTS and name != kind:
        return f"this is what submerge writes for `{name}`, not for `{kind}`"
    if name == kind and number.isascii() and number.isdecimal() and int(number[:9]) > int(version):
        return "a newer submerge wrote this: upgrade, `pip install -U submerge`"
    return f"this is not what submerge writes for `{kind}`, or an older version wrote it"


def text(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Return a document as JSON; what is not a finite number is null."""
    said = json.dumps(plain(dict(document)), indent=indent, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair, from a file that held one, cannot be written but as its escape.
    return said.encode("utf-8", "backslashreplace").decode()


def beside(folder: Path, name: str) -> Path:
    """Return the path of a file that a document names, inside the folder the document lies in.

    Raises:
        RecipeError: the name leads out of the folder: a document from elsewhere must not reach
            other files of this machine.
    """
    path = folder / name
    try:
        path.exists()  # complains of what can be no file's name
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise RecipeError(f"images: expected a path inside {folder}, got {quoted(name)}")
    return path


def published(kind: str) -> str:
    """Return the schema of a kind of document as the text of docs/schemas/KIND.schema.json."""
    return json.dumps(schema(DOCUMENTS[kind]), indent=2, ensure_ascii=False) + "\n"
