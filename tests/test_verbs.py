"""The verbs in Python: names, defaults, options and what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import submerge
from factory import KREA, SCHNELL, save_file, save_folder
from submerge import RecipeError, RunOptions
from submerge.merge import named
from submerge.pairs import Pair
from submerge.rows import Row, grouped


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    schnell = save_folder(tmp_path / "schnell", SCHNELL)
    return schnell, save_file(tmp_path / "krea.safetensors", KREA, "bfl")


def test_two_models_merge_into_a_folder_named_after_them(pair: tuple[Path, Path]) -> None:
    model = submerge.merge_flux_models(*pair, {"alpha": 0.25})
    assert model.path == Path("schnell-krea")
    assert (model.path / "config.json").is_file()
    assert list(model.recipe.models) == ["schnell", "krea"]
    assert any("0.75 * schnell + 0.25 * krea" in row.formulas for row in model.report.rows)


def test_the_config_may_name_the_output_and_is_left_as_it_was(pair: tuple[Path, Path]) -> None:
    config = {"alpha": 0.25, "output_path": "here.safetensors"}
    model = submerge.merge_flux_models(*pair, config)
    assert model.path == Path("here.safetensors")
    assert model.path.is_file()
    assert config == {"alpha": 0.25, "output_path": "here.safetensors"}


def test_a_config_with_models_of_its_own_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.models"):
        submerge.merge_flux_models(*pair, {"models": {"a": "x"}})


def test_an_output_path_that_is_no_path_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError, match=r"config\.output_path: expected a path, got 3"):
        submerge.merge_flux_models(*pair, {"output_path": 3})


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/schnell", "b/krea.safetensors"], ["schnell", "krea"]),
        (["flux1-dev.safetensors", "x/krea_bfl.safetensors"], ["flux1-dev", "krea"]),
        (["x/FLUX.1-schnell/transformer", "y/model.safetensors"], ["FLUX_1-schnell", "y"]),
        (["a/flux.safetensors", "b/flux.safetensors"], ["a", "b"]),
        (["x/same.safetensors", "x/same.safetensors"], ["a", "b"]),
        (["1.safetensors", "2.safetensors"], ["model_1", "model_2"]),
        (["b", "a"], ["b", "a"]),
    ],
)
def test_models_are_named_after_their_files(paths: list[str], names: list[str]) -> None:
    assert list(named(paths)) == names
    assert list(named(paths).values()) == paths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"io": "direct"}, "io: expected one of `auto`, `mmap`, `pread`, got the text `direct`"),
        ({"cache": "lose"}, "cache: expected one of `drop`, `keep`, got the text `lose`"),
        (
            {"isa": "sse"},
            "isa: expected one of `auto`, `scalar`, `avx2`, `avx512`, `neon`, got the text `sse`",
        ),
        ({"threads": 0}, "threads: expected a whole number from 1 to 4096, got 0"),
        ({"memory_budget": "much"}, "memory_budget: expected bytes or a size, got the text `much`"),
        ({"chunk": 0}, "chunk: expected bytes or a size, got 0"),
    ],
)
def test_run_options_say_what_they_expect(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        RunOptions(**arguments)  # type: ignore[arg-type]
    assert caught.value.message == message


def test_an_unknown_run_option_is_a_type_error_with_the_nearest_name(
    pair: tuple[Path, Path],
) -> None:
    with pytest.raises(TypeError, match="did you mean `threads`"):
        submerge.convert(pair[0], "x.safetensors", thread=2)  # type: ignore[call-arg]
    assert not Path("x.safetensors").exists()


def test_every_option_reaches_the_core() -> None:
    options = RunOptions(threads=3, memory_budget="2MiB", chunk="64 KiB", io="pread", cache="keep")
    told = json.loads(options.with_(overwrite=True, stats=False, isa="scalar").to_json("measure"))
    assert told.pop("max_header_bytes") > 0
    assert json.loads(options.to_json("write", {"key": [2**64 - 1]}))["statistics"] == {
        "key": [2**64 - 1]
    }
    assert told == {
        "mode": "measure",
        "threads": 3,
        "memory_budget": 2 << 20,
        "matrix_budget": 2 << 20,
        "chunk": 64 << 10,
        "io": "pread",
        "cache": "keep",
        "isa": "scalar",
        "overwrite": True,
        "stats": False,
        "statistics": None,
    }


def row(block: str, part: str, elements: int, pair: Pair, **shares: float) -> Row:
    return Row(block, part, ("f",), elements, 1, 0, 0, (pair,), shares)


def test_rows_add_up_as_their_sums_do() -> None:
    # Vectors (3, 0) and (0, 4) against (3, 4) and (0, 0), cut in two.
    one = row("double.0", "mlp", 1, Pair("a", "b", (9.0, 9.0), 9.0, 0.0), a=0.25, b=0.75)
    two = row("double.1", "mlp", 3, Pair("a", "b", (0.0, 16.0), 0.0, 16.0), a=3.0)
    (both,) = grouped([one, two], "part")
    assert (both.block, both.part, both.elements, both.changed) == ("double", "mlp", 4, 2)
    assert both.to_dict()["shares"] == {"a": 3.25 / 4, "b": 0.75 / 4}
    (joined,) = both.pairs
    assert joined.cosine == pytest.approx(9 / (3 * 5))
    assert joined.relative_l2 == pytest.approx(4 / 3)
    assert [r.block for r in grouped([one, two], "block")] == ["double.0", "double.1"]


def test_a_pair_with_a_zero_has_no_angle() -> None:
    nothing = Pair("a", "b", (0.0, 4.0), 0.0, 4.0)
    assert (nothing.cosine, nothing.relative_l2) == (None, None)


def test_a_report_is_json_all_the_way(pair: tuple[Path, Path]) -> None:
    report = submerge.merge_flux_models(*pair, {"alpha": 0.3, "output_path": "x"}).report
    plain = json.loads(report.to_json())
    assert "non-commercial" in plain["license"]
    assert plain["recipe"]["models"].keys() == {"schnell", "krea"}
    assert sum(row["elements"] for row in plain["rows"]) > 100_000
    shares = {row["part"]: row["shares"] for row in plain["rows"]}
    assert shares["mlp"] == pytest.approx({"schnell": 0.7, "krea": 0.3})
    assert shares["guidance"] == {"krea": 1.0}
    assert plain["files"]["diffusion_pytorch_model.safetensors"] > 100_000
    assert plain["versions"]["submerge"] == submerge.__version__


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_progress_bar(pair: tuple[Path, Path]) -> None:
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "submerge", "merge", *map(str, pair), "-o", "x.safetensors"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=follower, timeout=60)
    os.close(follower)
    drawn = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "merging" in drawn
