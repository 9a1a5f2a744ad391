"""sd-mecha's weighted sum: `sdmecha.py A B OUTPUT`, alpha 0.7.

Its own FLUX config wants all 19 + 38 blocks, so a config is made of the header of B. Settings are
the fastest found: two threads, a small buffer, no checks for finite numbers.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import sd_mecha
import torch
from sd_mecha.extensions import model_configs


def main() -> None:
    first, second, output = sys.argv[1:]
    with Path(second).open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    keys = {
        name: model_configs.KeyMetadata(torch.Size(entry["shape"]), torch.bfloat16)
        for name, entry in header.items()
    }
    config = model_configs.ModelConfigImpl(
        "few-blocks", {"diffuser": model_configs.ModelComponent(keys)}
    )
    model_configs.register_aux(config)
    a, b = (sd_mecha.model(path, config=config.identifier) for path in (first, second))
    sd_mecha.merge(
        sd_mecha.weighted_sum(a, b, alpha=0.7),
        output=output,
        output_dtype=torch.bfloat16,
        threads=2,
        total_buffer_size=64_000_000,
        check_finite_output=False,
        omit_non_finite_inputs=False,
    )


main()
