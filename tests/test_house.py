"""The house itself: what may stand where, how large it may be, and what importing costs."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import submerge
from submerge import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PYTHON = sorted(
    path
    for folder in ("python", "tests", "benches", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
RUST = sorted(
    path for folder in ("rust", "tests", "benches") for path in (ROOT / folder).rglob("*.rs")
)
CORE = sorted((ROOT / "rust").rglob("*.rs"))

FILE_LINES = 400
FUNCTION_LINES = 80
PARAMETERS = 6

RUST_FUNCTION = re.compile(r"(\s*)(?:pub(?:\([^)]*\))? )?(?:(?:const|unsafe|async) )*fn (\w+)")

TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*mod (\w+);")

# Each floor may use those before it, and its own.
RUST_FLOORS = (
    ("error",),
    ("dtype", "memory"),
    ("simd",),
    ("io", "math"),
    ("format", "linalg"),
    ("kernels",),
    ("plan", "stats", "reader"),
    ("resolve", "schedule", "report"),
    ("inputs", "sink"),
    ("compute",),
    ("exec",),
    ("python",),
)

# The same within a folder.
RUST_STOREYS = {
    "linalg": (
        ("engine",),
        ("gemm", "lanes", "sweeps"),
        ("long", "sketch", "thin", "tridiagonal"),
        ("cholesky", "eigen", "inverse"),
        ("residual", "spectrum"),
        ("factors", "polar"),
        ("recompress",),
        ("common", "power"),
    ),
    "kernels": (
        ("check", "each", "family", "tile"),
        ("kernel", "weights"),
        ("gram", "runner", "linear", "select", "smooth"),
        ("combine", "delta", "pointwise"),
        ("adaptive", "matrix"),
    ),
}


def code(path: Path) -> str:
    """A Rust file without comments, texts and test modules."""
    text = TEST_MODULE.sub("", path.read_text(encoding="utf-8"))
    text = text.split("#[cfg(test)]")[0]
    text = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    return re.sub(r"//[^\n]*", "", text)


def run(*arguments: str) -> str:
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


# What users may import.


def test_exports_are_sorted_and_complete() -> None:
    assert submerge.__all__ == sorted(submerge.__all__, key=str)
    assert set(submerge.__all__) == set(submerge._HOMES)


@pytest.mark.parametrize("name", submerge.__all__)
def test_every_export_lives_where_it_says(name: str) -> None:
    value = getattr(submerge, name)
    home = importlib.import_module(f"submerge.{submerge._HOMES[name]}")
    assert value is getattr(home, name)
    assert name in home.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mergge'"):
        _ = submerge.mergge  # type: ignore[attr-defined]  # what the test is about


def test_verbs_stay_callable_whoever_imports_their_modules_first() -> None:
    verbs = ["diff", "inspect", "merge", "plan", "verify"]
    script = (
        "import importlib, json, submerge\n"
        f"names = {verbs!r}\n"
        "for name in ['merge', 'plan', 'verify', 'diff', 'inspection']:\n"
        "    importlib.import_module('submerge.' + name)\n"
        "print(json.dumps([callable(getattr(submerge, name)) for name in names]))\n"
    )
    assert json.loads(run(sys.executable, "-c", script)) == [True] * len(verbs)


# What importing costs.


def loaded(script: str) -> set[str]:
    """The top-level modules, and those of submerge, that a script loads."""
    report = "\nimport sys as _s, json as _j\nprint(_j.dumps(sorted(_s.modules)))"
    names = json.loads(run(sys.executable, "-c", script + report).splitlines()[-1])
    return {name if name.startswith("submerge") else name.partition(".")[0] for name in names}


def test_importing_submerge_imports_nothing_else() -> None:
    heavy = {"click", "json", "numpy", "rich", "ruamel", "torch", "typing"}
    found = loaded("import submerge")
    # The report itself needs json.
    assert found & heavy <= loaded("pass") & heavy
    assert {name for name in found if name.startswith("submerge")} == {"submerge"}


def test_help_imports_click_and_little_more() -> None:
    found = loaded(
        "from submerge.cli import app\n"
        "app.main(['--help'], standalone_mode=False)\n"
        "app.main(['merge', '--help'], standalone_mode=False)\n"
    )
    assert not found & {"numpy", "rich", "ruamel", "torch"}
    assert {name for name in found if name.startswith("submerge.")} <= {
        "submerge.cli",
        "submerge.cli.lora_results",
        "submerge.cli.analysis",
        "submerge.cli.desk",
        "submerge.cli.grid",
        "submerge.cli.inspect",
        "submerge.cli.lora",
        "submerge.cli.measure",
        "submerge.cli.options",
        "submerge.cli.page",
        "submerge.cli.paint",
        "submerge.cli.recipe",
        "submerge.cli.terminal",
        "submerge.cli.test",
        "submerge.cli.tools",
        "submerge.cli.write",
    }


@pytest.mark.serial
def test_importing_submerge_takes_at_most_four_times_an_empty_script() -> None:
    def seconds(script: str) -> float:
        begun = time.perf_counter()
        run(sys.executable, "-c", script)
        return time.perf_counter() - begun

    rounds = [(seconds("pass"), seconds("import submerge")) for _ in range(9)]
    empty, imported = (statistics.median(column) for column in zip(*rounds, strict=True))
    assert imported < 4 * empty


# One file for each dangerous thing.


def files_with(pattern: str) -> set[str]:
    return {str(p.relative_to(ROOT / "rust")) for p in CORE if re.search(pattern, code(p))}


def test_python_is_known_to_one_rust_file() -> None:
    assert files_with(r"\bpyo3\b") == {"python.rs"}


def test_threads_are_started_where_jobs_are_run() -> None:
    found = files_with(r"\brayon\b|thread::(spawn|scope|Builder)")
    assert found == {"exec.rs", "exec/helpers.rs"}


def test_unsafe_lives_where_machines_and_systems_are_touched() -> None:
    places = files_with(r"\bunsafe\b")
    assert places
    assert {place for place in places if not place.startswith(("simd/", "io/sys"))} == set()


def test_the_core_knows_no_model_family() -> None:
    words = r"(?i)flux|guidance|transformer_blocks|double_blocks|diffusers|comfy"
    assert files_with(words) == set()


def test_rust_imports_only_downwards() -> None:
    rank = {name: floor for floor, names in enumerate(RUST_FLOORS) for name in names}
    upwards = []
    for path in CORE:
        module = path.relative_to(ROOT / "rust").parts[0].removesuffix(".rs")
        if module == "lib":
            continue
        assert module in rank, f"{module}: takes no floor yet"
        for used in re.findall(r"\bcrate::(?:\{([^}]*)\}|(\w+))", code(path)):
            names = re.findall(r"\b([a-z]\w*)(?:::|\b)", used[0]) if used[0] else [used[1]]
            upwards += [
                f"{module} -> {name}" for name in names if rank.get(name, -1) > rank[module]
            ]
    assert upwards == []


def rust_module(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT / "rust").with_suffix("").parts
    return parts[:-1] if parts[-1] == "mod" else parts


def rust_paths(tree: str) -> Iterator[str]:
    """The paths of a tree of imports: `a::{b, c::d}` is `a::b` and `a::c::d`."""
    head, brace, inside = tree.strip().partition("{")
    if not brace:
        yield head
        return
    depth, branch = 0, ""
    for letter in inside.rsplit("}", 1)[0] + ",":
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            yield from rust_paths(head + branch.strip())
            branch = ""
        else:
            branch += letter


RUST_TESTS = {
    (*rust_module(path), name)
    for path in CORE
    for name in TEST_MODULE.findall(path.read_text(encoding="utf-8"))
}
RUST_MODULES = {rust_module(path): path for path in CORE if rust_module(path) not in RUST_TESTS}


def rust_imports(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The files that a file names something of, re-exports included."""
    text = code(RUST_MODULES[module])
    paths = [path for tree in re.findall(r"\buse\s+([^;]+);", text) for path in rust_paths(tree)]
    rest = re.sub(r"\buse\s+[^;]+;", "", text)
    paths += re.findall(r"\b(?:crate|super|self)(?:::\w+)+", rest)
    found = set()
    for path in paths:
        at = module
        for i, part in enumerate(part.strip() for part in path.split("::")):
            if part in ("crate", "super", "self"):
                at = () if part == "crate" else at[:-1] if part == "super" else at
            elif (*at, part) in RUST_MODULES:
                at = (*at, part)
            else:
                if i == 0:
                    at = module  # another crate
                break
        found.add(at)
    return found - {module, ()}


