"""The report: one file, complete, for any input, and nothing from it is taken for HTML."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

import reports
import submerge
from factory import KREA, SCHNELL, save_file
from submerge import RecipeError, cli
from submerge.page import build
from submerge.page.charts import interval, thinned
from submerge.page.images import thumbnails
from submerge.page.maps import Maps
from submerge.pictures.heatmap import HeatMap, Place
from submerge.pictures.markup import Markup, coded, markdown, tag

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"br", "img", "input", "meta"}
ALLOWED_SCHEMES = ("data:image/webp;base64,", "#")


class Document(HTMLParser):
    """What a page holds; raises where its elements do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reports.evaluation(tmp_path / "tested")
    return tmp_path / "tested"


def everything(folder: Path) -> dict[str, Any]:
    return {
        "merge": reports.merge(),
        "analysis": reports.analysis(),
        "evaluation": folder,
        "measure": reports.measure(),
    }


def check_complete(document: Document) -> None:
    """Nothing is loaded from anywhere, and every name leads somewhere."""
    ids = [a["id"] for _, a in document.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert not document.all("link") + document.all("iframe") + document.all("object")
    for _, attributes in document.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(ALLOWED_SCHEMES), value
        if (value := attributes.get("href")) is not None:
            assert value.removeprefix("#") in ids
    assert [a for a in document.all("script") if a] == []
    assert len(document.all("script")) == 1


# What it shows.


def test_every_section_of_what_was_given(folder: Path) -> None:
    page = build(**everything(folder))
    keys = [section.key for section in page.sections]
    assert keys == [
        "notes",
        "questions",
        "images",
        "scores",
        "recipe",
        "blocks",
        "memory",
        "provenance",
        "environment",
        "licence",
    ]
    document = Document(page.html())
    check_complete(document)
    sections = [attributes["id"] for attributes in document.all("section")]
    assert sections == keys
    words = " ".join(document.texts)
    for said in (
        "result = 0.60 * schnell + 0.40 * krea",
        "seven red apples in a row on a white table",
        "flux-1-dev-non-commercial-license (from krea)",
        "Non-commercial",
        "+0.004 to +0.021",
        "61%",
        "16.2 s",
        "1.1 GB",
        "owner/schnell",
        "image_reward",
    ):
        assert said in words, said


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("merge", ["notes", "recipe", "blocks", "provenance", "licence"]),
        ("analysis", ["blocks"]),
        ("evaluation", ["questions", "images", "scores", "environment"]),
        ("measure", ["memory", "environment"]),
    ],
)
def test_what_was_not_given_is_left_out(folder: Path, kind: str, keys: list[str]) -> None:
    page = build(**{kind: everything(folder)[kind]})
    assert [section.key for section in page.sections] == keys
    check_complete(Document(page.html()))
    assert page.markdown().startswith("# ")


def test_a_map_says_each_figure_in_its_cell_and_in_words() -> None:
    places = [
        Place("embed", "", "embed"),
        Place("double.0", "img", "mlp"),
        Place("single.3", "", "mlp"),
    ]
    cells = {place: (value, 9) for place, value in zip(places, (1.0, 0.25, 0.75), strict=True)}
    drawn = Maps([HeatMap("Share", "of b", cells, bounds=(0.0, 1.0))])
    found = re.findall(
        r'class="h(\d+)"><title>([^<]*)</title>|<title>([^<]*)</title>', drawn.html()
    )
    titles = re.findall(r"<rect[^>]*class=\"h(\d+)\"[^>]*><title>([^<]*)</title>", drawn.html())
    assert found
    assert titles == [
        ("10", "double.0 img mlp: Share 0.25"),
        ("30", "single.3 mlp: Share 0.75"),
        ("40", "embed: Share 1.00"),
    ]
    assert "| double img mlp | 0.25 | 0.25 | 0.25 |" in drawn.markdown()


