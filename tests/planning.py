"""Plans for tests: made from tiny models, checked against the form, and worked out in numpy.

`interpret` is an oracle for what a plan means: it reads the sources with the safetensors package
and computes each unit in f32, operand by operand, rounded once.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import factory
from factory import Array, Flux
from submerge import _core
from submerge.checkpoint import open_checkpoint
from submerge.layout import Model, identify
from submerge.methods import Setting
from submerge.plan import Plan, compile_plan
from submerge.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.methods import Method
    from submerge.values import Selection

# Every field of the form, by the kind of object that holds it.
FORM: dict[str, set[str]] = {
    "plan": {
        "version",
        "overflow",
        "target",
        "sources",
        "files",
        "texts",
        "copies",
        "outputs",
        "units",
    },
    "local": {"path", "identity"},
    "identity": {"dev", "ino", "size", "mtime_ns", "ctime_ns"},
    "file": {"path", "metadata"},
    "text": {"path", "text"},
    "copy": {"path", "from", "how"},
    "output": {"file", "name", "dtype", "shape"},
    "unit": {"name", "output", "start", "end", "operands", "op"},
    "rows": {"source", "tensor", "start", "end"},
    "network": {"input", "layers"},
    "layer": {"weight", "bias", "activation"},
    "mix": {"operands", "weights"},
}
# Bits of a dtype, and its rank in a file: larger dtypes first.
BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "U8": 8}


def opened(paths: Mapping[str, Path], layout: str = "auto") -> dict[str, Model]:
    return {name: identify(open_checkpoint(path), layout=layout) for name, path in paths.items()}


def saved(folder: Path, models: Mapping[str, Flux | Path]) -> dict[str, Path]:
    """The paths of models; those given as sizes are written first."""
    return {
        name: model
        if isinstance(model, Path)
        else factory.save_file(folder / f"{name}.safetensors", model)
        for name, model in models.items()
    }


def planned(
    folder: Path,
    models: Mapping[str, Flux | Path],
    recipe: dict[str, Any] | None = None,
    target: str = "out.safetensors",
    layout: str = "auto",
) -> Plan:
    """The plan for merging these models, checked against the form."""
    paths = saved(folder, models)
    sources = {name: {"path": str(path), "layout": layout} for name, path in paths.items()}
    loaded = Recipe.load({"models": sources} | (recipe or {}))
    plan = compile_plan(loaded, opened(paths, layout), folder / target)
    check(plan)
    return plan


def check(plan: Plan) -> dict[str, Any]:
    """The plan's JSON, once every field, index, range and order in it is as the form says."""
    made: dict[str, Any] = json.loads(plan.to_json())
    _keys("plan", made)
    assert made["version"] == 1
    assert made["overflow"] in ("saturate", "nan")
    ((kind, target),) = made["target"].items()
    assert kind in ("file", "folder")
    assert set(target) == {"path"}
    assert Path(target["path"]).is_absolute()
    for path, source in zip(paths(made), made["sources"], strict=True):
        _keys("local", source["file"])
        _keys("identity", source["file"]["identity"])
        assert path.is_absolute()
    assert len(set(paths(made))) == len(made["sources"])
    _check_files(made, single=kind == "file")
    _check_outputs(made)
    _check_units(made)
    return made


def paths(made: dict[str, Any]) -> list[Path]:
    """The files that a plan's JSON reads."""
    return [Path(source["file"]["path"]) for source in made["sources"]]


def _keys(kind: str, found: dict[str, Any]) -> None:
    assert set(found) == FORM[kind], kind


def _check_files(made: dict[str, Any], *, single: bool) -> None:
    for kind, part in (("file", "files"), ("text", "texts"), ("copy", "copies")):
        for entry in made[part]:
            _keys(kind, entry)
    paths = [entry["path"] for part in ("files", "texts", "copies") for entry in made[part]]
    assert len(set(paths)) == len(paths)
    if single:
        assert paths == [""]
    else:
        assert all(path and not path.startswith("/") and ".." not in path for path in paths)
    for file in made["files"]:
        assert all(isinstance(v, str) for pair in file["metadata"].items() for v in pair)


