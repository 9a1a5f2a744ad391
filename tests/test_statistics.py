"""Statistics are kept between runs, change no bit, and are believed only where they are true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, SCHNELL
from shop import Shop, random, settle, trusting
from submerge import RecipeError, cli, statistics
from submerge.statistics import StatisticsCache
from test_methods_merge import CASES, IDS, SHAPES, Case, recipe

if TYPE_CHECKING:
    from submerge import Report

# Methods whose looks cannot be told: what they find is as large as the unit's rows.
NEVER = {"add_cosine_a", "add_cosine_b"}
LOOKERS = {
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della",
    "della_linear", "geometric_median", "karcher", "model_stock", "multislerp", "norm_lerp",
    "norm_limit", "nuslerp", "orthogonal", "polar", "ramplus_tl", "sce", "slerp", "ties",
}  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    trusting(monkeypatch)
    return Shop(tmp_path)


def told(report: Report) -> dict[str, Any]:
    """All of a report but how the run went."""
    return {key: value for key, value in report.to_dict().items() if key != "run"}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_recalled_merge_is_the_same_merge(shop: Shop, case: Case) -> None:
    made = recipe(shop.folder, case)
    settle()
    plain, off = shop.merge(made, statistics_cache="off")
    first, looked = shop.merge(made)
    second, recalled = shop.merge(made, threads=3, chunk="64KiB")
    assert plain == first == second
    assert told(off) == told(looked) == told(recalled)
    assert (off.run.statistics_computed, off.run.statistics_reused) == (
        looked.run.statistics_computed,
        looked.run.statistics_reused,
    )
    assert looked.run.statistics_reused == 0
    assert off.run.statistics_cache == "off"
    assert looked.run.statistics_cache == recalled.run.statistics_cache == "on"
    if looked.run.statistics_computed == 0 or case.method in NEVER:
        assert recalled.run.statistics_reused == 0
        assert shop.files() == []
    else:
        assert (recalled.run.statistics_computed, recalled.run.statistics_reused) == (
            0,
            looked.run.statistics_computed,
        )
        assert recalled.run.bytes_read < looked.run.bytes_read


@pytest.mark.parametrize("method", sorted(LOOKERS))
def test_a_second_merge_reads_less(shop: Shop, method: str) -> None:
    counts = []
    for case in (case for case in CASES if case.method == method):
        made = recipe(shop.folder, case)
        for path in shop.folder.glob("*.safetensors"):
            path.touch()  # what the case before found counts no more
        settle()
        _, first = shop.merge(made)
        _, second = shop.merge(made)
        once = submerge.plan(made, shop.folder / "out.safetensors").read_bytes
        if second.run.statistics_reused:
            # Of the one the divergence of each row is found again, of others the signs of a vote
            # that hangs on weights.
            votes = case.compat is None and case.parameters.get("consensus") in ("sum", "count")
            again = 2 if method == "arcee_fusion" or votes else 1
            assert second.run.bytes_read == once * again < first.run.bytes_read
        counts.append(second.run.statistics_reused)
    assert max(counts) == len(SHAPES)


COMBINED: list[Any] = [
    {"slerp": {"alpha": 0.3}}, {"slerp": {"alpha": 0.8}}, "nuslerp", "karcher", "multislerp",
    {"norm_lerp": {"alpha": 0.4}}, {"polar": {"direction": 0.2}}, "geometric_median",
]  # fmt: skip


def test_inner_products_serve_every_method_that_wants_them(shop: Shop) -> None:
    models = shop.models(random(1, (300, 400), (90,)), random(2, (300, 400), (90,)))
    recalled = []
    for method in COMBINED:
        made = {"models": models, "method": method}
        got, report = shop.merge(made)
        assert got == shop.merge(made, statistics_cache="off")[0]
        recalled.append(report.run.statistics_reused)
    assert recalled == [0] + [2] * (len(COMBINED) - 1)
    assert len(shop.files()) == 1


# What the ends of sets depend on, and what comes after them.
SWEEPS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "lambda": ({"density": 0.4}, {"density": 0.4, "lambda": 0.7}, True),
    "weights": ({"density": 0.4}, {"density": 0.4, "weight": {"m1": 1, "m2": 3}}, True),
    "normalize": ({"density": 0.4}, {"density": 0.4, "normalize": False}, True),
    "density": ({"density": 0.4}, {"density": 0.5}, False),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_cuts_are_kept_for_what_they_depend_on(shop: Shop, name: str) -> None:
    first, second, hits = SWEEPS[name]
    shapes = ((700, 300), (50,))  # one longer than a sample
    files = [{k: np.round(v, 2) for k, v in random(i, *shapes).items()} for i in range(3)]
    made = {"models": shop.models(*files), "base": "m0"}
    shop.merge(made | {"method": {"ties": first}})
    got, report = shop.merge(made | {"method": {"ties": second}})
    assert report.run.statistics_reused == (2 if hits else 0)
    assert got == shop.merge(made | {"method": {"ties": second}}, statistics_cache="off")[0]


def test_another_seed_is_another_look(shop: Shop) -> None:
    models = shop.models(*(random(i, (40, 60)) for i in range(3)))
    made: dict[str, Any] = {"models": models, "base": "m0"}
    made["method"] = {"dare_linear": {"density": 0.5, "rescale": "l1"}}
    recalled = [shop.merge(made | {"seed": seed})[1].run.statistics_reused for seed in (1, 1, 2)]
    assert recalled == [0, 1, 0]


def test_other_output_and_other_rules_recall(shop: Shop) -> None:
    paths = {
        "schnell": factory.save_file(shop.folder / "schnell.safetensors", SCHNELL),
        "krea": factory.save_file(shop.folder / "krea.safetensors", KREA, "bfl"),
    }
    settle()
    models = {name: str(path) for name, path in paths.items()}
    made: dict[str, Any] = {"models": models, "method": {"slerp": {"alpha": 0.3}}}
    _, first = shop.merge(made)
    assert first.run.statistics_computed > 50
    for change in (
        {"output": {"layout": "bfl"}},
        {"output": {"dtype": "f8_e4m3"}},
        {"guidance": "drop"},
        {"rules": [{"where": "double", "method": {"slerp": {"alpha": 0.9}}}]},
        {"models": {"first": models["schnell"], "second": models["krea"]}},
    ):
        got, report = shop.merge(made | change)
        assert report.run.statistics_computed == 0 < report.run.statistics_reused
        assert got == shop.merge(made | change, statistics_cache="off")[0]


def test_a_file_changed_in_place_is_looked_at_again(shop: Shop) -> None:
    models = shop.models(random(1, (60, 70)), random(2, (60, 70)))
    made = {"models": models, "method": "slerp"}
    before, _ = shop.merge(made)
    path = Path(models["m1"]["path"])
    times = path.stat()
    inode = times.st_ino
    with path.open("r+b") as file:
        file.seek(-4 * 60 * 70, os.SEEK_END)
        file.write(random(3, (60, 70))["t0"].tobytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `touch -r` and `rsync -t` do
    settle()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (inode, times.st_mtime_ns)
    after, report = shop.merge(made)
    assert report.run.statistics_reused == 0
    assert after == shop.merge(made, statistics_cache="off")[0] != before


def test_another_model_with_the_inode_size_and_time_of_the_first_is_another(shop: Shop) -> None:
    models = shop.models(random(1, (60, 70)), random(2, (60, 70)))
    made = {"models": models, "method": "slerp"}
    before, _ = shop.merge(made)
    path = Path(models["m1"]["path"])
    times = path.stat()
    other = factory.write(shop.folder / "other.safetensors", random(3, (60, 70))).read_bytes()
    path.unlink()
    path.write_bytes(other)  # often in the inode that has just become free
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    settle()
    after, report = shop.merge(made)
    assert report.run.statistics_reused == 0
    assert after == shop.merge(made, statistics_cache="off")[0] != before


def test_a_file_that_changed_a_moment_ago_is_not_trusted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    models = shop.models(random(1, (60, 70)), random(2, (60, 70)))
    os.utime(models["m1"]["path"], ns=(1, 1))  # says nothing: anybody can do it
    _, report = shop.merge({"models": models, "method": "slerp"})
    assert report.run.statistics_cache == "unused: a model was touched within the last 2 seconds"
    assert shop.files() == []


def test_a_file_ahead_of_the_clock_is_not_trusted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"models": shop.models(random(1, (60, 70)), random(2, (60, 70))), "method": "slerp"}
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)  # as a server's may be
    _, report = shop.merge(made)
    ahead = "unused: a model was touched at a time that lies ahead of the clock"
    assert report.run.statistics_cache == ahead
    assert shop.files() == []


def test_where_no_time_of_the_last_touch_is_told_nothing_is_kept(shop: Shop) -> None:
    made = {"models": shop.models(random(1, (60, 70)), random(2, (60, 70))), "method": "slerp"}
    settle()
    plan = submerge.plan(made, shop.folder / "out.safetensors")
    first, second = plan.sources
    timeless = first._replace(identity={**first.identity, "ctime_ns": 0})
    assert statistics.doubt(plan) is None
    told = "unused: a model's file system does not say when files were last touched"
    for sources in ((timeless, second), (second, timeless)):
        assert statistics.doubt(replace(plan, sources=sources)) == told


# Where and how much.


def test_the_option_the_variable_and_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("SUBMERGE_STATISTICS_CACHE", "")
    assert StatisticsCache.of(None).folder == tmp_path / "xdg" / "submerge" / "statistics"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to pass over
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert StatisticsCache.of(None).folder == tmp_path / "home/.cache/submerge/statistics"
    monkeypatch.setenv("SUBMERGE_STATISTICS_CACHE", "off")
    assert StatisticsCache.of(None).folder is None
    monkeypatch.setenv("SUBMERGE_STATISTICS_CACHE", str(tmp_path / "env"))
    assert StatisticsCache.of(None).folder == tmp_path / "env"
    assert StatisticsCache.of(tmp_path / "given").folder == tmp_path / "given"
    assert StatisticsCache.of("off").folder is None


@pytest.mark.parametrize("setting", ["", 3, True])
def test_another_setting_is_refused(setting: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        submerge.RunOptions(statistics_cache=setting)
    assert caught.value.message.startswith("statistics_cache: expected a path, got ")
    assert caught.value.hint == "a folder or `off`; leave it out for the user's cache directory"


def test_what_was_used_least_recently_goes_first(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(seed: int) -> dict[str, Any]:
        folder = Shop(shop.folder / str(seed))
        folder.folder.mkdir(exist_ok=True)
        pair = folder.models(random(seed, (9, 9)), random(seed + 50, (9, 9)))
        return {"models": pair, "method": "slerp"}

    recipes = [made(seed) for seed in range(3)]
    for at, each in enumerate(recipes[:2]):
        shop.merge(each)
        for file in shop.files():  # an hour apart
            os.utime(file, ns=(file.stat().st_mtime_ns - 3_600_000_000_000,) * 2)
        assert len(shop.files()) == at + 1
    shop.merge(recipes[0])  # the older one is used
    size = sum(path.stat().st_size for path in shop.files())
    monkeypatch.setattr(statistics, "LIMIT", size)
    shop.merge(recipes[2])
    recalled = [
        shop.merge(each)[1].run.statistics_reused for each in (recipes[0], recipes[2], recipes[1])
    ]
    assert recalled == [1, 1, 0]
    assert sum(path.stat().st_size for path in shop.files()) <= size


def test_one_file_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    models = shop.models(*(random(i, (20, 20)) for i in range(3)))
    monkeypatch.setattr(statistics, "_FILE_LIMIT", 2000)
    for density in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        method = {"ties": {"density": density}}
        made = {"models": models, "base": "m0", "method": method}
        shop.merge(made)
        (file,) = shop.files()
        assert file.stat().st_size <= 2000
    assert shop.merge(made)[1].run.statistics_reused == 1  # the last stays


def test_doctor_tells_where_it_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"models": shop.models(random(1, (9, 9)), random(2, (9, 9))), "method": "slerp"}
    shop.merge(made)
    (file,) = shop.files()
    monkeypatch.setenv("SUBMERGE_STATISTICS_CACHE", str(shop.cache))
    assert cli._run(["doctor", str(shop.folder)]) == 0
    nbytes = file.stat().st_size
    expected = f"statistics in {shop.cache}: 1 file, {nbytes} B of 64.0 MB"
    assert expected in capsys.readouterr().out.splitlines()
    assert cli._run(["doctor", "--json", str(shop.folder)]) == 0
    found = json.loads(capsys.readouterr().out)["statistics"]
    assert found == {
        "folder": str(shop.cache), "files": 1, "bytes": nbytes, "limit": 64_000_000,
    }  # fmt: skip


def test_the_command_line_keeps_and_uses_it(shop: Shop) -> None:
    models = shop.models(random(1, (30, 30)), random(2, (30, 30)))
    made = factory.write_json(shop.folder / "recipe.json", {"models": models, "method": "slerp"})
    command = [sys.executable, "-m", "submerge", "merge", str(made), "--overwrite"]
    command += ["-o", str(shop.folder / "out.safetensors")]

    def run(**environment: str) -> dict[str, Any]:
        given = os.environ | environment
        done = subprocess.run(
            [*command, "--json"], env=given, capture_output=True, text=True, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)["run"]
        return found

    time.sleep(2.1)  # other processes trust no file that changed just now
    assert run(SUBMERGE_STATISTICS_CACHE="off")["statistics_cache"] == "off"
    first, second = (run(SUBMERGE_STATISTICS_CACHE=str(shop.cache)) for _ in range(2))
    assert (first["statistics_computed"], second["statistics_reused"]) == (1, 1)
    text = subprocess.run(
        [*command, "--statistics-cache", str(shop.cache)], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert text.rstrip().endswith("statistics of 1 unit from the cache")