def test_the_real_report_of_a_merge(tmp_path: Path) -> None:
    models = {
        "a": str(save_file(tmp_path / "a.safetensors", SCHNELL, "bfl")),
        "b": str(save_file(tmp_path / "b.safetensors", KREA, "bfl")),
    }
    rules = [{"where": "double[0].img.mlp", "alpha": 0.9}, {"where": "single", "alpha": 0.2}]
    recipe = {"models": models, "alpha": 0.5, "rules": rules}
    report = submerge.merge(recipe, tmp_path / "out.safetensors")
    page = build(merge=report.to_dict())
    html = page.html()
    check_complete(Document(html))
    assert "double.0 img mlp: Share of b 0.90<" in html
    assert "double.0 txt mlp: Share of b 0.50<" in html
    assert "double.1 img mlp: Share of b 0.50<" in html
    assert "single.0 mlp: Share of b 0.20<" in html
    assert "0.10 * a + 0.90 * b" in html
    assert "double[0].img.mlp" in html
    assert "(in part)" not in html
    assert str(tmp_path) not in html


def test_intervals_are_drawn_to_scale() -> None:
    drawn = interval(0.5, -0.5, 1.0, 1.0, "good")
    (dot,) = re.findall(r'<circle cx="([\d.]+)"', drawn)
    ends = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="12"', drawn)
    assert (float(dot), [tuple(map(float, pair)) for pair in ends]) == (118.0, [(42.0, 156.0)])


def test_signals_along_names_are_drawn_in_their_order(folder: Path) -> None:
    html = build(evaluation=folder).html()
    chart = html.partition("block contribution")[2].partition("</figure>")[0]
    titles = re.findall(r"<title>merged: ([^<]*)</title>", chart)
    assert titles == [f"double.{i}, {i}" for i in range(19)]
    assert "signals of one figure" in html


@pytest.mark.parametrize("value", [1e308, -1e308, None])
def test_no_figure_breaks_a_chart(tmp_path: Path, value: float | None) -> None:
    data = reports.evaluation(tmp_path, prompts=1)
    for signal in data["signals"]:
        signal["value"] = value
    for row in data["comparisons"]:
        row.update(dict.fromkeys(("mean_difference", "low", "high", "win_rate"), value))
    measure = reports.measure()
    for line in measure["timelines"]:
        line["samples"][3]["seconds"] = value or 0.0
        line["spans"][0]["seconds"] = value or 0.0
    analysis = reports.analysis()
    analysis["blocks"][5]["cosine"] = value
    check_complete(Document(build(evaluation=data, measure=measure, analysis=analysis).html()))


def test_a_long_curve_keeps_its_peak() -> None:
    curve = [(float(i), float(i == 7777)) for i in range(20_000)]
    short = thinned(curve)
    assert len(short) <= 400
    assert (7777.0, 1.0) in short
    assert short == sorted(short)


# Hostile names.


def hostile(data: Any) -> Any:
    """The same data with every text that is no identifier of ours replaced by an attack."""
    keep = {"format", "role", "verdict", "better", "block", "part", "prompt", "id", "path"}
    keep |= {"stream"}
    if isinstance(data, dict):
        held = {key: value if key in keep else hostile(value) for key, value in data.items()}
        return ({reports.HOSTILE: next(iter(held.values()))} if held else {}) | held
    if isinstance(data, list):
        return [hostile(item) for item in data]
    return reports.HOSTILE if isinstance(data, str) else data