def _check_outputs(made: dict[str, Any]) -> None:
    for output in made["outputs"]:
        _keys("output", output)
    order = [(o["file"], -BITS[o["dtype"]], o["name"]) for o in made["outputs"]]
    dtypes = {o["dtype"] for o in made["outputs"]}
    if len(dtypes) == len({BITS[dtype] for dtype in dtypes}):
        assert order == sorted(order)
    assert {o["file"] for o in made["outputs"]} == set(range(len(made["files"])))


def _check_units(made: dict[str, Any]) -> None:
    """Units tile every output in order, and every operand lies in a tensor of its source."""
    at = dict.fromkeys(range(len(made["outputs"])), 0)
    last = 0
    for unit in made["units"]:
        _keys("unit", {name: unit[name] for name in unit if name != "added"})
        output = made["outputs"][unit["output"]]
        assert unit["output"] >= last
        last = unit["output"]
        assert unit["start"] == at[last] < unit["end"]
        at[last] = unit["end"]
        ((op, arguments),) = unit["op"].items()
        count = len(unit["operands"])
        assert op in json.loads(_core.build_info())["ops"]
        if op in ("copy", "linear", "same"):
            known = {"weights", "divisor"} if op == "linear" else set()
            assert set(arguments) <= known
        assert (count == 1) if op == "copy" else count >= 1
        if op == "linear":
            assert len(arguments["weights"]) == count
        row = math.prod(output["shape"][1:])
        for (term,) in unit["operands"]:
            _check_rows(made, term["rows"], unit["end"] - unit["start"], row)
        for term in unit.get("added", []):
            assert row == 1
            _check_network(made, term["network"], unit["end"] - unit["start"])
    assert all(at[i] == (o["shape"] or [1])[0] for i, o in enumerate(made["outputs"]))


def _check_rows(made: dict[str, Any], rows: dict[str, Any], count: int, row: int) -> None:
    _keys("rows", rows)
    shape = _header(str(paths(made)[rows["source"]]))[rows["tensor"]]["shape"]
    assert 0 <= rows["start"] < rows["end"] <= (shape or [1])[0]
    assert rows["end"] - rows["start"] == count
    assert math.prod(shape[1:]) == row


def _check_network(made: dict[str, Any], network: dict[str, Any], rows: int) -> None:
    _keys("network", network)
    assert [layer["activation"] for layer in network["layers"]] == ["silu", "none"]
    width = len(network["input"])
    for layer in network["layers"]:
        _keys("layer", layer)
        mixes = (layer["weight"], layer["bias"])
        for mix in mixes:
            _keys("mix", mix)
            assert len(mix["operands"]) == len(mix["weights"]) > 0
        height = layer["bias"]["operands"][0]["end"]
        for mix, row in zip(mixes, (width, 1), strict=True):
            for operand in mix["operands"]:
                _check_rows(made, operand, height, row)
        width = height
    assert width == rows


@functools.cache
def _header(path: str) -> dict[str, Any]:
    return factory.header(Path(path))


def interpret(plan: Plan) -> dict[str, Array]:
    """Every tensor of the output, worked out with numpy."""
    made = json.loads(plan.to_json())
    sources = [factory.read(path) for path in paths(made)]
    results = {
        i: np.zeros(o["shape"], factory._NUMPY[o["dtype"]]) for i, o in enumerate(made["outputs"])
    }
    for unit in made["units"]:
        operands = [_rows(term["rows"], sources) for (term,) in unit["operands"]]
        out = results[unit["output"]]
        ((op, arguments),) = unit["op"].items()
        value = operands[0]
        if op == "linear":
            value = np.zeros(1, np.float32)
            for i, (weight, operand) in enumerate(zip(arguments["weights"], operands, strict=True)):
                term = np.float32(weight) * operand.astype(np.float32)
                value = term if i == 0 else value + term
            value = value / np.float32(arguments.get("divisor", 1))
        for term in unit.get("added", []):
            value = value + _network(term["network"], sources)
        rows = out.reshape((out.shape or (1,))[0], -1)
        rows[unit["start"] : unit["end"]] = value.astype(out.dtype).reshape(
            unit["end"] - unit["start"], -1
        )
    return {o["name"]: results[i] for i, o in enumerate(made["outputs"])}


