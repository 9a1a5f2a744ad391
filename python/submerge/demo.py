"""A tiny schnell and a tiny krea, made on the spot, merged by blocks, verified and reported.

The pair has FLUX.1's tensor names and proportions, few blocks and small widths; its values are
noise. Needs numpy and nothing else, so that the demo runs where submerge is installed.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from submerge.layout import Architecture, config_of, tensors_of, unit_shapes
from submerge.merge import carry_out, plan
from submerge.run import RunOptions, fit
from submerge.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from submerge.report import Report

__all__ = ["demo", "make_pair", "write_file"]

_TINY = Architecture(
    family="flux1",
    depths=(3, 6),
    hidden=256,
    head_dim=128,
    mlp=1024,
    in_channels=64,
    out_channels=64,
    context_dim=128,
    pooled_dim=64,
    guidance=False,
)
_RULES = (
    {"where": "double[0:2].img.attn", "alpha": 0.2},
    {"where": "single[*].mlp", "alpha": {"from": 0.3, "to": 0.8}},
    {"where": "final", "take": "schnell"},
)


def demo(folder: Path, say: Callable[[str], None]) -> Report:
    """Make the pair in `folder`, merge it by blocks, verify the result and tell each step.

    Raises:
        SubmergeError: the merge failed, or the result is not what the recipe says.
        OSError: the folder cannot be written.
    """
    models = make_pair(folder)
    say(f"made a tiny pair: {models['schnell']} (diffusers) and {models['krea']} (BFL)")
    recipe = {
        "models": {name: str(path) for name, path in models.items()},
        "alpha": 0.5,
        "rules": list(_RULES),
        "guidance": "keep",
        "output": {"layout": "diffusers", "dtype": "bf16"},
    }
    target = folder / "merged"
    made = plan(recipe, target)
    how = RunOptions(overwrite=True)
    say(f"\n{made.describe(fit(made, how))}\n")
    report = carry_out(made, how)
    say(report.table())
    say(f"\n{report.path}: {report.run.line()}\n")
    checked = verify(target, recipe=recipe)
    say(checked.text())
    checked.require()
    return report


def make_pair(folder: Path) -> dict[str, Path]:
    """Write the two models: schnell as a diffusers folder, krea as one file with BFL's names."""
    folder.mkdir(parents=True, exist_ok=True)
    schnell, krea = folder / "schnell", folder / "krea.safetensors"
    schnell.mkdir(exist_ok=True)
    config = json.dumps(config_of(_TINY), indent=2)
    (schnell / "config.json").write_text(config, encoding="utf-8")
    _write_model(schnell / "diffusion_pytorch_model.safetensors", _TINY, "diffusers", 0.0)
    _write_model(krea, replace(_TINY, guidance=True), "bfl", 0.1)
    return {"schnell": schnell, "krea": krea}


def write_file(path: Path, tensors: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]) -> None:
    """Write f32 tensors as BF16, rounded to nearest even, to a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    names = sorted(tensors)
    for name in names:
        end = at + 2 * tensors[name].size
        shape = list(tensors[name].shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bf16(tensors[name]))


def _write_model(path: Path, arch: Architecture, layout: str, delta: float) -> None:
    shapes = unit_shapes(arch)
    tensors = {
        tensor.name: np.concatenate([_values(unit, shapes[unit], delta) for unit in tensor.units])
        for tensor in tensors_of(arch, layout)
    }
    write_file(path, tensors)


def _values(
    unit: str, shape: tuple[int, ...], delta: float
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a unit's values: noise that depends on its name, and a relative change of it."""
    noise = np.random.default_rng(zlib.crc32(unit.encode()))
    values = noise.standard_normal(shape, np.float32) * np.float32(0.03)
    change = noise.standard_normal(shape, np.float32) * np.float32(0.03 * delta)
    return values + change


def _bf16(values: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
