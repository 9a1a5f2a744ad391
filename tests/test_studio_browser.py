"""The studio in a real browser: two files to a saved model, by mouse, keyboard and on a phone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load_file

import submerge
from browser import browser, chromium
from factory import SCHNELL, Flux, save_file, save_folder
from studios import Served
from submerge.studio import desk as desks
from submerge.studio.work import work_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Tab

PROGRAM = chromium()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(sys.platform == "win32", reason="spoken to over a POSIX pipe"),
]
DEEP = Flux(19, 38, 16)
READY = "document.body.dataset.ready === 'yes'"
FORMULAS = "[...document.querySelectorAll('.formula')].map(p => p.textContent)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models(tmp_path, SCHNELL)


def models(tmp_path: Path, flux: Flux) -> Path:
    save_folder(tmp_path / "models" / "schnell", flux)
    save_file(tmp_path / "models" / "krea.safetensors", replace(flux, guidance=True, seed=1), "bfl")
    return tmp_path / "models"


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    made = Served(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture
def tab(window: Tab, served: Served) -> Iterator[Tab]:
    window.requests.clear()
    window.complaints.clear()
    window.look(1280)
    enter(window, served.address)
    yield window
    window.open("about:blank")  # ends the stream of events


def until(tab: Tab, expression: str, seconds: float = 20) -> Any:
    """What the expression gives as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := tab.value(expression)):
        assert time.monotonic() < end, (expression, tab.value("document.body.innerText"))
        time.sleep(0.03)
    return found


def enter(tab: Tab, address: str) -> None:
    tab.open(address)
    until(tab, READY)


def click(tab: Tab, ident: str) -> None:
    tab.value(f"document.getElementById({json.dumps(ident)}).click()")


def choose(tab: Tab, name: str) -> None:
    """Pick a file or folder in the browser of files, from the roots on."""
    until(tab, "document.querySelectorAll('#entries button').length > 0")
    if tab.value("document.getElementById('here').textContent").startswith("the folders"):
        tab.value("document.querySelector('#entries button').click()")
    entries = "[...document.querySelectorAll('#entries button')]"
    entry = f"{entries}.find(b => b.firstChild.textContent === '{name}')"
    until(tab, f"{entry} !== undefined")
    tab.value(f"{entry}.click()")


def both(tab: Tab) -> None:
    for at, name in enumerate(("schnell", "krea.safetensors"), 1):
        click(tab, "add-model")
        choose(tab, name)
        until(tab, f"document.querySelectorAll('#models > li').length === {at}")
    until(tab, f"{FORMULAS}.includes('result = 0.50 * schnell + 0.50 * krea')")


def put(tab: Tab, ident: str, value: object, *kinds: str) -> None:
    """Set a control as a user does."""
    events = "".join(f"e.dispatchEvent(new Event('{k}', {{bubbles: true}}));" for k in kinds)
    field = f"document.getElementById({json.dumps(ident)})"
    tab.value(f"(() => {{ const e = {field}; e.value = {json.dumps(value)}; {events} }})()")


