"""Conversion equals diffusers' own converter, which knows only the real width of FLUX.1."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

import submerge
from factory import Flux, config, shapes_of, write_json
from oracles.models import equal, state_of

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "model.diffusion_model."


def _flux(*, guidance: bool) -> Flux:
    return Flux(1, 1, 3072, 128, 4096, 768, guidance=guidance)


def _random_file(path: Path, flux: Flux, prefix: str = "") -> Path:
    """Write a BFL file of random bit patterns: every bf16 number, infinities and NaN included."""
    draw = torch.Generator().manual_seed(5)
    state = {
        name: torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=draw)
        for name, shape in shapes_of(flux, "bfl", prefix).items()
    }
    tensors = {name: bits.view(torch.bfloat16) for name, bits in state.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def _data(path: Path) -> str:
    """Return a digest of everything after the header."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


@pytest.mark.parametrize("guidance", [True, False])
def test_bfl_to_diffusers_and_back(tmp_path: Path, guidance: bool) -> None:  # noqa: FBT001
    original = _random_file(tmp_path / "original.safetensors", _flux(guidance=guidance))
    folder = tmp_path / "converted"
    submerge.convert(original, folder, layout="diffusers", stats=False)
    expected = convert_flux_transformer_checkpoint_to_diffusers(state_of(original))
    assert equal(state_of(folder), expected)
    del expected

    back = tmp_path / "back.safetensors"
    submerge.convert(folder, back, layout="bfl", stats=False)
    assert _data(back) == _data(original)


def test_comfy_prefix_as_diffusers_reads_it(tmp_path: Path) -> None:
    """A prefixed file gives the same, and diffusers loads ours as it loads any other."""
    flux = _flux(guidance=True)
    prefixed = _random_file(tmp_path / "prefixed.safetensors", flux, PREFIX)
    folder, again = tmp_path / "converted", tmp_path / "again.safetensors"
    submerge.convert(prefixed, folder, layout="diffusers", stats=False)
    expected = convert_flux_transformer_checkpoint_to_diffusers(state_of(prefixed))
    assert equal(state_of(folder), expected)
    del expected

    submerge.convert(folder, again, layout="comfy", stats=False)
    assert _data(again) == _data(prefixed)
    write_json(tmp_path / "reference" / "config.json", config(flux))
    model = FluxTransformer2DModel.from_single_file(
        str(again), config=str(tmp_path / "reference"), torch_dtype=torch.bfloat16
    )
    assert equal(model.state_dict(), state_of(folder))
