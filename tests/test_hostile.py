"""What any file may hold: nothing but errors of submerge and of the system comes of it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files
import factory
import submerge
from factory import KREA
from submerge import cli
from submerge.blocks import Selector
from submerge.doctor import doctor
from submerge.errors import CheckpointError, SubmergeError
from submerge.evaluate import EvaluateOptions, read_prompts
from submerge.given import declared
from submerge.inference import InferenceOptions, plan_loading
from submerge.measure import Workload
from submerge.page import build
from submerge.recipe import Recipe
from submerge.recipe.importers import import_recipe, import_text

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parent / "data" / "recipes"


def outcome(act: Callable[[], object]) -> str:
    """What came of an act; anything but submerge's and the system's errors comes through."""
    try:
        act()
    except (SubmergeError, OSError) as error:
        str(error).encode()  # can be printed
        return type(error).__name__
    return "ok"


# -- paths ----------------------------------------------------------------------------------------

# Each takes a path and a model that is sound.
PATHS: dict[str, Callable[[Any, str], object]] = {
    "inspect": lambda path, _: submerge.inspect(path, layout="auto"),
    "verify": lambda path, _: submerge.verify(path, layout="auto"),
    "verify, recipe": lambda path, model: submerge.verify(model, recipe=path),
    "diff, first": submerge.diff,
    "diff, second": lambda path, model: submerge.diff(model, path),
    "analyze": lambda path, model: submerge.analyze(model, path),
    "analyze, base": lambda path, model: submerge.analyze(model, model, base=path),
    "suggest": lambda path, _: submerge.suggest(path, goal="balanced"),
    "plan, recipe": lambda path, _: submerge.plan(path, "out"),
    "plan, model": lambda path, _: submerge.plan({"models": {"a": path}}, "out"),
    "plan, output": lambda path, model: submerge.plan({"models": {"a": model}}, path),
    "plan, pipeline": lambda path, model: submerge.plan(
        {"models": {"a": model}, "output": {"pipeline_from": path}}, "out"
    ),
    "convert, model": lambda path, _: submerge.convert(path, "out"),
    "convert, output": lambda path, model: submerge.convert(model, path),
    "two models": lambda path, model: submerge.merge_flux_models(model, path),
    "two models, output": lambda path, model: submerge.merge_flux_models(
        model, model, {"output_path": path}
    ),
    "two models, config": lambda path, model: submerge.merge_flux_models(model, model, path),
    "export, model": lambda path, _: submerge.export_merged_model(path, "out.safetensors"),
    "export, output": lambda path, model: submerge.export_merged_model(model, path),
    "load": lambda path, _: plan_loading(path, device="cpu"),
    "load, components": lambda path, model: plan_loading(model, device="cpu", components=path),
    "reproduce": lambda path, _: submerge.reproduce(path),
    "measure": lambda path, _: submerge.measure(path, load={"device": "cpu"}),
    "test, prompts": lambda path, _: read_prompts(path),
    "report": lambda path, _: build(evaluation=path),
    "doctor": lambda path, _: doctor([path]),
    "import": lambda path, _: import_recipe(path),
    "cache": lambda path, _: submerge.RunOptions(statistics_cache=path),
}  # fmt: skip
NAMES: dict[str, Any] = {
    "bytes": b"x", "a number": 3, "half a pair": "\ud800.safetensors", "nothing": "",
    "NUL": "a\0b", "not UTF-8": os.fsdecode(b"caf\xe9.safetensors"), "nobody": "~nobody-here/x",
    "a path with NUL": Path("a\0b"), "long": "x" * 5000,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(factory.save_file(tmp_path_factory.mktemp("hostile") / "k.safetensors", KREA, "bfl"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", PATHS)
def test_a_path_that_is_none(
    verb: str, name: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome(lambda: PATHS[verb](NAMES[name], model))


@pytest.mark.parametrize("verb", [["inspect"], ["verify"], ["diff", "."], ["convert", "-o", "o"]])
def test_a_name_that_is_not_utf8_is_an_error_at_the_command_line(
    verb: list[str], model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.safetensors"
    Path(os.fsdecode(path)).symlink_to(model)
    assert cli._run([*verb, os.fsdecode(path)]) in (1, 2, 3)
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert "panicked" not in said
    assert "Traceback" not in said


def test_a_shard_whose_name_is_not_utf8_is_named(tmp_path: Path, model: str) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.safetensors")).symlink_to(model)
    with pytest.raises(SubmergeError, match="not UTF-8"):
        submerge.inspect(tmp_path)


@pytest.fixture
def latin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, of a name that is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "verb",
    [
        "merge a a -o o.safetensors", "merge a a -o o", "merge a a -o o --dry-run",
        "convert a -o o.safetensors", "export a o.safetensors",
    ],
)  # fmt: skip
def test_nothing_is_written_into_a_folder_whose_name_is_not_utf8(
    verb: str, model: str, latin: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli._run([model if word == "a" else word for word in verb.split()]) == cli.USAGE
    said = capfd.readouterr().err.splitlines()
    assert said[-2].startswith("error: output: the text `")
    assert said[-2].endswith("holds NUL, or bytes that are not UTF-8")
    assert said[-1] == "hint: name the file, and the folders it lies in, in UTF-8"
    assert list(latin.iterdir()) == []


def test_what_no_plan_has_to_name_works_in_such_a_folder(
    model: str, latin: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = adapter_files.pairs(KREA, ["double_blocks.0.img_attn.qkv"], layout="bfl")
    style = adapter_files.save(latin.parent / "style.safetensors", adapter_files.kohya(pairs, 2.0))
    for verb in (
        ["lora", "info", str(style)],
        ["lora", "bake", model, str(style), "-o", f"{latin.parent}/b.safetensors"],
        ["analyze", model, model, "--json", "a.json", "--heatmap", "a.svg"],
        ["suggest", model, model, "-o", "r.yaml"],
        ["suggest", "a.json", "-o", "s.yaml"],
        ["diff", model, model],
        ["verify", model],
        ["merge", model, model, "-o", f"{latin.parent}/o.safetensors", "--trace", "t.json"],
    ):
        assert cli._run(verb) == cli.OK, capfd.readouterr().err
    assert sorted(p.name for p in latin.iterdir()) == [
        "a.json",
        "a.svg",
        "r.yaml",
        "s.yaml",
        "t.json",
    ]


@pytest.mark.parametrize("name", ["vocab\udce9.json", "\udce9.safetensors", "a link"])
def test_a_component_whose_name_is_not_utf8_is_an_error_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    pipeline = factory.save_pipeline(tmp_path / "krea", KREA)
    named = tmp_path / "\udce9" if name == "a link" else pipeline / "vae" / name
    factory.write(named, {"x": np.zeros(2, np.float32)})
    if name == "a link":
        (pipeline / "vae" / name).symlink_to(named)
    recipe = {"models": {"krea": str(pipeline)}, "output": {"pipeline_from": "krea"}}
    with pytest.raises(CheckpointError, match="the name is not UTF-8, expected one") as caught:
        submerge.merge(recipe, tmp_path / "out")
    assert caught.value.hint == "rename the file or its folder"
    assert not (tmp_path / "out").exists()


def test_a_tilde_in_a_recipe_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    factory.save_pipeline(tmp_path / "models" / "krea", KREA)
    recipe = {"models": {"krea": "~/models/krea"}, "output": {"pipeline_from": "~/models/krea"}}
    plan = submerge.plan(recipe, tmp_path / "out")
    assert str(plan.sources[0].path).startswith(str(tmp_path / "models" / "krea"))
    assert Recipe.load(recipe).models["krea"].path == "~/models/krea"
    submerge.plan({"models": {"krea": {"path": "~/models/krea"}}}, tmp_path / "out")


@pytest.mark.parametrize("threads", [0, -1, 4097, 2**31, 2**64, 1.5, "4", True])
def test_threads_that_no_machine_has(threads: Any) -> None:
    assert outcome(lambda: submerge.RunOptions(threads=threads)) == "RecipeError"
    if not isinstance(threads, bool):
        assert cli._run(["verify", "x", "--threads", str(threads)]) == (
            cli.FAILED if threads == "4" else cli.USAGE
        )


@pytest.mark.parametrize("threads", [1, 4096, None])
def test_threads_that_some_machine_has(threads: int | None, model: str, tmp_path: Path) -> None:
    run: Any = {"threads": threads, "memory_budget": "1MiB"}
    assert submerge.convert(model, tmp_path / "o.safetensors", **run).run.threads >= 1


@pytest.mark.parametrize("size", [2**63, 2**64, "99999999TB", 0, -1, "0B", 1.5])
def test_sizes_that_no_file_has(size: Any) -> None:
    for name in ("memory_budget", "chunk"):
        assert outcome(lambda name=name: submerge.RunOptions(**{name: size})) == "RecipeError"  # type: ignore[misc]
    recipe = {"models": {"a": "a"}, "output": {"shard_size": size}}
    assert outcome(lambda: Recipe.load(recipe)) == "RecipeError"


# -- texts ----------------------------------------------------------------------------------------

SPICE = [
    "!!bool x", "!!int ''", "!!float x", "!!timestamp 2001-99-99", "!!binary '*'", "!!set {a, b}",
    "!!omap [a]", "[[1]]: x", "? {a: 1}\n: 1", "? [a, [b]]\n: 1", "&a [*a]: 1", "<<: [1]",
    "%TAG ! x",
    "\0", "\ud800", "\x1b[2J", "\u2028", "[" * 500, "{" * 500, "9" * 5000, "1e999", ".nan", "0x",
    "null", "~", "[]", "{}", "'", '"', "\t", "- ", ": ", ", ", "double[0:99999]", "**", "&5", "&x",
]  # fmt: skip
MERGEKIT = """merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5, density: [0.1, 0.9]}
  - model: b
    parameters:
      weight:
        - {filter: mlp, value: 0.3}
        - value: 0.5
