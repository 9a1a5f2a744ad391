"""Tiny models in torch: read, merged per tensor, and run forward. Knows nothing of submerge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["State", "answered", "equal", "forward", "loaded", "merged", "model_of", "state_of"]

State = dict[str, torch.Tensor]
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def state_of(path: Path) -> State:
    """Return every tensor of a file, or of all files of a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def merged(a: State, b: State, alpha: float) -> State:
    """Return `(1 - alpha) a + alpha b` per tensor in float32, rounded once to the dtype of `a`.

    Tensors that only `b` has are taken as they are.
    """
    state = dict(b)
    for name, tensor in a.items():
        total = tensor.float() * (1 - alpha) + b[name].float() * alpha
        state[name] = total.to(tensor.dtype)
    return state


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts hold the same names, dtypes, shapes and bits, NaN included."""
    return a.keys() == b.keys() and all(_same(tensor, b[name]) for name, tensor in a.items())


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = _BITS[a.element_size()]
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


def model_of(state: State, config: Path) -> FluxTransformer2DModel:
    """Return a diffusers model with these weights, each in its own dtype, and a config.json."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    model = FluxTransformer2DModel.from_config(fields)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def loaded(folder: Path, **more: Any) -> FluxTransformer2DModel:
    """Return what diffusers loads from a folder, in the dtype of the files."""
    dtype = next(iter(state_of(folder).values())).dtype
    return FluxTransformer2DModel.from_pretrained(folder, torch_dtype=dtype, **more).eval()


def forward(model: FluxTransformer2DModel, guidance: float | None = None) -> torch.Tensor:
    """Return the model's answer to one fixed input: 4 x 4 image tokens, 8 text tokens."""
    # Weights in a mapped file may be less aligned, which changes the order of sums in a product.
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return answered(model, next(model.parameters()).dtype, guidance)


def answered(
    model: FluxTransformer2DModel, dtype: torch.dtype, guidance: float | None = None
) -> torch.Tensor:
    """Return what `forward` does, of a model whose parameters may be codes, as it is."""
    fields = model.config
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    grid = torch.zeros(4, 4, 3)
    grid[..., 1] = torch.arange(4)[:, None]
    grid[..., 2] = torch.arange(4)[None, :]
    with torch.no_grad():
        answer = model(
            hidden_states=noise(1, 16, fields.in_channels),
            encoder_hidden_states=noise(1, 8, fields.joint_attention_dim),
            pooled_projections=noise(1, fields.pooled_projection_dim),
            timestep=torch.tensor([0.6]),
            img_ids=grid.reshape(16, 3).to(dtype),
            txt_ids=torch.zeros(8, 3, dtype=dtype),
            guidance=None if guidance is None else torch.tensor([guidance]),
            return_dict=False,
        )
    result: torch.Tensor = answer[0]
    return result
