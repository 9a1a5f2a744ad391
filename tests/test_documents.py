"""Every document we write says what it is, keeps to its schema, and comes back as it was."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest

import factory
import reports
import submerge
from submerge import RecipeError, cli, documents
from submerge.documents import DOCUMENTS, AnalysisDocument, EvaluationDocument, figures
from submerge.documents.form import fields, format_of
from submerge.findings import Spot
from submerge.page import build
from submerge.plan import Parent, Unused
from submerge.report import Run

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


def schema(kind: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.schema.json").read_text("utf-8"))
    return loaded


def valid(kind: str, data: Any) -> bool:
    """Whether a schema takes what JSON keeps of the data; both sides are asked separately."""
    return bool(jsonschema.Draft202012Validator(schema(kind)).is_valid(json.loads(data)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return {
        "a": factory.save_file(folder / "a.safetensors", factory.SCHNELL),
        "b": factory.save_file(folder / "b.safetensors", factory.KREA, "bfl"),
    }


# What is published.


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_published_schema_is_that_of_the_type(kind: str) -> None:
    path = SCHEMAS / f"{kind}.schema.json"
    assert path.read_text(encoding="utf-8") == documents.published(kind), (
        "python scripts/schemas.py"
    )
    jsonschema.Draft202012Validator.check_schema(schema(kind))


@pytest.mark.parametrize(
    ("inside", "written", "derived"),
    [
        (Spot, figures.Spot, set()),
        (Run, figures.Run, {"bytes_per_second"}),
        (Parent, figures.Parent, set()),
        (Unused, figures.Unused, set()),
    ],
)
def test_what_python_holds_is_what_documents_declare(
    inside: Any, written: Any, derived: set[str]
) -> None:
    """In the same order too; beside it only what follows from the rest."""
    declared = fields(written)
    assert tuple(name for name in declared if name not in derived) == inside._fields
    assert derived <= set(declared)
    for name in inside._fields:
        kind = declared[name][0]
        given = typing.get_type_hints(inside, localns={"Mapping": Mapping})[name]
        same = {list[str]: tuple[str, ...], dict[str, float]: Mapping[str, float]}
        assert same.get(kind, kind) == given, name


def test_no_schema_is_left_of_a_document_that_is_gone() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{k}.schema.json" for k in DOCUMENTS}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_format_names_kind_and_version(kind: str) -> None:
    assert format_of(DOCUMENTS[kind]) == f"submerge-{kind}/1"
    assert schema(kind)["properties"]["format"] == {"const": f"submerge-{kind}/1"}


# What is written.


@pytest.mark.parametrize("stats", [True, False])
def test_the_report_of_a_merge_keeps_to_its_schema(
    pair: dict[str, Path],
    tmp_path: Path,
    stats: bool,  # noqa: FBT001 - a case
) -> None:
    recipe = {
        "models": {name: str(path) for name, path in pair.items()},
        "alpha": 0.5,
        "rules": [{"where": "single[0]", "take": "a"}],
        "output": {"dtype": "f8_e4m3"},
    }
    made = submerge.merge(recipe, tmp_path / "out", stats=stats)
    assert valid("merge", made.to_json())
    assert documents.read(DOCUMENTS["merge"], json.loads(made.to_json())) is not None
    assert "blocks" in {section.key for section in build(merge=made.to_dict()).sections}


@pytest.mark.parametrize("kind", ["inspection", "verification", "difference"])
def test_what_verbs_that_look_print_keeps_to_its_schema(
    pair: dict[str, Path], tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd").mkdir()
    odd = factory.write(tmp_path / "odd" / "x.safetensors", {"x": np.ones((2, 2), np.float32)})
    pipeline = factory.save_pipeline(tmp_path / "pipeline", factory.KREA, shards=2)
    arguments = {
        "inspection": [["inspect", str(path)] for path in (pair["b"], odd, pipeline)],
        "verification": [["verify", str(path)] for path in (pair["b"], pipeline)],
        "difference": [["diff", str(pair["a"]), str(path)] for path in pair.values()],
    }[kind]
    for words in arguments:
        assert cli._run([*words, "--json"]) == cli.OK
        printed = capfd.readouterr().out
        assert valid(kind, printed), words
        read = documents.read(DOCUMENTS[kind], json.loads(printed))
        assert read["format"] == f"submerge-{kind}/1"
    with pytest.raises(RecipeError, match=f"expected the format `submerge-merge/1`, got .*{kind}"):
        documents.parsed(DOCUMENTS["merge"], printed, "x")


@pytest.mark.parametrize("base", [False, True])
def test_an_analysis_keeps_to_its_schema_and_comes_back(
    pair: dict[str, Path],
    tmp_path: Path,
    base: bool,  # noqa: FBT001 - a case
) -> None:
    found = submerge.analyze(pair["a"], pair["b"], pair["a"] if base else None)
    assert valid("analysis", found.to_json())
    path = found.save(tmp_path / "analysis.json")
    again = submerge.Analysis.load(path)
    assert again.rows == found.rows
    assert again.table() == found.table()


def made(tmp_path: Path) -> dict[str, Any]:
    return {
        "merge": reports.merge(),
        "analysis": reports.analysis(),
        "evaluation": reports.evaluation(tmp_path),
        "measure": reports.measure(),
    }


def test_the_inputs_of_the_page_tests_are_such_documents(tmp_path: Path) -> None:
    for kind, data in made(tmp_path).items():
        assert valid(kind, json.dumps(data)), kind
    page = build(**made(tmp_path))
    page.save(tmp_path / "report.html")
    assert valid("report", (tmp_path / "report.json").read_text(encoding="utf-8"))


def test_what_is_not_a_number_is_null_and_comes_back(tmp_path: Path) -> None:
    data = reports.evaluation(tmp_path)
    data["comparisons"][0]["win_rate"] = math.nan
    data["scores"][0]["value"] = math.inf
    text = documents.text(data)
    assert valid("evaluation", text)
    assert json.loads(text)["comparisons"][0]["win_rate"] is None
    again = documents.parsed(EvaluationDocument, text, "x")
    assert math.isnan(again["comparisons"][0]["win_rate"])
    assert math.isnan(again["scores"][0]["value"])
    assert again["comparisons"][1] == data["comparisons"][1]


def test_half_a_surrogate_pair_is_written_as_its_escape_and_refused_where_it_is_read(
    tmp_path: Path,
) -> None:
    data = reports.evaluation(tmp_path)
    data["prompts"][0]["text"] = "a \ud800 fox"
    text = documents.text(data)
    assert json.loads(text.encode()) == data
    with pytest.raises(RecipeError, match=r"prompts\[0\].text: .* bytes that are not UTF-8"):
        build(evaluation=data)


# What is read.


def test_later_fields_are_ignored_and_kept() -> None:
    data = reports.analysis() | {"later": [1]}
    data["blocks"][0]["later"] = {"x": None}
    read = documents.read(AnalysisDocument, data)
    assert read["later"] == [1]  # type: ignore[typeddict-item]  # unknown to this version
    assert valid("analysis", json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda d: d | {"format": "submerge-analysis/2"}, "got `submerge-analysis/2`", "upgrade"),
        (lambda d: d | {"format": "submerge-measure/1"}, "expected the format", "`measure`"),
        (lambda d: d | {"format": None}, "expected the format", "older version"),
        (lambda d: {k: v for k, v in d.items() if k != "format"}, "got nothing", "older version"),
        (lambda d: {k: v for k, v in d.items() if k != "blocks"}, "1 field: `blocks`", ""),
        (lambda d: d | {"alpha": "0.5"}, "analysis.alpha: expected a number, got the text", ""),
        (lambda d: d | {"alpha": True}, "analysis.alpha: expected a number, got true", ""),
        (lambda d: d | {"alpha": 10**400}, "expected a number, got a huge integer", ""),
        (lambda d: d | {"notes": {}}, "analysis.notes: expected a list", ""),
        (lambda d: d | {"paths": {"a": 1}}, "analysis.paths.a: expected a text, got 1", ""),
        (lambda d: d | {"blocks": [1]}, "analysis.blocks[0]: expected an object, got 1", ""),
        (lambda d: d | {"blocks": [{}]}, "analysis.blocks[0]: expected 17 fields", ""),
    ],
)  # fmt: skip
def test_what_is_not_the_document_is_one_clear_error(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        build(analysis=change(reports.analysis()))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ('{"format": NaN}', "format: expected a finite number"),
        ("[" * 100_000, "nested deeper than 32 levels"),
        ("null", "expected a JSON object, got nothing"),
        ('{"format": "submerge-analysis/1", "blocks"', "analysis.json:1:43: not JSON"),
        ("\xff", "byte 0 is not UTF-8"),
    ],
)
def test_text_that_is_no_document(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "analysis.json"
    path.write_bytes(text.encode("latin-1"))
    for read in (lambda: build(analysis=path), lambda: submerge.Analysis.load(path)):
        with pytest.raises(RecipeError, match=message):
            read()


def test_what_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    data = reports.evaluation(tmp_path)
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    data["options"]["deep"] = deep
    with pytest.raises(RecipeError, match="nested deeper than 32 levels"):
        build(evaluation=data)


@pytest.mark.parametrize("name", ["x" * 5000, "../b.png", "/etc/hostname", ".."])
def test_names_that_are_no_paths_inside_are_refused(tmp_path: Path, name: str) -> None:
    data = reports.evaluation(tmp_path, prompts=1)
    data["images"][0]["path"] = name
    with pytest.raises(RecipeError, match="expected a path inside"):
        build(evaluation=data)


def wrong(value: Any) -> list[Any]:
    """Values of other kinds than this one."""
    others: list[Any] = [None, True, -1, 2.5, "x", [], {}, [[]], {"x": []}]
    return [other for other in others if type(other) is not type(value)]


@pytest.mark.parametrize("kind", ["merge", "analysis", "evaluation", "measure"])
def test_any_field_of_any_wrong_kind_is_one_clear_error_or_no_matter(
    tmp_path: Path, kind: str
) -> None:
    """Each field of the document and of the first row of each list, in turn."""

    def spoiled(data: Any, form: Any) -> list[dict[str, Any]]:
        made = []
        for name in fields(form):
            if name in data:
                made += [data | {name: value} for value in wrong(data[name])]
                rows = data[name]
                if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                    made += [
                        data | {name: [rows[0] | {key: value}, *rows[1:]]}
                        for key in rows[0]
                        for value in wrong(rows[0][key])
                    ]
        return made

    form = DOCUMENTS[kind]
    data = small(made_one(tmp_path, kind))
    tried = spoiled(data, form)
    assert len(tried) > 60
    refused = 0
    for one in tried:
        try:
            build(**{kind: one}).html()  # type: ignore[arg-type]  # one of its keywords
        except RecipeError as error:
            assert kind in error.message or "images" in error.message  # noqa: PT017
            refused += 1
    assert refused > len(tried) / 2


def made_one(tmp_path: Path, kind: str) -> dict[str, Any]:
    document: dict[str, Any] = made(tmp_path)[kind]
    return document


def small(data: dict[str, Any]) -> dict[str, Any]:
    """A document with at most three rows in each list: what is tried is tried often."""
    return {key: value[:3] if isinstance(value, list) else value for key, value in data.items()}
