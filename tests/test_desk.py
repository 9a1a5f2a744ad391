"""What a notebook shows, the command `open`, and completion in shells."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import webbrowser
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

import submerge
from factory import KREA, SCHNELL, save_file, save_folder
from submerge import cli

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"img", "br", "input", "meta"}
EVIL = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would make of a piece of HTML: elements that close, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open[-1:] == ["style"] else data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path / "schnell", SCHNELL)
    save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    return "schnell", "krea.safetensors"


def shown(pair: tuple[str, str]) -> dict[str, Any]:
    recipe = {
        "models": dict(zip("ab", pair, strict=True)),
        "alpha": 0.25,
        "rules": [{"where": "single[0]", "alpha": 0.75}],
    }
    return {
        "plan": submerge.plan(recipe, "out.safetensors"),
        "view": submerge.open(recipe),
        "report": submerge.merge(recipe, "out.safetensors"),
        "merged": submerge.merge_flux_models(*pair, {"alpha": 0.5}),
        "difference": submerge.diff(*pair),
        "analysis": submerge.analyze(*pair),
    }


def test_results_show_themselves_whole_and_load_nothing(pair: tuple[str, str]) -> None:
    for name, result in shown(pair).items():
        text = result._repr_html_()
        page = Page(text)
        assert page.elements[0] == ("div", {"class": "submerge-card"}), name
        assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe"})
        assert all((i["src"] or "").startswith("data:") for i in page.named("img"))
        assert "url(" not in text
        assert "@import" not in text
        # Its style speaks of nothing else on the page, and sets no colour a dark page would lose.
        style = text.partition("<style>")[2].partition("</style>")[0]
        selectors = [s for rule in style.split("}") for s in rule.partition("{")[0].split(",") if s]
        assert all(s.startswith(".submerge-card") for s in selectors)
        assert "#" not in style


def test_results_show_what_they_hold(pair: tuple[str, str]) -> None:
    pages = {name: Page(result._repr_html_()) for name, result in shown(pair).items()}
    for name in ("plan", "view", "report"):
        assert "0.75 * a + 0.25 * b" in pages[name].text
        assert "0.25 * a + 0.75 * b" in pages[name].text
    assert "0.50 * schnell + 0.50 * krea" in pages["merged"].text
    assert "elements differ" in pages["difference"].text
    (image,) = pages["analysis"].named("img")
    drawn = base64.b64decode((image["src"] or "").partition("base64,")[2])
    assert ET.fromstring(drawn).tag.endswith("svg")  # noqa: S314 - our own
    assert b"prefers-color-scheme:dark" in drawn


def test_names_of_files_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_file(tmp_path / f"{EVIL}.safetensors", KREA, "bfl")
    for result in (submerge.diff(path, path), submerge.analyze(path, path)):
        page = Page(result._repr_html_())
        assert EVIL in page.text
        assert not any("onerror" in attributes for _, attributes in page.elements)


# The command `open`.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    addresses: list[str] = []

    def note(address: str) -> bool:
        addresses.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", note)
    return addresses


@pytest.mark.parametrize("word", ["a b;$(x).html", "a b;$(x).json", "."])
def test_open_hands_the_page_to_the_browser(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "a b;$(x).html"
    for path in (page, page.with_suffix(".json"), page.with_suffix(".md")):
        path.write_text("{}")
    assert cli._run(["open", word, "-q"]) == 0
    assert opened == [page.as_uri()]


def test_open_takes_nothing_but_pages(
    tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "x.sh"
    other.write_text("")
    assert cli._run(["open", str(other)]) == 2
    assert "expected a page that ends in .html" in capsys.readouterr().err
    for name in ("a.html", "b.html"):
        (tmp_path / name).write_text("")
    assert cli._run(["open", str(tmp_path)]) == 2
    assert "expected one page, got 2 pages: `a.html`, `b.html`" in capsys.readouterr().err
    assert cli._run(["open", str(tmp_path / "nowhere.html")]) == 2
    assert opened == []


def test_open_without_a_browser_says_where_the_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    page = tmp_path / "report.html"
    page.write_text("")
    assert cli._run(["open", str(page)]) == 1
    assert page.as_uri() in capsys.readouterr().err


# Completion.


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["completion", shell]) == 0
    assert "_SUBMERGE_COMPLETE" in capsys.readouterr().out


def completed(words: str, count: int) -> list[str]:
    asked = {"_SUBMERGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    ran = subprocess.run(
        [sys.executable, "-m", "submerge"],
        check=False,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return [line.partition(",")[2] for line in ran.stdout.splitlines()]


def test_commands_and_options_complete() -> None:
    assert completed("submerge me", 1) == ["measure", "merge", "methods"]
    assert "--alpha" in completed("submerge merge --al", 2)
    assert completed("submerge completion z", 2) == ["zsh"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_takes_the_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli._run(["completion", "bash"]) == 0
    script = tmp_path / "submerge.bash"
    script.write_text(capsys.readouterr().out)
    asked = ["bash", "-c", f"source {script} && complete -p submerge"]
    ran = subprocess.run(asked, check=True, capture_output=True, text=True)
    assert "_submerge_completion" in ran.stdout
