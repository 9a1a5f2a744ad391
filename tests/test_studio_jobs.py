"""The studio without a browser: merges, comparisons, what goes wrong, and what is kept."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import submerge
from factory import tensors
from jobs import mounted
from studios import FIRST, PORT, SECOND, TOKEN, ended, models_in, pair, project, running, send
from submerge import SubmergeError
from submerge.studio import Settings
from submerge.studio import desk as desks
from submerge.studio.events import Events
from submerge.studio.server import default_file, studio
from submerge.studio.store import Store
from submerge.studio.work import work_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.testclient import TestClient


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models_in(tmp_path)


@pytest.fixture
def page(folder: Path) -> Iterator[TestClient]:
    with running(folder) as client:
        yield client


# Jobs.


def test_two_files_become_a_saved_model(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    send(page, "projects/1/change", shares={"single[0]": 0.25})
    send(page, "projects/1/settings", folder=str(folder / "out"), name="mine.safetensors")
    made = ended(page, send(page, "projects/1/start", kind="merge")["id"])
    assert made["state"] == "done", made
    assert made["result"]["path"] == str(folder / "out" / "mine.safetensors")
    # The numbers are those of the formula, in numpy.
    found = load_file(folder / "out" / "mine.safetensors")
    a, b = tensors(FIRST), tensors(SECOND)
    for name, share in (
        ("single_transformer_blocks.0.attn.to_q.weight", 0.25),
        ("single_transformer_blocks.1.attn.to_q.weight", 0.5),
    ):
        wanted = np.float32(1 - share) * a[name] + np.float32(share) * b[name]
        np.testing.assert_array_equal(found[name], wanted)
    # Once more is refused, unless it is asked for.
    again = ended(page, send(page, "projects/1/start", kind="merge")["id"])
    assert again["state"] == "failed"
    assert "mine.safetensors" in again["result"]["error"]
    asked = {"overwrite": True}
    assert (
        ended(page, send(page, "projects/1/start", kind="merge", asked=asked)["id"])["state"]
        == "done"
    )


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "\0", "../models-2/x"])
def test_a_model_is_saved_nowhere_outside(page: TestClient, folder: Path, name: str) -> None:
    pair(page, folder)
    assert send(page, "projects/1/settings", name=name)["error"] is not None
    send(page, "projects/1/start", 400, kind="merge")
    assert not list(folder.parent.glob("*.safetensors"))


def test_models_are_compared_and_drawn(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    made = ended(page, send(page, "projects/1/start", kind="analysis")["id"])
    assert made["state"] == "done", made
    picture = page.get(f"/api/tries/{made['id']}/files/{made['result']['picture']}")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert picture.text.startswith("<svg")
    x = np.concatenate([v.ravel() for v in tensors(FIRST).values()]).astype(float)
    y = np.concatenate([tensors(SECOND)[n].ravel() for n in tensors(FIRST)]).astype(float)
    cosine = x @ y / np.sqrt((x @ x) * (y @ y))
    assert made["result"]["cosine"] == pytest.approx(cosine, abs=1e-6)
    for name in ("../../studio.sqlite", "%2e%2e/%2e%2e/studio.sqlite", "nothing"):
        assert page.get(f"/api/tries/{made['id']}/files/{name}").status_code == 404


def test_images_need_a_painter_and_a_prompt(
    page: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from submerge.studio import painting

    pair(page, folder)
    monkeypatch.setattr(painting, "_NEEDED", ("a_package_that_is_not_there",))
    answer = send(page, "projects/1/start", 422, kind="images", asked={"prompt": "x"})
    assert "submerge[diffusers]" in answer["hint"]
    monkeypatch.setattr(painting, "_NEEDED", ())
    for wrong in ({"prompt": " "}, {"seeds": "a"}, {"seeds": [0] * 17}, {"steps": "a"}):
        send(page, "projects/1/start", 400, kind="images", asked={"prompt": "x"} | wrong)
    send(page, "projects/1/start", 400, kind="nothing")
    assert project(page)["tries"] == []


def test_a_try_gives_its_recipe_back(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    made = ended(page, send(page, "projects/1/start", kind="merge")["id"])
    send(page, "projects/1/change", everywhere=0.9)
    assert send(page, f"tries/{made['id']}/restore")["recipe"]["alpha"] == 0.5
    fresh = send(page, "projects", name="from it", **{"try": made["id"]})["id"]
    assert project(page, fresh)["recipe"]["alpha"] == 0.5
    send(page, f"tries/{made['id']}/forget")
    assert project(page)["tries"] == []
    assert (folder / "merged.safetensors").is_file()


def test_a_job_is_cancelled_and_leaves_nothing(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    blocked, go = threading.Event(), threading.Event()
    real = work_of

    def slow(*arguments: Any) -> Any:
        work = real(*arguments)

        def held(job: Any) -> Any:
            blocked.set()
            assert go.wait(20)
            return work(job)

        return held

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desks, "work_of", slow)
        first = send(page, "projects/1/start", kind="merge")["id"]
        second = send(page, "projects/1/start", kind="merge")["id"]
        assert blocked.wait(20)
        # One that runs, and one that waits its turn.
        assert send(page, f"tries/{second}/cancel")["cancelled"]
        assert send(page, f"tries/{first}/cancel")["cancelled"]
        go.set()
    assert [ended(page, one)["state"] for one in (first, second)] == ["cancelled", "cancelled"]
    assert not list(folder.glob("*merged*"))
    assert not list(folder.glob(".*"))
    assert not send(page, f"tries/{first}/cancel")["cancelled"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_is_told_and_leaves_nothing(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    send(page, "projects/1/settings", folder=str(folder / "out"))
    with mounted(folder / "out", "size=64k"):
        made = ended(page, send(page, "projects/1/start", kind="merge")["id"])
        assert made["state"] == "failed"
        assert "space" in made["result"]["error"]
        assert list((folder / "out").iterdir()) == []


# What is kept.


def test_nothing_is_lost_when_it_is_started_again(folder: Path) -> None:
    with running(folder) as page:
        pair(page, folder)
        send(page, "projects/1/change", preset="valley, A in the middle")
        send(page, "projects/1/settings", prompt="a fox", name="x.safetensors")
        ended(page, send(page, "projects/1/start", kind="merge")["id"])
        before = project(page)
    with running(folder) as page:
        assert project(page) == before
        assert send(page, "projects/1/go", back=True)["recipe"]["alpha"] == 0.5


def test_what_ran_when_it_was_killed_is_called_interrupted(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "studio.sqlite")
    ident = store.new_project("x", {"models": {}}, {})
    made = store.new_try(ident, "merge", {}, {})
    store.set_try(made, "running")
    store.close()  # as the system does with what a killed process held
    with running(folder) as page:
        assert ended(page, made)["state"] == "interrupted"


def test_a_file_belongs_to_one_studio(folder: Path) -> None:
    with running(folder), pytest.raises(SubmergeError, match="locked"), running(folder):
        pass


def test_a_file_that_is_none_or_of_a_newer_version_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "x.sqlite"
    other.write_bytes(b"not a database at all" * 100)
    with pytest.raises(SubmergeError, match="not a database"), running(folder, other):
        pass
    newer = tmp_path / "newer.sqlite"
    held = sqlite3.connect(newer)
    held.execute("PRAGMA user_version=99")
    held.close()
    with pytest.raises(SubmergeError, match="newer submerge"), running(folder, newer):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_under_the_projects_loses_no_step(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "size=256k"), running(folder, small / "studio.sqlite") as page:
        kept = pair(page, folder)
        (small / "ballast").touch()
        with (small / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(b"\1" * 4096):
                    pass
            except OSError:
                pass
        answer = send(page, "projects/1/settings", 422, prompt="x" * 300_000)
        assert "full" in answer["error"]
        (small / "ballast").unlink()
        assert project(page)["recipe"] == kept["recipe"]
        assert send(page, "projects/1/change", everywhere=0.1)["recipe"]["alpha"] == 0.1


def test_the_file_lies_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_file() == tmp_path / "submerge" / "studio.sqlite"


def test_a_root_that_is_no_folder_is_refused(folder: Path) -> None:
    with pytest.raises(submerge.RecipeError, match="expected a folder"):
        studio(Settings(roots=[folder / "nowhere"]), TOKEN, PORT)


def test_events_reach_all_who_listen() -> None:
    async def listen() -> list[str]:
        events = Events()
        streams = [events.stream(), events.stream()]
        begun = [await anext(stream) for stream in streams]
        assert all(text.startswith("retry") for text in begun)
        threading.Thread(target=lambda: events.say("try", id=3)).start()
        found = [await anext(stream) for stream in streams]
        events.close()
        for stream in streams:
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        return found

    for text in asyncio.run(listen()):
        kind, data, *_ = text.splitlines()
        assert (kind, json.loads(data.removeprefix("data: "))) == ("event: try", {"id": 3})
