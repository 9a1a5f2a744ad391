"""The command line: what it prints where, what it exits with, and that it says no in words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from factory import KREA, SCHNELL, save_file, save_folder, save_sparse, write
from submerge import cli

RECIPE = """
models: {schnell: schnell, krea: krea.safetensors}
alpha: 0.25
rules:
  - {where: "single[*].mlp", alpha: {from: 0.2, to: 0.6}}
"""


class Ran:
    """One run of the command line: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a schnell folder, a krea file and a recipe for them."""
    save_folder(tmp_path / "schnell", SCHNELL, shards=2)
    save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., Ran]
PAIR = ("schnell", "krea.safetensors")


@pytest.fixture
def submerge(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, run in this process and in `folder`."""
    assert Path.cwd() == folder

    def run(*arguments: str) -> Ran:
        code = cli._run(arguments)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run


def test_version(submerge: Run) -> None:
    ran = submerge("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("submerge 0.")


@pytest.mark.parametrize("command", [[], *([name] for name in cli._COMMANDS)])
def test_every_command_has_help(submerge: Run, command: list[str]) -> None:
    ran = submerge(*command, "--help")
    assert ran.code == 0
    assert "Usage: submerge" in ran.out


def test_merge_two_models(submerge: Run, folder: Path) -> None:
    ran = submerge("merge", *PAIR, "--alpha", "0.3", "-o", "out.safetensors")
    assert ran.code == 0
    assert "0.70 * schnell + 0.30 * krea" in ran.out
    assert (folder / "out.safetensors").is_file()


def test_merge_prints_its_result_as_json_alone(submerge: Run) -> None:
    ran = submerge("merge", *PAIR, "--alpha", "0.3", "-o", "out.safetensors", "--json")
    report = json.loads(ran.out)
    assert report["rows"]
    assert report["run"]["bytes_written"] == Path("out.safetensors").stat().st_size
    assert ran.err == ""


def test_quiet_merge_prints_nothing(submerge: Run) -> None:
    ran = submerge("merge", *PAIR, "--alpha", "0.3", "-o", "out.safetensors", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_recipe_and_the_same_options_give_the_same_bytes(submerge: Run, folder: Path) -> None:
    assert submerge("merge", "recipe.yaml", "-o", "a.safetensors", "-q").code == 0
    options = ("--alpha", "0.25", "--set", "single[*].mlp=0.2..0.6")
    assert submerge("merge", *PAIR, *options, "-o", "b.safetensors", "-q").code == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def test_options_go_on_top_of_a_recipe(submerge: Run) -> None:
    ran = submerge("plan", "recipe.yaml", "--take", "double[0].txt=krea", "--alpha", "1")
    assert ran.code == 0
    assert "result = krea" in ran.out
    assert "0.80 * schnell + 0.20 * krea" in ran.out  # the recipe's own rule stays


def test_dry_run_prints_the_plan_and_writes_nothing(submerge: Run, folder: Path) -> None:
    before = sorted(folder.iterdir())
    ran = submerge("merge", "recipe.yaml", "-o", "out", "--dry-run")
    assert ran.code == 0
    assert "result = 0.75 * schnell + 0.25 * krea" in ran.out
    assert sorted(folder.iterdir()) == before


def test_dry_run_as_json_is_the_plan(submerge: Run) -> None:
    ran = submerge("merge", "recipe.yaml", "-o", "out", "--dry-run", "--json")
    plan = json.loads(ran.out)
    assert plan["version"] == 1
    assert len(plan["sources"]) == 3


def test_an_existing_output_is_kept_unless_told_otherwise(submerge: Run, folder: Path) -> None:
    (folder / "out.safetensors").write_text("mine")
    arguments = ("merge", *PAIR, "-o", "out.safetensors", "-q")
    ran = submerge(*arguments)
    assert ran.code == 1
    assert "--overwrite" in ran.err
    assert (folder / "out.safetensors").read_text() == "mine"
    assert submerge(*arguments, "--overwrite").code == 0
    assert (folder / "out.safetensors").stat().st_size > 1000


def test_convert_and_back_gives_the_same_file(submerge: Run) -> None:
    to = ("--layout", "diffusers", "-q")
    assert submerge("convert", "krea.safetensors", *to, "-o", "d.safetensors").code == 0
    assert (
        submerge("convert", "d.safetensors", "--layout", "bfl", "-q", "-o", "b.safetensors").code
        == 0
    )
    ran = submerge("diff", "krea.safetensors", "b.safetensors", "--exit-code", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["equal"] is True


def test_diff_tells_the_models_apart(submerge: Run) -> None:
    ran = submerge("diff", *PAIR, "--exit-code")
    assert ran.code == 4
    assert "elements differ" in ran.out
    assert "cosine" in ran.out


def test_inspect_names_the_model(submerge: Run) -> None:
    ran = submerge("inspect", "krea.safetensors", "--json")
    found = json.loads(ran.out)
    assert found["layout"] == "bfl"
    assert found["problem"] is None
    assert found["architecture"]["guidance"] is True


def test_inspect_describes_what_cannot_be_merged(submerge: Run, folder: Path) -> None:
    import numpy as np

    names = [f"transformer.transformer_blocks.0.attn.to_q.lora_{ab}.weight" for ab in "AB"]
    write(folder / "lora.safetensors", {name: np.zeros((4, 4), np.float32) for name in names})
    ran = submerge("inspect", "lora.safetensors")
    assert ran.code == 0
    assert "LoRA" in ran.out


def test_verify_a_merge_against_its_recipe(submerge: Run) -> None:
    assert submerge("merge", "recipe.yaml", "-o", "out", "-q").code == 0
    ran = submerge("verify", "out", "--recipe", "recipe.yaml")
    assert ran.code == 0
    assert ran.out.count("ok  ") == 5


def test_verify_notices_a_flipped_bit(submerge: Run, folder: Path) -> None:
    assert submerge("merge", "recipe.yaml", "-o", "out.safetensors", "-q").code == 0
    target = folder / "out.safetensors"
    data = bytearray(target.read_bytes())
    data[-1000] ^= 1
    target.write_bytes(data)
    ran = submerge("verify", "out.safetensors", "--recipe", "recipe.yaml", "--json")
    assert ran.code == 4
    failed = [check["name"] for check in json.loads(ran.out)["checks"] if not check["passed"]]
    assert failed == ["recipe"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["merge"], 2, "Missing argument"),
        (["merge", "recipe.yaml"], 2, "Missing option"),
        (["merge", "schnell", "-o", "x"], 2, "is one model"),
        (["merge", *PAIR, "-o", "x", "--alpha", "lots"], 2, "not a valid float"),
        (["merge", *PAIR, "-o", "x", "--set", "single"], 2, "SELECTOR=VALUE"),
        (["merge", *PAIR, "-o", "x", "--set", "single=a"], 2, "FROM..TO"),
        (["merge", *PAIR, "-o", "x", "--set", "dubble=0.5"], 2, "matches nothing"),
        (["merge", *PAIR, "-o", "x", "--take", "final=dev"], 2, "dev"),
        (["merge", *PAIR, "-o", "x", "--guidance", "bake=lots"], 2, "bake=VALUE"),
        (["merge", *PAIR, "-o", "x", "--memory-budget", "much"], 2, "memory_budget"),
        (["merge", *PAIR, "-o", "x", "--threads", "0"], 2, "--threads"),
        (["merge", "schnell", "nowhere", "-o", "x"], 1, "nowhere"),
        (["merge", "recipe.yml", "-o", "x"], 1, "recipe.yml"),
        (["inspect", "recipe.yaml"], 3, "recipe.yaml"),
        (["recipe", "new", "odd"], 2, "template"),
        (["mergge"], 2, "mergge"),
    ],
)
def test_errors_are_words_and_an_exit_code(
    submerge: Run, arguments: list[str], code: int, words: str
) -> None:
    ran = submerge(*arguments)
    assert ran.code == code, ran.err
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_nothing_is_left_after_an_error(submerge: Run, folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert submerge("merge", *PAIR, "-o", "krea.safetensors", "--overwrite").code != 0
    assert submerge("merge", *PAIR, "-o", "x", "--set", "dubble=0.5").code == 2
    assert sorted(folder.iterdir()) == before


def test_recipes_are_made_checked_and_described(submerge: Run, folder: Path) -> None:
    for name in submerge("recipe", "new", "--list").out.split():
        (folder / "new.yaml").write_text(submerge("recipe", "new", name).out, encoding="utf-8")
        ran = submerge("recipe", "check", "new.yaml")
        assert (ran.code, ran.err) == (0, "")
    schema = json.loads(submerge("recipe", "schema").out)
    assert "models" in schema["properties"]


def test_a_block_vector_becomes_a_recipe(submerge: Run, folder: Path) -> None:
    (folder / "vector.txt").write_text(",".join(["0", "0", "0.5", *["0.25"] * 58]))
    models = ("--model-a", "schnell", "--model-b", "krea.safetensors")
    ran = submerge("recipe", "import", "vector.txt", *models)
    assert ran.code == 0
    assert ran.err != ""  # how the direction was read
    (folder / "imported.yaml").write_text(ran.out, encoding="utf-8")
    assert submerge("recipe", "check", "imported.yaml").code == 0


def test_demo_keeps_its_models_on_request(submerge: Run, folder: Path) -> None:
    ran = submerge("demo", "--keep", "pair", "--quiet")
    assert (ran.code, ran.out) == (0, "")
    assert sorted(p.name for p in (folder / "pair").iterdir()) == [
        "demo-merged",
        "krea.safetensors",
        "schnell",
    ]


def test_doctor_reports_the_folder(submerge: Run) -> None:
    ran = submerge("doctor", "--json")
    found = json.loads(ran.out)
    assert found["paths"]["."]["free"] > 0
    assert found["paths"]["."]["filesystem"]


def test_a_merge_in_a_script_imports_nothing_for_show(folder: Path) -> None:
    script = (
        "import sys\nfrom submerge.cli import _run\n"
        f"assert _run(['merge', *{PAIR!r}, '-o', 'x.safetensors', '-q']) == 0\n"
        "print(sorted({'numpy', 'rich', 'torch'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="watches the process in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_merge_and_leaves_nothing(folder: Path, number: int, code: int) -> None:
    # Large enough that the signal comes in the middle; sparse, so that it costs no disk.
    big = [save_sparse(folder / f"{name}.safetensors") for name in ("one", "two")]
    before = sorted(folder.iterdir())
    command = [sys.executable, "-m", "submerge", "merge", *map(str, big), "-o", "x.safetensors"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_it_writes(process.pid)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert "nothing was written" in err
    assert "Traceback" not in err
    assert sorted(folder.iterdir()) == before


def wait_until_it_writes(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        counters = dict(
            line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines()
        )
        if int(counters["wchar"]) > 50_000_000:
            return
        time.sleep(0.01)
    pytest.fail("the merge wrote nothing for a minute")
