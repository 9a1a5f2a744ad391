#!/usr/bin/env bash
# peft's orthogonal fine-tuning is not orthogonal by default, and the file alone does not say so.
#
# Seen with peft 0.21.2 and torch 2.15.0 on CPU: `OFTConfig` sets `use_cayley_neumann=True` with 5 terms.
# The rotation (I - Q)^-1 (I + Q) is then a series cut off, which is close where the largest singular value
# of Q is far below 1 and diverges from 1 on: a merged weight whose norm a rotation cannot change
# comes out at 0.86 times it, then at 36 times, without a warning. The tensors (`oft_R`) are
# the same for both readings; the choice stands in adapter_config.json alone.
#
# Consequence: `oft_R` without its config has two meanings. Reading it as the exact Cayley transform gives
# another model than the one that was trained; reading it as the series keeps no norm. A tool that
# bakes OFT needs `use_cayley_neumann` and `num_cayley_neumann_terms`, or has to refuse.
#
# Output seen (norm of the merged weight over the norm of the weight):
#   |Q| 0.11: series 1.000, exact 1.000
#   |Q| 1.09: series 0.860, exact 1.000
#   |Q| 3.27: series 36.282, exact 1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    torch==2.15.0 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0
cat > check.py <<'PYTHON'
import sys

import torch
from peft import OFTConfig, get_peft_model
from torch import nn

BLOCK = 32


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.to_q = nn.Linear(64, 48)

    def forward(self, x):
        return self.to_q(x)


def merged(size, **config):
    """Norm of the merged weight over that of the weight, and the largest singular value of Q."""
    config = OFTConfig(oft_block_size=BLOCK, target_modules=["to_q"], **config)
    model = get_peft_model(Layer(), config)
    before = Layer().to_q.weight.norm()
    rotations = [p for name, p in model.named_parameters() if "oft_R" in name]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for rotation in rotations:
            rotation.copy_(size * torch.randn(rotation.shape, generator=generator))
        q = torch.zeros(len(rotations[0]), BLOCK, BLOCK)
        rows, columns = torch.triu_indices(BLOCK, BLOCK, 1)
        q[:, rows, columns] = rotations[0].detach()
        largest = torch.linalg.matrix_norm(q - q.transpose(1, 2), 2).max().item()
        after = model.merge_and_unload().to_q.weight.norm()
    return (after / before).item(), largest


series = []
for size in (0.01, 0.1, 0.3):
    default, largest = merged(size)
    exact, _ = merged(size, use_cayley_neumann=False)
    print(f"|Q| {largest:.2f}: series {default:.3f}, exact {exact:.3f}")
    series.append(default)
    if abs(exact - 1) > 1e-3:
        sys.exit(1)
sys.exit(0 if abs(series[0] - 1) < 1e-3 and series[1] < 0.95 and series[2] > 2 else 1)
PYTHON
if ! venv/bin/python -W ignore check.py; then
    echo "peft's OFT does something else now" >&2
    exit 1
fi
