"""An operand as a sum of terms, through the compiled core, against numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import oracle
from boundary import blended, execute, linear, place, rows

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array


def adapted(arrays: dict[str, Array], scale: float) -> Array:
    """`w + scale * (up @ down)` in f32: over the rank in order, then the scale, then the sum."""
    w, up, down = (arrays[name].astype(np.float32) for name in ("w", "up", "down"))
    product = up[:, :1] * down[:1]
    for k in range(1, up.shape[1]):
        product = product + up[:, k : k + 1] * down[k : k + 1]
    total: Array = w + product * np.float32(scale)
    return total


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3"])
def test_rows_and_a_product_are_merged_as_their_sum(tmp_path: Path, dtype: str) -> None:
    height, columns, rank = 130, 1037, 7
    shapes = {"w": (height, columns), "up": (height, rank), "down": (rank, columns)}
    paths, read = [], []
    for seed in range(2):
        random = np.random.default_rng(seed)
        made = {n: random.normal(size=s).astype(factory._NUMPY[dtype]) for n, s in shapes.items()}
        paths.append(factory.write(tmp_path / f"{seed}.safetensors", made))
        read.append(made)
    out = tmp_path / "out.safetensors"
    plan = blended(out, paths, [0.3, 0.7])
    plan["outputs"] = [{"file": 0, "name": "w", "dtype": dtype, "shape": [height, columns]}]
    scales = (0.37, -1.5)
    operands = [
        [
            *rows(i, "w", 0, height),
            {
                "low_rank": {
                    "up": place(i, "up", 0, height),
                    "down": place(i, "down", 0, rank),
                    "scale": scale,
                }
            },
        ]
        for i, scale in enumerate(scales)
    ]
    unit = {"name": "w", "output": 0, "start": 0, "end": height, "op": linear(0.3, 0.7)}
    plan["units"] = [unit | {"operands": operands}]
    sums = [adapted(made, scale) for made, scale in zip(read, scales, strict=True)]
    expected = {"w": oracle.weighted(sums, [0.3, 0.7], dtype)}
    for threads, chunk, isa in ((1, 1 << 20, "auto"), (2, 1, "scalar"), (3, 1 << 17, "auto")):
        execute(plan, threads=threads, chunk=chunk, isa=isa, overwrite=True)
        assert oracle.differing(oracle.read(out), expected) == []