dtype: bfloat16
"""
TEXTS = [
    (DATA / "full.yaml").read_text(encoding="utf-8"),
    (DATA / "comfy-api.json").read_text(encoding="utf-8"),
    (DATA / "comfy-workflow.json").read_text(encoding="utf-8"),
    MERGEKIT,
    'version 0.1.0\nmodel "a" model_config="flux-flux"\nmodel "b"\nmerge "weighted_sum" &0 &1\n',
    "preset:" + "0.5," * 60 + "0.5",
    json.dumps({"sd_merge_recipe": json.dumps({"interp_method": "Weighted sum", "multiplier": 1})}),
]
READERS: dict[str, Callable[[str], object]] = {
    "recipe": lambda text: Recipe.load(text + "\n"),
    **{
        kind: lambda text, kind=kind: import_text(text, "x", kind)  # type: ignore[misc]
        for kind in ("auto", "comfy", "mecha", "mergekit", "metadata", "supermerger")
    },
    "workload": Workload.of,
    "selector": lambda text: Selector.parse(text, "where"),
}


def mutated(text: str, dice: random.Random) -> str:
    for _ in range(dice.choice([1, 1, 2, 4])):
        at, length = dice.randrange(len(text) + 1), dice.randrange(1, 30)
        piece = text[at : at + length]
        put = dice.choice([*SPICE, "", piece * 3, text[: dice.randrange(60)]])
        text = text[:at] + put + text[at + dice.choice([0, length]) :]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_mutated_texts(seed: int, tmp_path: Path) -> None:
    dice, seen = random.Random(seed), set()  # noqa: S311
    path = tmp_path / "p.jsonl"
    for _ in range(60):
        text = mutated(dice.choice(TEXTS), dice)
        for read in READERS.values():
            seen.add(outcome(lambda read=read, text=text: read(text)))  # type: ignore[misc]
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for file in (read_prompts, Recipe.load, import_recipe):
            seen.add(outcome(lambda file=file: file(path)))  # type: ignore[misc]
    assert {"ok", "RecipeError"} <= seen


@pytest.mark.parametrize("text", SPICE, ids=range(len(SPICE)))
def test_small_yaml(text: str) -> None:
    models = "models: {a: a.safetensors, b: b.safetensors}\n"
    for written in (f"{models}base: {text}\n", f"{models}{text}\n", f"{models}{text}: 1\n"):
        outcome(lambda written=written: Recipe.load(written))  # type: ignore[misc]


VALUES = [
    None, True, -1, 0, 2**400, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "x" * 500, [],
    {}, [[]], {"": 1}, object(), b"x", 1 + 2j, {1: 2}, (1,), {1, 2}, range(3), Path("/"), 0.5, len,
]  # fmt: skip


@pytest.mark.parametrize("kind", [InferenceOptions, EvaluateOptions, Workload, submerge.RunOptions])
def test_options_of_any_value(kind: Any) -> None:
    seen = set()
    for name in declared(kind):
        for value in VALUES:
            seen.add(outcome(lambda name=name, value=value: kind(**{name: value})))  # type: ignore[misc]
            seen.add(outcome(lambda name=name, value=value: kind.of({name: value})))  # type: ignore[misc]
    assert seen == {"ok", "RecipeError"}
    if kind is not submerge.RunOptions:
        assert {outcome(lambda value=value: kind.of(value)) for value in VALUES} <= {  # type: ignore[misc]
            "ok", "RecipeError",
        }  # fmt: skip
