"""The command that paints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import pytest

from submerge import cli
from submerge.cli.paint import budget
from submerge.inference import read_metadata
from submerge.inference.quantized import QUANTIZATIONS

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--size", "32x32", "--steps", "1", "--max-sequence-length", "16", "--device", "cpu")


def test_it_paints_and_says_where(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a bowl of figs\n\nrain\n", encoding="utf-8")
    arguments = ["generate", str(pipelines["merged"]), "-p", "a fox", "--prompts", str(file)]
    arguments += [*SMALL, "--seed", "4", "-n", "2", "--output", str(tmp_path / "images")]
    assert cli._run([*arguments, "--json"]) == cli.OK
    images = json.loads(capsys.readouterr().out)["images"]
    assert [(image["prompt"], image["seed"]) for image in images] == [
        (prompt, seed) for prompt in ("a fox", "a bowl of figs", "rain") for seed in (4, 5)
    ]
    assert read_metadata(images[3]["path"])["seed"] == 5
    assert cli._run(arguments) == cli.OK
    assert "6 of them already there" in capsys.readouterr().err


def test_the_plan_is_printed_and_nothing_painted(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(pipelines["krea"]), "--plan", "--device", "cuda"]
    arguments += ["--memory-budget", "vram=800MB,ram=2GB", "-o", str(tmp_path / "images")]
    assert cli._run(arguments) == cli.OK
    assert "chosen:    everything resident" in capsys.readouterr().out
    assert cli._run([*arguments, "--json"]) == cli.OK
    assert json.loads(capsys.readouterr().out)["machine"]["vram"] == 800_000_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ((), cli.USAGE, "expected a prompt"),
        (("-p", "a", "--size", "wide"), cli.USAGE, "WIDTHxHEIGHT"),
        (("-p", "a", "--lora", "x=y"), cli.USAGE, "FILE=SCALE"),
        (("-p", "a", "--memory-budget", "1MB"), cli.FAILED, "smallest budget that would do"),
        (("-p", "a", "--negative-prompt", "b"), cli.USAGE, "true_cfg"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pipelines: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    arguments = ["generate", str(pipelines["krea"]), "-o", str(tmp_path / "images")]
    assert cli._run([*arguments, *more]) == code
    assert said in capsys.readouterr().err


def test_budgets_in_words() -> None:
    assert budget(None) is None
    assert budget("12GB") == "12GB"
    assert budget("vram=12GB, ram=16GB") == {"vram": "12GB", "ram": "16GB"}


def test_layers_are_stored_as_asked_and_prompts_kept(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(pipelines["krea"]), "-p", "a fox", *SMALL]
    arguments += ["--quantization", "int4", "--embeddings", str(tmp_path / "kept")]
    arguments += ["-o", str(tmp_path / "images")]
    assert cli._run(arguments) == cli.OK
    told = capsys.readouterr().err
    assert "denoise" in told
    assert "rss" in told
    painted = read_metadata(tmp_path / "images" / "0000-0.png")
    assert painted["model"]["quantization"] == "int4"
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert cli._run([*arguments, "--plan"]) == cli.OK
    assert "chosen:    everything resident, int4 layers" in capsys.readouterr().out


def test_every_form_can_be_asked_for() -> None:
    for command in ("generate", "measure", "test"):
        found = cli.app.get_command(click.Context(cli.app), command)
        assert found is not None
        option = next(one for one in found.params if one.name == "quantization")
        assert list(getattr(option.type, "choices", ())) == ["auto", *QUANTIZATIONS]
