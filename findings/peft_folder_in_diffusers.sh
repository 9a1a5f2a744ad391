#!/usr/bin/env bash
# What peft saves of a FLUX transformer, diffusers takes for another format, or reads at the wrong strength.
#
# Seen with diffusers 0.42.1, peft 0.21.2 and torch 2.15.0 on CPU: `get_peft_model(transformer, LoraConfig(
# r=4, lora_alpha=8))` saved with `save_pretrained` gives names in `base_model.model.transformer_blocks...`.
# `FluxPipeline.load_lora_weights` of that folder takes the words `base_model.model.` for an adapter in
# Black Forest Labs' names and ends in a bare KeyError on `double_blocks.0.img_mod.lin`. The way that does
# load, `load_lora_adapter(prefix="base_model.model")`, says nothing and does not look at the
# adapter_config.json beside the file: without alpha the scale is 1 instead of alpha / r = 2.
# Saved by diffusers itself (`save_lora_adapter`), the same adapter comes back exactly.
#
# Consequence: the names and the scale of an adapter are told apart by the modules it names and by the
# file beside it, never by a prefix; converted to `transformer.` names, the scale has to travel as
# `lora_adapter_metadata` or be multiplied into the factors.
#
# Output seen (distance from the model as trained; the model without adapter is at 1):
#   load_lora_weights: KeyError 'base_model.model.double_blocks.0.img_mod.lin.lora_A.weight'
#   load_lora_adapter(prefix='base_model.model'): 0.425
#   saved by diffusers, loaded by diffusers: 0.000
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
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.utils import logging
from peft import LoraConfig, get_peft_model

logging.set_verbosity_error()
torch.manual_seed(0)
INPUTS = {
    "hidden_states": torch.randn(1, 16, 4), "encoder_hidden_states": torch.randn(1, 5, 32),
    "pooled_projections": torch.randn(1, 32), "timestep": torch.tensor([0.5]),
    "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3), "return_dict": False,
}
CONFIG = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_v"], "init_lora_weights": False}
FILE = {"peft": "adapter_model.safetensors", "diffusers": "pytorch_lora_weights.safetensors"}


def model():
    torch.manual_seed(1)
    return FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    )


@torch.no_grad()
def painted(made):
    return made(**INPUTS)[0]


base = painted(model())
trained = {"peft": get_peft_model(model(), LoraConfig(**CONFIG)), "diffusers": model()}
trained["diffusers"].add_adapter(LoraConfig(**CONFIG))
trained["peft"].save_pretrained("peft")
trained["diffusers"].save_lora_adapter("diffusers")


def reloaded(folder, prefix):
    """How far the reloaded model is from the trained one, by the adapter's whole effect."""
    made = model()
    made.load_lora_adapter(folder, prefix=prefix, weight_name=FILE[folder])
    wanted = painted(trained[folder])
    return ((painted(made) - wanted).norm() / (wanted - base).norm()).item()


parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
pipe = FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=model(), **parts)
try:
    pipe.load_lora_weights("peft", weight_name=FILE["peft"])
    refused = None
except KeyError as error:
    refused = str(error)
print(f"load_lora_weights: KeyError {refused}")
weak, same = reloaded("peft", "base_model.model"), reloaded("diffusers", None)
print(f"load_lora_adapter(prefix='base_model.model'): {weak:.3f}")
print(f"saved by diffusers, loaded by diffusers: {same:.3f}")
sys.exit(0 if "double_blocks" in (refused or "") and weak > 0.2 and same < 1e-5 else 1)
PYTHON
if ! venv/bin/python -W ignore check.py; then
    echo "diffusers reads what peft saves in another way now" >&2
    exit 1
fi