def test_rust_files_import_each_other_in_no_circle() -> None:
    graph = {module: rust_imports(module) for module in RUST_MODULES if module != ("lib",)}
    assert graph["kernels", "runner"] == {("kernels", "kernel"), ("kernels", "tile")}
    try:
        for part in graphlib.TopologicalSorter(graph).static_order():
            assert part
    except graphlib.CycleError as circle:
        pytest.fail(" -> ".join("/".join(module) for module in circle.args[1]))


@pytest.mark.parametrize("folder", RUST_STOREYS)
def test_rust_imports_only_downwards_within_a_folder(folder: str) -> None:
    rank = {name: floor for floor, names in enumerate(RUST_STOREYS[folder]) for name in names}
    upwards = []
    for module in RUST_MODULES:
        if module[0] == folder and len(module) > 1:
            below = {used[1] for used in rust_imports(module) if used[0] == folder and used[1:]}
            upwards += [f"{module[1]} -> {name}" for name in below if rank[name] > rank[module[1]]]
    assert {m[1] for m in RUST_MODULES if m[0] == folder and len(m) > 1} == set(rank)
    assert upwards == []


# Budgets.


@pytest.mark.parametrize("path", [*PYTHON, *RUST], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES


def functions() -> Iterator[tuple[str, int, int]]:
    """Name, length and number of parameters of every Python function."""
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
                yield f"{path.relative_to(ROOT)}:{node.name}", length, len(names)


def test_python_functions_stay_small() -> None:
    assert [name for name, length, _ in functions() if length > FUNCTION_LINES] == []


def test_python_functions_take_few_parameters() -> None:
    # Fixtures of a test are no interface.
    known = [(n, count) for n, _, count in functions() if not n.startswith("tests/")]
    assert [name for name, count in known if count > PARAMETERS] == []


def rust_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of every function; a closing brace as deep as the `fn` ends it."""
    begun: tuple[str, str, int] | None = None
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if begun is None:
            match = re.match(
                r"(\s*)(?:pub(?:\([^)]*\))? )?(?:(?:const|unsafe|async) )*fn (\w+)", line
            )
            if match and not line.rstrip().endswith(("}", ";")):
                begun = match[1], match[2], at
        elif line.startswith((begun[0] + "}", begun[0] + ");")):
            yield f"{path.relative_to(ROOT)}:{begun[1]}", at - begun[2] + 1
            begun = None


def test_rust_functions_stay_small() -> None:
    lengths = dict(pair for path in RUST for pair in rust_functions(path))
    assert len(lengths) > 100  # the pattern still finds functions
    assert [name for name, length in lengths.items() if length > FUNCTION_LINES] == []


# Versions and registries agree.


def test_one_version_number() -> None:
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.*)"', manifest, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert version is not None
    assert latest is not None
    assert version[1] == latest[1] == submerge.__version__


def test_the_numerics_version_is_in_the_changelog() -> None:
    numerics = json.loads(_core.build_info())["numerics"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"- Version {numerics}:" in changelog


def test_plan_and_core_speak_one_language() -> None:
    from submerge.checkpoint import DTYPES, FLOATS
    from submerge.methods import METHODS, Method, Take
    from submerge.plan.form import VERSION

    info = json.loads(_core.build_info())
    kinds: list[type[Method]] = [*METHODS.values(), Take]
    ops = {op for kind in kinds for op in kind.ops}
    assert info["plan_version"] == VERSION
    assert set(info["ops"]) == ops | {"analyze", "beside", "same", "text"}
    assert set(info["dtypes"]) in (set(DTYPES), set(FLOATS))