def drag(tab: Tab, *points: tuple[float, float]) -> None:
    """Draw in the curve; places as shares of its width, and of the height of a share of 1."""
    box = tab.value(
        "(() => { const s = document.querySelector('#curve svg');"
        " s.scrollIntoView({block: 'center'});"
        " const b = s.getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )
    left, top, width, height = box
    kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
    for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
        tab.ask(
            "Input.dispatchMouseEvent",
            type=kind,
            x=left + x * width,
            y=top + (1 - y) * height * 180 / 198,
            button="left",
            buttons=1,
            clickCount=1,
        )


def test_two_files_become_a_saved_model_and_nothing_leaves_the_machine(
    tab: Tab, served: Served, folder: Path
) -> None:
    models(folder.parent, DEEP)
    both(tab)
    put(tab, "preset", "smooth rise", "change")
    until(tab, f"{FORMULAS}.length > 9")
    until(tab, "document.getElementById('undo').title.includes('smooth rise')")
    # A reload in the middle of it.
    shares = tab.value("document.getElementById('recipe').value")
    enter(tab, f"{served.host}/")
    assert tab.value("document.getElementById('recipe').value") == shares
    click(tab, "analyse")
    until(tab, "document.querySelector('#analysis img')?.naturalWidth > 0")
    put(tab, "name", "mine.safetensors", "change")
    click(tab, "save")
    until(tab, "document.getElementById('tries').textContent.includes('mine.safetensors')")
    # It is what the command line makes of the recipe that the page shows.
    submerge.merge(shares, folder / "again.safetensors")
    mine, again = (load_file(folder / f"{name}.safetensors") for name in ("mine", "again"))
    assert {n: a.tobytes() for n, a in mine.items()} == {n: a.tobytes() for n, a in again.items()}
    assert {url[: len(served.host)] for url in tab.requests if not url.startswith("data:")} == {
        served.host
    }
    assert tab.complaints == []


def test_shares_are_drawn_and_undone(tab: Tab) -> None:
    both(tab)
    drag(tab, (0.1, 1.0), (0.3, 1.0))
    until(tab, f"{FORMULAS}.includes('result = krea')")
    until(tab, "document.getElementById('recipe').value.includes('alpha: 1.0')")
    until(tab, "document.getElementById('undo').title.includes('blocks drawn')")
    tab.value("document.activeElement.blur()")
    pressed = "new KeyboardEvent('keydown', {key: 'z', ctrlKey: true, bubbles: true})"
    tab.value(f"document.body.dispatchEvent({pressed})")
    until(tab, "!document.getElementById('redo').disabled")
    assert "alpha: 1.0" not in tab.value("document.getElementById('recipe').value")
    assert tab.complaints == []


def test_the_curve_works_by_keyboard(tab: Tab) -> None:
    both(tab)
    tab.value("document.querySelector('#curve svg').focus()")
    told = "document.querySelector('#curve svg').getAttribute('aria-valuetext')"
    assert tab.value(told) == "embed: 0.50"
    tab.press("ArrowRight", 39)
    assert tab.value(told) == "double[0]: 0.50"
    tab.press("End", 35)
    tab.press("ArrowDown", 40)
    assert tab.value(told) == "double[0]: 0.95"
    until(tab, "document.getElementById('recipe').value.includes('alpha: 0.95')")


def test_two_tabs_follow_each_other(tab: Tab, served: Served) -> None:
    both(tab)
    first = tab._session
    tab._session = {}
    tab.attach()
    second = tab._session
    enter(tab, f"{served.host}/")
    put(tab, "everywhere", "0.2", "input", "change")
    until(tab, f"{FORMULAS}.includes('result = 0.80 * schnell + 0.20 * krea')")
    tab._session = first
    until(tab, f"{FORMULAS}.includes('result = 0.80 * schnell + 0.20 * krea')")
    tab._session = second
    tab.open("about:blank")
    tab._session = first


def test_a_merge_is_cancelled(tab: Tab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(*arguments: Any) -> Any:
        work = work_of(*arguments)

        def held(job: Any) -> Any:
            job.progress(1, 2)
            assert go.wait(30)
            return work(job)

        return held

    both(tab)
    monkeypatch.setattr(desks, "work_of", slow)
    click(tab, "save")
    until(tab, "document.querySelector('#running progress')?.value === 1")
    tab.value("document.querySelector('#running button').click()")
    time.sleep(0.2)
    go.set()
    until(tab, "document.getElementById('tries').textContent.includes('cancelled')")
    assert not list(folder.glob("*merged*"))


def test_a_bad_file_is_told_and_undone(tab: Tab, folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(b"\0" * 64)
    click(tab, "add-model")
    choose(tab, "bad.safetensors")
    until(tab, "document.getElementById('error').checkVisibility()")
    assert "bad.safetensors" in tab.value("document.getElementById('error').textContent")
    assert tab.value("document.getElementById('save').disabled")
    click(tab, "undo")
    until(tab, "!document.getElementById('error').checkVisibility()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits(tab: Tab, width: int, scheme: str) -> None:
    tab.look(width, scheme=scheme)
    both(tab)
    assert tab.value("document.documentElement.scrollWidth") <= width
    # What is read stands out from its ground: WCAG's 4.5 to 1.
    ratio = """(() => {
      const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => { v /= 255;
        return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ground = light(getComputedStyle(document.querySelector('section')).backgroundColor);
      return Math.min(...['.small', '.facts dt', 'h2', '.formula'].map((s) => {
        const ink = light(getComputedStyle(document.querySelector(s)).color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); }));
    })()"""
    assert tab.value(ratio) >= 4.5
    unnamed = """[...document.querySelectorAll('button, input, select, textarea')].filter((e) =>
      e.checkVisibility() && !e.textContent.trim() && !e.labels?.length &&
      !e.getAttribute('aria-label')).map((e) => e.id)"""
    assert tab.value(unnamed) == []


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "submerge", "studio", str(folder), "--no-open"]
    process = subprocess.Popen(
        [*command, "--file", str(folder.parent / "own.sqlite")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_server_that_is_killed_is_started_again_where_it_was(window: Tab, folder: Path) -> None:
    process, address = start(folder)
    try:
        assert address.startswith("http://127.0.0.1:")
        window.look(1280)
        enter(window, address)
        both(window)
        put(window, "everywhere", "0.2", "input", "change")
        until(window, "!document.getElementById('undo').disabled")
        until(window, f"{FORMULAS}.includes('result = 0.80 * schnell + 0.20 * krea')")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        until(window, "document.getElementById('trouble').checkVisibility()")
        process, address = start(folder)
        enter(window, address)
        until(window, f"{FORMULAS}.includes('result = 0.80 * schnell + 0.20 * krea')")
        click(window, "undo")
        until(window, f"{FORMULAS}.includes('result = 0.50 * schnell + 0.50 * krea')")
    finally:
        window.open("about:blank")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0
