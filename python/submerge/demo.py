"""A tiny schnell and a tiny krea, made on the spot, merged by blocks, verified and reported.

The pair has FLUX.1's tensor names and proportions, few blocks and small widths; its values are
noise. Needs nothing but the standard library, so that the demo runs where submerge is installed.
"""

from __future__ import annotations

import json
import random
import shlex
import shutil
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from submerge.layout import Architecture, config_of, tensors_of, unit_shapes
from submerge.merge import carry_out, plan
from submerge.plan.sizes import header
from submerge.run import RunOptions, fit
from submerge.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from submerge.report import Report

__all__ = ["demo", "make_pair", "next_steps"]

# Not what the README's commands write: they can be tried beside it.
_MERGED = "demo-merged"
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
    target = folder / _MERGED
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


def next_steps(folder: Path) -> str:
    """Return what can be tried with a pair that was kept: commands as they can be typed."""
    program, found = Path(sys.argv[0]), shutil.which("submerge")
    if program.stem != "submerge":
        typed = f"{shlex.quote(sys.executable)} -m submerge"
    elif found and Path(found).resolve() == program.resolve():
        typed = "submerge"
    else:
        typed = shlex.quote(str(program.absolute()))
    return (
        f"kept in {folder}: schnell/, krea.safetensors and {_MERGED}/. To go on:\n"
        f"  cd {shlex.quote(str(folder))}\n"
        f"  {typed} merge schnell/ krea.safetensors --alpha 0.4 -o merged/"
    )


def make_pair(folder: Path) -> dict[str, Path]:
    """Write the two models: schnell as a diffusers folder, krea as one file with BFL's names."""
    schnell, krea = folder / "schnell", folder / "krea.safetensors"
    schnell.mkdir(parents=True, exist_ok=True)
    config = json.dumps(config_of(_TINY), indent=2)
    (schnell / "config.json").write_text(config, encoding="utf-8")
    _write_model(schnell / "diffusion_pytorch_model.safetensors", _TINY, "diffusers")
    _write_model(krea, replace(_TINY, guidance=True), "bfl", changed=True)
    return {"schnell": schnell, "krea": krea}


def _write_model(path: Path, arch: Architecture, layout: str, *, changed: bool = False) -> None:
    shapes = unit_shapes(arch)
    tensors: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for tensor in tensors_of(arch, layout):
        pieces = [_values(unit, shapes[unit], changed=changed) for unit in tensor.units]
        tensors[tensor.name] = (tensor.shape, b"".join(pieces))
    _write_file(path, tensors)


def _write_file(path: Path, tensors: Mapping[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Write BF16 tensors to a safetensors file."""
    held = sorted(tensors.items())
    with path.open("wb") as file:
        entries = ((name, "BF16", shape, len(data)) for name, (shape, data) in held)
        file.write(header(entries, {"format": "pt"}))
        file.writelines(data for _, (_, data) in held)


# The upper byte of a bfloat16: either sign, magnitudes from 2^-7 to 2^-5.
_UPPER = bytes(0xBC if byte & 1 else 0x3C for byte in range(256))


def _values(unit: str, shape: tuple[int, ...], *, changed: bool) -> bytes:
    """Return a unit's values as bfloat16: noise that its name decides, by 10 % or so changed."""
    noise = random.Random(zlib.crc32(unit.encode()))  # noqa: S311 - made-up weights
    count = 1
    for side in shape:
        count *= side
    upper, lower = noise.randbytes(count).translate(_UPPER), noise.randbytes(count)
    if changed:
        flips = int.from_bytes(noise.randbytes(count), "little")
        flips &= int.from_bytes(b"\x1f" * count, "little")  # the five lowest bits of the mantissa
        lower = (int.from_bytes(lower, "little") ^ flips).to_bytes(count, "little")
    values = bytearray(2 * count)
    values[0::2], values[1::2] = lower, upper
    return bytes(values)