def _network(network: dict[str, Any], sources: list[dict[str, Array]]) -> Array:
    value = np.array(network["input"])
    for layer in network["layers"]:
        value = _mix(layer["weight"], sources) @ value + _mix(layer["bias"], sources)
        if layer["activation"] == "silu":
            value = value / (1 + np.exp(-value))
    return value.astype(np.float32)


def _mix(mix: dict[str, Any], sources: list[dict[str, Array]]) -> Array:
    operands = [_rows(rows, sources).astype(np.float64) for rows in mix["operands"]]
    total: Array = sum((w * x for w, x in zip(mix["weights"], operands, strict=True)), np.zeros(()))
    return total


def _rows(rows: dict[str, Any], sources: list[dict[str, Array]]) -> Array:
    tensor = sources[rows["source"]][rows["tensor"]]
    return np.atleast_1d(tensor)[rows["start"] : rows["end"]]


def golden(plan: Plan, folder: Path) -> str:
    """A plan as lines to compare: no machine path, no identity, no version."""
    made = check(plan)
    names = [path.relative_to(folder).as_posix() for path in paths(made)]

    def rows(found: dict[str, Any]) -> str:
        return f"{names[found['source']]}:{found['tensor']}[{found['start']}:{found['end']}]"

    def mix(found: dict[str, Any]) -> str:
        pairs = zip(found["weights"], found["operands"], strict=True)
        return " + ".join(f"{weight!r}*{rows(operand)}" for weight, operand in pairs)

    lines = [f"overflow {made['overflow']}", f"target {next(iter(made['target']))}"]
    facts = made["files"][0]["metadata"]
    assert all(file["metadata"] == facts for file in made["files"])
    lines += [f"file {file['path']!r}" for file in made["files"]]
    lines += [f"  {key} = {value}" for key, value in sorted(facts.items())]
    lines += [f"text {text['path']}" for text in made["texts"]]
    lines += [f"copy {copy['path']} {copy['how']}" for copy in made["copies"]]
    units = iter(made["units"])
    unit = next(units)
    for index, output in enumerate(made["outputs"]):
        lines.append(f"{output['file']} {output['name']} {output['dtype']} {output['shape']}")
        while unit is not None and unit["output"] == index:
            ((op, arguments),) = unit["op"].items()
            weights = arguments.get("weights", "")
            place = f"[{unit['start']}:{unit['end']}] {unit['name']}"
            lines.append(f"  {place} = {op} {weights}".rstrip())
            lines += [f"    {rows(term['rows'])}" for (term,) in unit["operands"]]
            for term in unit.get("added", []):
                mlp = term["network"]
                first = ", ".join(repr(round(x, 9)) for x in mlp["input"][:3])
                lines.append(f"    mlp of {len(mlp['input'])} inputs: {first}, ...")
                for layer in mlp["layers"]:
                    lines.append(f"      ({mix(layer['weight'])}) @ x + {mix(layer['bias'])}")
            unit = next(units, None)
    version = facts.get("submerge.version", "")
    text = "\n".join(lines) + "\n"
    return text.replace(f"submerge.version = {version}", "submerge.version = *")


def weights_of(
    method: Method, models: list[str], selection: Selection, where: str
) -> dict[str, dict[str, float]]:
    """Return the weight of each model at each unit."""
    blends = method.blends(Setting(tuple(models)), selection, where)
    return {unit: dict(blend.shares) for unit, blend in blends.items()}
