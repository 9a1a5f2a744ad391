"""Writing and reading ggml's block formats, beside ggml and the package `gguf` in the same process.

    python -m benches.ggml [ROWS]

wants the packages `gguf` and `libggml-python`. A job of the core reads F32 from a file in memory
and writes blocks to another, or the other way round, on one thread and with the report's
statistics; the libraries turn arrays into arrays. Every figure is the median of rounds that take
turns.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libggml
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from submerge import _core

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = 3072
ROUNDS = 7
FORMATS = ("bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")
OPTIONS = {
    "mode": "write",
    "threads": 1,
    "chunk": 1 << 20,
    "memory_budget": 64 << 20,
    "io": "mmap",
    "cache": "keep",
    "overwrite": True,
    "stats": True,
    "isa": "auto",
    "max_header_bytes": 10_000,
}


def tensor(dtype: str, shape: list[int], codec: str | None) -> dict[str, Any]:
    return {"name": "w", "dtype": dtype, "shape": shape} | ({"codec": codec} if codec else {})


def write(path: Path, made: dict[str, Any], data: bytes) -> None:
    entry = {key: made[key] for key in ("dtype", "shape")} | {"data_offsets": [0, len(data)]}
    header = json.dumps({"w": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def job(given: Path, source: dict[str, Any], out: Path, output: dict[str, Any]) -> str:
    """The plan that copies the tensor of one file into another format."""
    stat = given.stat()
    keys = {"dev": "st_dev", "ino": "st_ino", "size": "st_size"}
    keys |= {"mtime_ns": "st_mtime_ns", "ctime_ns": "st_ctime_ns"}
    identity = {key: getattr(stat, name) for key, name in keys.items()}
    rows = source["shape"][0]
    place = {"source": 0, "tensor": "w", "start": 0, "end": rows}
    place |= {"codec": source["codec"]} if "codec" in source else {}
    unit = {"name": "w", "output": 0, "start": 0, "end": rows, "op": {"copy": {}}}
    plan = {
        "version": 1,
        "overflow": "saturate",
        "target": {"file": {"path": str(out)}},
        "sources": [{"file": {"path": str(given), "identity": identity}}],
        "files": [{"path": "", "metadata": {}}],
        "texts": [],
        "copies": [],
        "outputs": [{"file": 0} | output],
        "units": [unit | {"operands": [[{"rows": place}]]}],
    }
    return json.dumps(plan)


def run(plan: str) -> None:
    _core.execute(plan, json.dumps(OPTIONS), _core.Job(), None)


def ggml(kind: GGMLQuantizationType, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    library = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))
    elements, size = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    out = np.zeros((rows, columns // elements * size), np.uint8)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (values, out)]
    counts = [ctypes.c_int64(n) for n in (0, rows, columns)]
    library.ggml_quantize_chunk(ctypes.c_int(kind.value), *pointers, *counts, None)
    return out


def medians(works: list[Callable[[], object]]) -> list[float]:
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, taken in zip(works, seconds, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in seconds]


def compare(folder: Path, name: str, values: np.ndarray[Any, Any]) -> list[float]:
    """Millions a second: written by us and ggml, read by us and gguf, written by gguf."""
    kind = GGMLQuantizationType[name.upper()]
    elements, size = GGML_QUANT_SIZES[kind]
    plain = tensor("F32", list(values.shape), None)
    shape = [values.shape[0], values.shape[1] // elements * size]
    blocks = (
        tensor("U8", shape, name) if name != "bf16" else tensor("BF16", list(values.shape), None)
    )
    expected = ggml(kind, values)
    given, packed, out, again = (
        folder / f"{n}.safetensors" for n in ("given", "packed", "out", "again")
    )
    write(given, plain, values.tobytes())
    write(packed, blocks, expected.tobytes())
    there, back = job(given, plain, out, blocks), job(packed, blocks, again, plain)
    run(there)
    if not out.read_bytes().endswith(expected.tobytes()):
        sys.exit(f"{name}: other bytes than ggml's")
    works: list[Callable[[], object]] = [
        lambda: run(there),
        lambda: ggml(kind, values),
        lambda: run(back),
        lambda: quants.dequantize(expected, kind),
    ]
    if not name.endswith("_k"):  # of these the package has no quantiser
        works.append(lambda: quants.quantize(values, kind))
    rates = [values.size / taken / 1e6 for taken in medians(works)]
    return rates if len(rates) == 5 else [*rates, float("nan")]


def main(rows: int) -> None:
    """Print the table."""
    values = (np.random.default_rng(0).standard_normal((rows, COLUMNS)) * 0.02).astype(np.float32)
    print("| | submerge | ggml | gguf | times ggml | read | by gguf |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for name in FORMATS:
            ours, theirs, read, by_package, package = compare(Path(folder), name, values)
            cells = [ours, theirs, package, ours / theirs, read, by_package]
            print(f"| {name} | " + " | ".join(f"{cell:,.1f}" for cell in cells) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
