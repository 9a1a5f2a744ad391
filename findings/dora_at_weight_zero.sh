#!/usr/bin/env bash
# A DoRA at weight 0 is not off: in diffusers and peft most of its effect stays.
#
# Seen with diffusers 0.42.1, peft 0.21.2 and torch 2.15.0 on CPU: the weight of `set_adapters` and the
# scale of `fuse_lora` multiply the product of the two factors alone. The trained magnitudes stay whole,
# so at weight 0 a layer is `magnitude / |W| * W`, not W. A plain LoRA, with a bias or without, is
# off at weight 0. Only `disable_adapters()` turns a DoRA off, and half a weight is not half an effect.
#
# Consequence: a slider from 0 to 1 does not begin at the base model, and tools that scale the whole
# change (LyCORIS: `strength * (magnitude / norm - 1) + 1`) give another model from the same file
# at every strength but 1. Whoever fuses a DoRA has to say which reading is meant.
#
# Output seen (distance from the model without adapter, the one at weight 1 being 1):
#   LoRA: weight 0 gives 0.000, fused at 0 0.000, disabled 0.000
#   DoRA: weight 0 gives 0.842, fused at 0 0.842, disabled 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0
cat > check.py <<'PYTHON'
import sys

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig

torch.manual_seed(0)
INPUTS = {
    "hidden_states": torch.randn(1, 16, 4), "encoder_hidden_states": torch.randn(1, 5, 32),
    "pooled_projections": torch.randn(1, 32), "timestep": torch.tensor([0.5]),
    "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3), "return_dict": False,
}


def model(**kind):
    """A small FLUX transformer, the same each time, with an adapter whose magnitudes were trained."""
    torch.manual_seed(1)
    made = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    )
    torch.manual_seed(5)
    targets = ["to_q", "to_v", "proj_out"]
    made.add_adapter(
        LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False, **kind), "a"
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.5)
    return made


@torch.no_grad()
def painted(made):
    return made(**INPUTS)[0]


kept = {}
for name, kind in (("LoRA", {}), ("DoRA", {"use_dora": True})):
    made = model(**kind)
    whole = painted(made)
    made.disable_adapters()
    base = painted(made)
    made.enable_adapters()
    made.set_adapters(["a"], [0.0])
    fused = model(**kind)
    fused.fuse_lora(lora_scale=0.0)

    def distance(found, base=base, whole=whole):
        return ((found - base).norm() / (whole - base).norm()).item()

    off, baked = distance(painted(made)), distance(painted(fused))
    made.disable_adapters()
    print(f"{name}: weight 0 gives {off:.3f}, fused at 0 {baked:.3f}, disabled {distance(painted(made)):.3f}")
    kept[name] = min(off, baked)
sys.exit(0 if kept["LoRA"] == 0 and kept["DoRA"] > 0.5 else 1)
PYTHON
if ! venv/bin/python -W ignore check.py; then
    echo "a DoRA at weight 0 does something else now" >&2
    exit 1
fi
