"""Quantised models in and out, measured: merges from and to every format against the bf16 merge.

    python -m benches.quantised --pair FOLDER --rounds 5 [--gguf PYTHON]

FOLDER holds `schnell.bfl.safetensors` and `krea.bfl.safetensors` as `make_pair.py` writes them;
PYTHON has gguf and numpy. Whole processes, each run beside one of the bf16 merge; ratios are
medians of the pairs' ratios, CPU is user and system time together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benches.lora import Taken, submerge, taken

if TYPE_CHECKING:
    from collections.abc import Callable

_SOURCES = {"fp8_scaled": ".safetensors", "q8_0": ".gguf", "int8_convrot": ".safetensors"}
_OUTPUTS = {
    **dict.fromkeys(("fp8_scaled", "int8_convrot", "mxfp8", "nvfp4"), ".safetensors"),
    **dict.fromkeys(("q8_0", "q4_0", "q4_k", "q5_k", "q6_k"), ".gguf"),
}
_RIVAL = """
import sys, numpy as np, gguf
from safetensors import safe_open
import ml_dtypes
reader = safe_open(sys.argv[1], "np")
writer = gguf.GGUFWriter(sys.argv[2], "flux", use_temp_file=False)
for name in reader.keys():
    tensor = reader.get_tensor(name).astype(np.float32)
    kind = gguf.GGMLQuantizationType.F32
    if tensor.ndim == 2 and "blocks" in name:
        kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file()
"""


def merged(one: Path, other: Path, out: Path, *more: str) -> Taken:
    """Merge two models."""
    models = (str(one), str(other))
    return submerge("merge", *models, "--no-stats", *more, "--overwrite", "-o", str(out))[0]


def main() -> None:
    """Measure, and print a table as it fills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, required=True)
    parser.add_argument("--gguf", help="a Python with gguf and safetensors, to compare Q8_0 with")
    parser.add_argument("--only", default="", help="jobs whose names hold this word")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    folder: Path = given.pair
    krea, schnell = (folder / f"{name}.bfl.safetensors" for name in ("krea", "schnell"))
    plain, out = folder / "made.safetensors", folder / "made"

    def into(name: str, suffix: str) -> Taken:
        return merged(krea, schnell, out.with_suffix(suffix), "--dtype", name)

    def of(name: str, suffix: str) -> Taken:
        pair = [model.with_name(f"{model.name}.{name}{suffix}") for model in (krea, schnell)]
        for model, made in zip((krea, schnell), pair, strict=True):
            if not made.exists():
                submerge("convert", str(model), "--dtype", name, "-o", str(made))
        return merged(pair[0], pair[1], out.with_suffix(".bf16.safetensors"), "--dtype", "bf16")

    jobs: dict[str, Callable[[], Taken]] = {
        **{f"from {name}": partial(of, name, suffix) for name, suffix in _SOURCES.items()},
        **{f"to {name}": partial(into, name, suffix) for name, suffix in _OUTPUTS.items()},
    }
    if given.gguf:
        made = str(folder / "made.gguf")
        arguments = ("convert", str(krea), "--dtype", "q8_0", "--overwrite", "-o", made)
        jobs["Q8_0 of one model"] = lambda: submerge(*arguments)[0]
        jobs["the same by gguf"] = lambda: taken(given.gguf, "-c", _RIVAL, str(krea), made)[0]
    for name, job in jobs.items():
        if given.only not in name:
            continue
        job()  # its inputs are made, and warm
        pairs = [(job(), merged(krea, schnell, plain)) for _ in range(given.rounds)]
        walls = statistics.median(run.wall / base.wall for run, base in pairs)
        cpus = statistics.median(run.cpu / base.cpu for run, base in pairs)
        wall = statistics.median(run.wall for run, _ in pairs)
        peak = max(run.peak for run, _ in pairs)
        print(f"{name:<20} {wall:8.2f} s  wall x {walls:5.2f}  CPU x {cpus:5.2f}  {peak:6.0f} MB")
        sys.stdout.flush()
    for made_file in folder.glob("made*"):
        made_file.unlink()


if __name__ == "__main__":
    main()
