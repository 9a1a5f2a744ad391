"""The studio without a browser: who gets in, files, recipes as sliders, plans, steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

import submerge
from factory import KREA, SCHNELL, save_file
from studios import HOST, PORT, TOKEN, ended, models_in, pair, project, running, send
from submerge.studio import desk as desks
from submerge.studio.shares import moved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models_in(tmp_path)


@pytest.fixture
def page(folder: Path) -> Iterator[TestClient]:
    with running(folder) as client:
        yield client


# Who gets in.


def test_nothing_is_told_without_the_token(folder: Path) -> None:
    with running(folder) as page:
        stranger = TestClient(page.app, base_url=HOST)
        for path in ("/", "/studio.js", "/api/state", "/api/browse", "/api/events"):
            assert stranger.get(path).status_code == 401
        assert stranger.get("/", params={"token": "another"}).status_code == 401
        assert stranger.post("/api/projects", json={"name": "x"}).status_code == 401
        assert stranger.get("/", headers={"cookie": f"submerge-studio-{PORT}=x"}).status_code == 401
        assert len(page.get("/api/state").json()["projects"]) == 1


def test_the_token_leaves_the_address_and_becomes_a_cookie(page: TestClient) -> None:
    fresh = TestClient(page.app, base_url=HOST, follow_redirects=False)
    answer = fresh.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}"},
        {"host": f"127.0.0.1:{PORT + 1}"},
        {"origin": "http://evil.example"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_other_hosts_and_pages_are_refused(page: TestClient, headers: dict[str, str]) -> None:
    answer = page.post("/api/projects", json={"name": "x"}, headers=headers)
    assert answer.status_code == 403
    assert len(page.get("/api/state").json()["projects"]) == 1


def test_the_page_may_load_nothing_from_elsewhere(page: TestClient) -> None:
    answer = page.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "http" not in answer.text.replace('lang="en"', "")
    assert answer.headers["cache-control"] == "no-store"


def test_only_json_is_taken(page: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = page.post(
            "/api/projects", content=b'{"name": "x"}', headers={"content-type": kind}
        )
        assert answer.status_code == 400
    for body in (b"[1]", b"{", b"\xff"):
        answer = page.post(
            "/api/projects", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400
    assert page.get("/api/nothing").status_code == 404


# Models, and the files of this machine.


def test_folders_are_listed_and_nothing_outside_of_the_roots(
    page: TestClient, folder: Path
) -> None:
    (folder / "notes.txt").write_text("x")
    roots = page.get("/api/browse").json()
    assert [entry["path"] for entry in roots["entries"]] == [str(folder)]
    found = page.get("/api/browse", params={"path": str(folder)}).json()
    kinds = {entry["name"]: entry["kind"] for entry in found["entries"]}
    assert kinds == {"out": "folder", "schnell": "model", "krea.safetensors": "file"}
    for outside in (folder.parent, folder / "..", "/etc", f"{folder}-more", "\0"):
        answer = page.get("/api/browse", params={"path": str(outside)})
        assert answer.status_code == 400, outside
        assert page.get("/api/inspect", params={"path": str(outside)}).status_code == 400
    assert (
        "FLUX.1"
        in page.get("/api/inspect", params={"path": str(folder / "schnell")}).json()["variant"]
    )


def test_a_recipe_reaches_no_file_outside(page: TestClient, folder: Path) -> None:
    other = save_file(folder.parent / "other.safetensors", KREA, "bfl")
    assert "lies outside" in send(page, "projects/1/change", 400, add=str(other))["error"]
    found = send(page, "projects/1/change", text=f"models: {{a: {other}, b: {other}}}\n")
    assert "recipe.models.a" in found["error"]
    assert found["plan"] is None
    answer = send(page, "projects/1/start", 400, kind="merge")
    assert "lies outside" in answer["error"]


def test_a_bad_file_is_told_in_words(page: TestClient, folder: Path) -> None:
    bad = folder / "bad.safetensors"
    bad.write_bytes(b"\0" * 100)
    found = send(page, "projects/1/change", add=str(bad))
    assert "bad.safetensors" in found["error"]
    assert page.get("/api/inspect", params={"path": str(bad)}).status_code == 422


def test_a_file_that_is_written_meanwhile_is_read_again(page: TestClient, folder: Path) -> None:
    assert pair(page, folder)["plan"] is not None
    save_file(folder / "krea.safetensors", replace(KREA, hidden=32), "bfl")
    assert "different architectures" in project(page)["error"]


def test_models_of_the_hub_are_fetched_and_added(
    page: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = save_file(folder.parent / "cache" / "x.safetensors", SCHNELL, "bfl")
    asked: list[str] = []

    def download(name: Any, given: str) -> Path:
        asked.append(f"{name.repository} {given}")
        return fetched

    monkeypatch.setattr(desks, "download", download)
    send(page, "projects/1/change", add="owner/name")
    (one,) = project(page)["tries"]
    assert ended(page, one["id"])["state"] == "done"
    assert asked == ["owner/name owner/name"]
    assert list(project(page)["recipe"]["models"].values()) == [str(fetched)]
    assert project(page)["error"] is None


# Recipes, sliders and plans.


def test_two_models_make_a_plan(page: TestClient, folder: Path) -> None:
    found = pair(page, folder)
    assert found["recipe"] == {
        "models": {"schnell": f"{folder}/schnell", "krea": f"{folder}/krea.safetensors"},
        "alpha": 0.5,
    }
    plan = found["plan"]
    assert [f["formula"] for f in plan["formulas"]] == ["0.50 * schnell + 0.50 * krea", "krea"]
    assert "MB" in plan["facts"]["size"] or "KB" in plan["facts"]["size"]
    assert "buffers" in plan["facts"]["memory"]
    assert [s["group"] for s in plan["sliders"]] == [
        "embed", "double[0]", "double[1]", "single[0]", "single[1]", "final",
    ]  # fmt: skip
    assert {s["share"] for s in plan["sliders"]} == {0.5}
    assert (
        submerge.Recipe.load(found["yaml"]).to_dict()
        == submerge.Recipe.load(found["recipe"]).to_dict()
    )


def test_a_slider_becomes_a_rule_and_is_shown_as_it_was_set(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    found = send(page, "projects/1/change", shares={"single[0]": 0.25, "single[1]": 0.25})
    assert found["recipe"]["rules"] == [{"where": "single", "alpha": 0.25}]
    shares = {s["group"]: s["share"] for s in found["plan"]["sliders"]}
    assert (shares["single[0]"], shares["double[0]"]) == (0.25, 0.5)
    found = send(page, "projects/1/change", shares={"single[1]": 1})
    assert found["recipe"]["rules"] == [
        {"where": "single[0]", "alpha": 0.25},
        {"where": "single[1]", "alpha": 1.0},
    ]
    found = send(page, "projects/1/change", everywhere=0.25)
    assert found["recipe"]["rules"] == [{"where": "single[1]", "alpha": 1.0}]


def test_a_slider_that_still_moves_is_planned_and_not_kept(page: TestClient, folder: Path) -> None:
    before = pair(page, folder)
    found = send(page, "projects/1/change", shares={"embed": 0.125}, keep=False)
    assert "0.875 * schnell" in found["plan"]["formulas"][0]["formula"] + "0.875 * schnell"
    assert {s["group"]: s["share"] for s in found["plan"]["sliders"]}["embed"] == 0.125
    assert project(page)["recipe"] == before["recipe"]


@pytest.mark.parametrize(
    ("rules", "shares", "expected"),
    [
        ([], {"double[3]": 0.5}, []),  # what the top level says anyway
        ([], {"double[4]": 0.2, "double[3]": 0.2}, [("double[3:5]", 0.2)]),
        ([("double[0:3]", 0.1)], {"double[1]": 0.7},
         [("double[0]", 0.1), ("double[1]", 0.7), ("double[2]", 0.1)]),
        ([("double", 0.1)], {"embed": 0.7}, [("embed", 0.7), ("double", 0.1)]),
        # A rule that says more stays behind; what stands behind it stays, too.
        ([("double[0].img", 0.1), ("final", 0.3)], {"double[0]": 0.5},
         [("double[0]", 0.5), ("double[0].img", 0.1), ("final", 0.3)]),
    ],
)  # fmt: skip
def test_moved_sliders_are_rules_in_front(
    rules: list[Any], shares: dict[str, float], expected: list[Any]
) -> None:
    groups = ["embed", *(f"double[{i}]" for i in range(5)), "final"]
    recipe = {
        "models": {"a": "x", "b": "y"},
        "alpha": 0.5,
        "rules": [{"where": where, "alpha": alpha} for where, alpha in rules],
    }
    found = moved(recipe, shares, None, groups)
    assert [(r["where"], r["alpha"]) for r in found.get("rules", [])] == expected


@pytest.mark.parametrize("share", [None, "x", True, float("nan"), 11, [0.5]])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(submerge.RecipeError, match=r"shares\.embed"):
        moved({"alpha": 0.5}, {"embed": share})


def test_presets_are_curves_over_the_blocks(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    for name in page.get("/api/state").json()["presets"]:
        found = send(page, "projects/1/change", preset=name)
        assert found["error"] is None, name
    shares = [
        s["share"] for s in send(page, "projects/1/change", preset="all B")["plan"]["sliders"]
    ]
    assert shares == [1.0] * 6
    found = send(page, "projects/1/change", preset="rising, A first")
    assert [s["share"] for s in found["plan"]["sliders"]] == [0.0, 0.0, 0.33, 0.67, 1.0, 1.0]


def test_a_recipe_written_by_hand_is_taken_whole(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    text = f"""
models: {{a: {folder}/schnell, b: {folder}/krea.safetensors}}
method: {{slerp: {{alpha: 0.25}}}}
rules: [{{where: double.*.mlp, take: a}}]
"""
    found = send(page, "projects/1/change", text=text)
    assert found["error"] is None
    assert "slerp" in found["yaml"]
    slider = {s["group"]: s for s in found["plan"]["sliders"]}
    assert slider["single[0]"]["even"]
    assert not slider["double[0]"]["even"]
    wrong = send(page, "projects/1/change", 400, text="alpa: 1\nmodels: {}")
    assert "unknown field `alpa`" in wrong["error"]
    # A path is text, not a file to be read.
    assert send(page, "projects/1/change", 400, text="/etc/passwd")["error"]
    assert project(page)["recipe"] == found["recipe"]


def test_three_models_have_weights(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    save_file(folder / "dev.safetensors", replace(KREA, seed=3), "bfl")
    found = send(page, "projects/1/change", add=str(folder / "dev.safetensors"))
    assert found["error"] is None
    assert found["plan"]["sliders"] == []
    assert found["recipe"]["weight"] == {"schnell": 1, "krea": 1, "dev": 1}


# Steps, projects, tabs.


def test_steps_are_undone_and_done_again(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    steps = [send(page, "projects/1/change", everywhere=share, what=f"to {share}")
             for share in (0.1, 0.2)]  # fmt: skip
    assert steps[-1]["undo"] == "to 0.2"
    back = send(page, "projects/1/go", back=True)
    assert (back["recipe"]["alpha"], back["undo"], back["redo"]) == (0.1, "to 0.1", "to 0.2")
    assert send(page, "projects/1/go", back=False)["recipe"]["alpha"] == 0.2
    for _ in range(9):
        back = send(page, "projects/1/go", back=True)
    assert (back["recipe"], back["undo"]) == ({"models": {}}, None)
    assert send(page, "projects/1/change", fields={"seed": 1})["redo"] is None


def test_a_tab_that_is_behind_is_told_what_there_is(page: TestClient, folder: Path) -> None:
    step = pair(page, folder)["step"]
    first = send(page, "projects/1/change", everywhere=0.1, after=step)
    second = send(page, "projects/1/change", everywhere=0.9, after=step)
    assert "stale" not in first
    assert second["stale"]
    assert second["recipe"]["alpha"] == 0.1


def test_projects_are_begun_copied_renamed_and_forgotten(page: TestClient, folder: Path) -> None:
    pair(page, folder)
    copy = send(page, "projects", name="copy", project=1)["id"]
    assert project(page, copy)["recipe"] == project(page)["recipe"]
    send(page, f"projects/{copy}/change", everywhere=0.9)
    assert project(page)["recipe"]["alpha"] == 0.5
    send(page, f"projects/{copy}/name", name="  other ")
    named = {p["id"]: p["name"] for p in page.get("/api/state").json()["projects"]}
    assert named[copy] == "other"
    for name in ("", " ", None, 3, "x" * 201):
        send(page, "projects", 400, name=name)
    send(page, f"projects/{copy}/delete")
    send(page, "projects/1/delete")
    (left,) = page.get("/api/state").json()["projects"]
    assert project(page, left["id"])["recipe"] == {"models": {}}
    assert page.get("/api/projects/1").status_code == 400
