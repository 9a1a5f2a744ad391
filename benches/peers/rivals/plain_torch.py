"""What people write by hand: `plain_torch.py fp32|mean A B OUTPUT`, with safetensors and torch.

fp32  per tensor `0.3 a + 0.7 b` in float32, rounded once
mean  per tensor `(a + b) / 2` in bf16, as the dtype of the files suggests

Tensors only B has are copied. Opening lazily and collecting results is the kindest form: loading
both models whole takes longer and twice the memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file


def handles(path: Path) -> dict[str, safe_open]:
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    opened = [safe_open(file, framework="pt") for file in files]
    return {name: handle for handle in opened for name in handle.keys()}  # noqa: SIM118  # no mapping


def main() -> None:
    how, first, second, output = sys.argv[1:]
    a, b = handles(Path(first)), handles(Path(second))
    merged = {}
    for name, handle in b.items():
        y = handle.get_tensor(name)
        if name not in a:
            merged[name] = y
            continue
        x = a[name].get_tensor(name)
        merged[name] = (
            (x + y) / 2 if how == "mean" else (x.float() * 0.3 + y.float() * 0.7).bfloat16()
        )
    save_file(merged, output, metadata={"format": "pt"})


main()
