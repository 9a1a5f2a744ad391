"""The report in a real browser: quiet, offline, at every width, with and without scripts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import reports
from browser import browser, chromium
from submerge.page import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Tab

PROGRAM = chromium()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(sys.platform == "win32", reason="spoken to over a POSIX pipe"),
]
ENLARGED = "getComputedStyle(document.querySelectorAll('.shots img')[{}]).position == 'fixed'"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    reports.evaluation(folder / "tested", prompts=6, side=64)
    made = build(
        merge=reports.merge(),
        analysis=reports.analysis(),
        evaluation=folder / "tested",
        measure=reports.measure(),
    )
    made.save(folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture
def tab(window: Tab, page: Path) -> Tab:
    window.requests.clear()
    window.complaints.clear()
    window.look(1280)
    window.open(page.as_uri())
    return window


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_asks_for_nothing(tab: Tab, page: Path, width: int, scheme: str) -> None:
    tab.look(width, scheme=scheme)
    tab.open(page.as_uri())
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert {url for url in tab.requests if not url.startswith("data:")} == {page.as_uri()}
    assert tab.complaints == []
    assert tab.value("[...document.images].every(i => i.complete && i.naturalWidth == 64)")
    paper = tab.value("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 23, 26)"}[scheme]


def test_colours_can_be_chosen_without_a_script(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), script=False)
    tab.value("document.getElementById('theme-dark').click()")
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_an_image_opens_and_closes_by_keyboard(tab: Tab) -> None:
    tab.value("document.querySelector('.shots input').focus()")
    assert not tab.value(ENLARGED.format(0))
    tab.press(" ", 32)
    assert tab.value(ENLARGED.format(0))
    tab.press("ArrowRight", 39)
    assert not tab.value(ENLARGED.format(0))
    assert tab.value(ENLARGED.format(1))
    tab.press("Escape", 27)
    assert not tab.value(ENLARGED.format(1))


def test_an_image_opens_without_a_script(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), script=False)
    tab.value("document.querySelector('.shots input').click()")
    assert tab.value(ENLARGED.format(0))


def test_prompts_are_filtered_by_tag_without_a_script(tab: Tab, page: Path) -> None:
    shown = "[...document.querySelectorAll('.row')].map(r => r.checkVisibility())"
    tab.open(page.as_uri(), script=False)
    assert tab.value(shown) == [True] * 6
    # The second tag is `counts`, which only the second prompt has.
    tab.value("document.getElementById('t-1').click()")
    assert tab.value(shown) == [False, True, False, False, False, False]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_every_section_can_be_reached_from_the_navigation(tab: Tab, page: Path, width: int) -> None:
    tab.look(width)
    tab.open(page.as_uri())
    inside = f"""
      [...document.querySelectorAll('nav a')].every(link => {{
        const box = link.getBoundingClientRect();
        return box.left >= 0 && box.right <= {width} && box.width > 0;
      }})
    """
    assert tab.value(inside)
    assert tab.value("document.querySelectorAll('nav a').length") == 10


def test_what_is_worth_knowing_is_seen_at_once(tab: Tab, page: Path) -> None:
    tab.look(390)
    tab.open(page.as_uri())
    first = "document.querySelector('main section').getBoundingClientRect().top"
    assert tab.value("document.querySelector('main section').id") == "notes"
    assert tab.value(first) < 900
    assert tab.value("document.querySelector('.notes code').textContent") == "schnell"


def test_a_map_is_legible_on_a_phone(tab: Tab, page: Path) -> None:
    """Letters of at least 7 pixels, of the ink of either scheme on the colour below them."""
    smallest = """
      Math.min(...[...document.querySelectorAll('.map svg')].filter(m => m.checkVisibility())
        .flatMap(map => {
          const scale = map.getBoundingClientRect().width / map.viewBox.baseVal.width;
          return [...map.querySelectorAll('text')]
            .map(text => scale * parseFloat(getComputedStyle(text).fontSize));
        }))
    """
    tab.look(390)
    tab.open(page.as_uri())
    assert tab.value(smallest) > 7
    for scheme, ink in (("light", "rgb(29, 34, 38)"), ("dark", "rgb(230, 232, 234)")):
        tab.look(390, scheme=scheme)
        tab.open(page.as_uri())
        assert tab.value("getComputedStyle(document.querySelector('.map text')).fill") == ink
    faint = "getComputedStyle(document.querySelector('.map .h0')).fill"
    assert tab.value(faint) == "rgb(32, 40, 46)"


def test_it_prints_on_paper_of_any_colour(tab: Tab, page: Path) -> None:
    tab.look(800, scheme="dark")
    tab.open(page.as_uri())
    tab.ask("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.value("getComputedStyle(document.body).color") == "rgb(29, 34, 38)"
        assert not tab.value("document.querySelector('nav').checkVisibility()")
    finally:
        tab.ask("Emulation.setEmulatedMedia", media="")
