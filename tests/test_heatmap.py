"""The picture of an analysis: well formed, one cell for each figure, the colours of the values."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

import factory
from submerge import Analysis, RecipeError, SubmergeError, analyze
from submerge.analysis.rows import BlockRow, Sums
from submerge.cli import app
from submerge.pictures.heatmap import HeatMap, Place
from submerge.pictures.palette import DIVERGING, SEQUENTIAL, Scale

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


def known(*, base: bool = False) -> Analysis:
    """One block of two parts and the final layer, with figures that are easy to see."""
    same = Sums(units=1, elements=4, norm2_a=4.0, norm2_b=4.0)
    far = same._replace(delta2=12.0, norm2_b=16.0, ranked=4.0, rank=8.0, noise_rank=16.0)
    if base:
        far = far._replace(
            based=4, both=4, conflicts=1, product=2.0, product_abs=4.0, delta2_a=4.0, delta2_b=4.0
        )
    rows = (
        BlockRow("double.0", "mlp", same),
        BlockRow("double.0", "mod", far),
        BlockRow("final", "final", same),
    )
    models = {"a": "one", "b": "two"} | ({"base": "three"} if base else {})
    paths = {role: f"{name}.safetensors" for role, name in models.items()}
    return Analysis(models, paths, 0.5, None, "auto", (), rows, (), ())


def cells(path: Path) -> dict[str, str]:
    """The colour of every cell by its words."""
    root = ET.fromstring(path.read_text())  # noqa: S314 - written by this test
    assert root.tag == f"{SVG}svg"
    found = {}
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text is not None:
            found[title.text] = rect.attrib["fill"]
    return found


def test_every_figure_has_one_cell_of_its_colour(tmp_path: Path) -> None:
    found = cells(known().heatmap(tmp_path / "map.svg"))
    assert found == {
        "double.0 mlp: cosine 1.0000": SEQUENTIAL.light[0],
        "final: cosine 1.0000": SEQUENTIAL.light[0],
        "double.0 mod: cosine 0.5000": SEQUENTIAL.light[-1],
        "double.0 mlp: relative delta 0.00%": SEQUENTIAL.light[0],
        "final: relative delta 0.00%": SEQUENTIAL.light[0],
        "double.0 mod: relative delta 173.21%": SEQUENTIAL.light[-1],
        "double.0 mlp: norm ratio 1.0000": DIVERGING.light[3],
        "final: norm ratio 1.0000": DIVERGING.light[3],
        "double.0 mod: norm ratio 2.0000": DIVERGING.light[-1],
        "double.0 mod: rank of b - a 50%": SEQUENTIAL.light[2],
    }


def test_a_base_adds_how_the_changes_agree(tmp_path: Path) -> None:
    found = cells(known(base=True).heatmap(tmp_path / "map.svg"))
    agree = found["double.0 mod: cosine of deltas +0.500"]
    # Orange is where the two disagree most, in both panels.
    assert agree == DIVERGING.light[-1]
    assert found["double.0 mod: sign conflict 25.0%"] == DIVERGING.light[-1]
    assert not any("norm ratio" in name for name in found)


def test_a_real_analysis_has_a_cell_for_each_figure(tmp_path: Path) -> None:
    a = factory.save_file(tmp_path / "a.safetensors", factory.Flux(19, 38, 32, 8))
    b = factory.save_file(tmp_path / "b.safetensors", factory.Flux(19, 38, 32, 8, seed=1))
    found = analyze(a, b)
    panels = [
        [getattr(row.sums, name) for row in found.rows]
        for name in ("cosine", "relative_delta", "norm_ratio", "rank_share")
    ]
    path = found.heatmap(tmp_path / "map.svg")
    root = ET.fromstring(path.read_text())  # noqa: S314 - written by this test
    titled = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(titled) == sum(value is not None for panel in panels for value in panel)
    words = {text.text for text in root.iter(f"{SVG}text")}
    assert {str(i) for i in range(38)} | {"double img", "double txt", "single"} < words
    assert {"cosine", "relative delta", "norm ratio", "rank of b - a", "b beside a"} <= words
    # Nothing is drawn outside, and no two cells lie on each other.
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    places = [tuple(float(r.attrib[k]) for k in ("x", "y", "width", "height")) for r in titled]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in places)
    assert len({(x, y) for x, y, _, _ in places}) == len(places)


@pytest.mark.parametrize(
    ("share", "colour"), [(0, "#deebf7"), (1, "#08306b"), (0.5, "#6baed6"), (2, "#08306b")]
)
def test_colours_are_blended_between_their_neighbours(share: float, colour: str) -> None:
    assert SEQUENTIAL.shade(share).light == colour


def light(colour: str) -> float:
    """The luminance of a colour (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_faint_is_the_ground_and_strong_is_far_from_it_in_both_forms(scale: Scale) -> None:
    ends = [0.0, 1.0] if scale is DIVERGING else [1.0]
    faint = 0.5 if scale is DIVERGING else 0.0
    assert light(scale.shade(faint).light) > 0.8
    assert light(scale.shade(faint).dark) < 0.03
    for end in ends:
        assert light(scale.shade(end).light) < 0.2
        assert light(scale.shade(end).dark) > 0.55
    # From the ground to an end it gets stronger with every step.
    half = [shade for shade in scale.shades() if int(shade.name[1:]) >= 40 * faint]
    assert [light(s.light) for s in half] == sorted((light(s.light) for s in half), reverse=True)
    assert [light(s.dark) for s in half] == sorted(light(s.dark) for s in half)


def test_a_few_elements_do_not_decide_the_scale() -> None:
    large = {Place(f"double.{i}", "img", "mlp"): (0.1 + i / 100, 9_000_000) for i in range(19)}
    norms = {Place(f"double.{i}", "img", "norm"): (float(i), 128) for i in range(19)}
    scale = HeatMap("delta", "", large | norms).scale()
    assert (scale.low, scale.high, scale.beyond) == (0.1, 0.28, (True, True))
    # A part with many elements does decide it, both ends of it.
    assert HeatMap("delta", "", large).scale() == (0.1, 0.28, (False, False))


def test_the_streams_of_a_double_block_stand_apart(tmp_path: Path) -> None:
    a = factory.save_file(tmp_path / "a.safetensors", factory.SCHNELL)
    held = factory.tensors(factory.SCHNELL)
    for name in held:
        if "ff_context" in name:
            held[name] = held[name] * 2
    b = factory.write(tmp_path / "b.safetensors", held)
    found = analyze(a, b)
    deltas = {(row.block, row.stream, row.part): row.sums.delta2 for row in found.rows}
    assert deltas["double.0", "txt", "mlp"] > 0
    assert deltas["double.0", "img", "mlp"] == 0
    titles = cells(found.heatmap(tmp_path / "map.svg"))
    assert titles["double.0 img mlp: relative delta 0.00%"] == SEQUENTIAL.light[0]
    assert titles["double.0 txt mlp: relative delta 100.00%"] == SEQUENTIAL.light[-1]


def test_the_picture_is_as_wide_as_a_phone_and_has_a_dark_form(tmp_path: Path) -> None:
    a = factory.save_file(tmp_path / "a.safetensors", factory.Flux(19, 38, 32, 8))
    b = factory.save_file(tmp_path / "b.safetensors", factory.Flux(19, 38, 32, 8, seed=1))
    text = analyze(a, b).heatmap(tmp_path / "map.svg").read_text()
    root = ET.fromstring(text)  # noqa: S314 - written by this test
    # At 390 pixels no letter is smaller than 7 of them.
    width = float(root.attrib["width"])
    assert min(float(t.attrib["font-size"]) for t in root.iter(f"{SVG}text")) * 390 / width > 7
    (style,) = (found.text or "" for found in root.iter(f"{SVG}style"))
    assert style.startswith("@media (prefers-color-scheme:dark)")
    used = {rect.attrib["class"] for rect in root.iter(f"{SVG}rect")}
    assert all(f".{name}{{fill:#" in style for name in used)


def test_the_same_picture_as_png(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    found = known(base=True)
    path = found.heatmap(tmp_path / "map.png")
    svg = ET.fromstring(found.heatmap(tmp_path / "map.svg").read_text())  # noqa: S314
    with image.open(path) as png:
        assert png.size == (2 * float(svg.attrib["width"]), 2 * float(svg.attrib["height"]))
        for rect in svg.iter(f"{SVG}rect"):
            if rect.find(f"{SVG}title") is not None:
                x, y, w, h = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
                pixel = png.getpixel((round(2 * x + w), round(2 * y + h)))
                assert "#" + "".join(f"{c:02x}" for c in pixel) == rect.attrib["fill"]


def test_png_without_pillow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SubmergeError, match=r"a PNG needs Pillow(.|\n)*submerge\[plots\]"):
        known().heatmap(tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


def test_other_kinds_of_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected a name ending in"):
        known().heatmap(tmp_path / "map.gif")


def test_the_command_writes_table_json_and_picture(tmp_path: Path) -> None:
    a = factory.save_file(tmp_path / "schnell.safetensors", factory.SCHNELL)
    b = factory.save_file(tmp_path / "krea.safetensors", factory.KREA)
    saved, picture = tmp_path / "analysis.json", tmp_path / "map.svg"
    runner = CliRunner()
    done = runner.invoke(
        app, ["analyze", str(a), str(b), "--json", str(saved), "--heatmap", str(picture)]
    )
    assert done.exit_code == 0, done.output
    assert "double attn.q" in done.stdout
    assert Analysis.load(saved).table() in done.stdout
    assert len(cells(picture)) > 50
    printed = runner.invoke(app, ["analyze", str(a), str(b), "--json", "-", "-q"])
    held = json.loads(printed.stdout)
    assert held["blocks"] == json.loads(saved.read_text())["blocks"]
    by_block = runner.invoke(app, ["analyze", str(a), str(b), "--by", "block"])
    assert "single.1" in by_block.stdout


def test_the_command_refuses_a_picture_it_cannot_draw_before_reading(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["analyze", "none", "none", "--heatmap", "map.pdf"])
    assert done.exit_code == 2
    assert "expected a name ending in .svg or .png" in done.output
    assert list(tmp_path.iterdir()) == []