def test_no_name_is_taken_for_markup(folder: Path) -> None:
    inputs = everything(folder) | {"evaluation": hostile(reports.evaluation(folder))}
    for kind in ("merge", "analysis", "measure"):
        inputs[kind] = hostile(inputs[kind])
    page = build(**inputs, title=reports.HOSTILE)
    text = page.html()
    document = Document(text)
    check_complete(document)
    assert document.all("img") == []
    assert text.count("</script>") == 1
    # Inside a fence nothing is a mark.
    plain = re.sub(r"^(```+)\n.*?^\1$", "", page.markdown(), flags=re.MULTILINE | re.DOTALL)
    assert "<" not in plain.replace("&lt;", "")
    assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(", plain)


def test_what_html_forbids_becomes_visible() -> None:
    assert tag("p", "a\x00b\x1bc\ufffe") == "<p>a\ufffdb\ufffdc\ufffd</p>"
    assert tag("p", title='"><b>') == '<p title="&quot;&gt;&lt;b&gt;"></p>'
    assert tag("p", Markup("<b></b>"), "<b>") == "<p><b></b>&lt;b&gt;</p>"
    assert markdown("a|b\n# <c>`*") == "a\\|b \\# &lt;c&gt;\\`\\*"


def test_words_in_backticks_are_code_and_nothing_else_is() -> None:
    assert coded("take `<b>` from `a`") == ("take <code>&lt;b&gt;</code> from <code>a</code>")
    assert coded("one ` alone <b>") == "one ` alone &lt;b&gt;"
    assert coded("") == ""


# Images.


def test_images_travel_inside_the_page(tmp_path: Path) -> None:
    reports.evaluation(tmp_path, prompts=2, side=96)
    (tmp_path / "images" / "krea-p1-0.png").unlink()
    document = Document(build(evaluation=tmp_path / "evaluation.json").html())
    images = document.all("img")
    assert len(images) == 5
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in images)
    assert images[0]["alt"] == f"schnell: {reports.PROMPTS[0][0]}, seed 0"
    assert "no image" in document.texts


def test_64_prompts_of_three_models_fit_in_eight_megabytes(tmp_path: Path) -> None:
    data = reports.evaluation(tmp_path, prompts=64)
    reports.paint(tmp_path / "one.png", "one", 384)
    for image in data["images"]:
        (tmp_path / image["path"]).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "one.png", tmp_path / image["path"])
    page = build(**everything(tmp_path))
    page.save(tmp_path / "report.html")
    assert len(Document(page.html()).all("img")) == 192
    assert 2_000_000 < (tmp_path / "report.html").stat().st_size < 8_000_000


def test_pictures_shrink_until_they_fit_or_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        reports.paint(path, path.name, 256)
    large = thumbnails(paths, 1_000_000)
    small = thumbnails(paths, 40_000)
    assert {picture.width for picture in large.values()} == {256}
    assert {picture.width for picture in small.values()} < {96, 128, 192}
    assert sum(len(picture.address) for picture in small.values()) <= 40_000
    with pytest.raises(RecipeError, match="4 pictures do not fit in 1,000 bytes"):
        thumbnails(paths, 1_000)


# Refusals.


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    reports.paint(tmp_path / "secret.png", "secret", 32)
    data = reports.evaluation(tmp_path / "tested", prompts=1)
    data["images"][0]["path"] = path
    (tmp_path / "tested" / "evaluation.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RecipeError, match="expected a path inside "):
        build(evaluation=tmp_path / "tested")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got a list of 0 items"),
        ('{"format": "submerge-analysis/2"}', "expected the format `submerge-analysis/1`"),
        ('{"format": "submerge-analysis/1"}', "expected 12 fields: `submerge`"),
    ],
)
def test_what_is_no_input_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "analysis.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        build(analysis=tmp_path / "analysis.json")


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected at least one of merge, analysis"):
        build()


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    data = reports.evaluation(tmp_path, prompts=1)
    path = tmp_path / data["images"][0]["path"]
    path.parent.mkdir()
    path.write_text("no picture", encoding="utf-8")
    with pytest.raises(RecipeError, match="expected a picture"):
        build(evaluation=tmp_path)


# The command.


def test_the_command_writes_three_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "merge.json").write_text(json.dumps(reports.merge()), encoding="utf-8")
    out = tmp_path / "report.html"
    given = ["--merge", str(tmp_path / "merge.json"), "--evaluation", str(folder)]
    assert cli._run(["report", *given, "-o", str(out)]) == 0
    written = sorted(path.name for path in tmp_path.iterdir() if path.stem == "report")
    assert written == ["report.html", "report.json", "report.md"]
    assert json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["format"] == (
        "submerge-report/1"
    )
    assert "## Licence" in out.with_suffix(".md").read_text(encoding="utf-8")
    assert cli._run(["report", *given, "-o", str(tmp_path / "report.txt")]) == 2
    assert cli._run(["report", "-o", str(out)]) == 2
