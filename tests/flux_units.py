"""Unit names of a FLUX.1 model, spelled out: an oracle for selectors, weights and presets."""

from __future__ import annotations

_STREAM = ("mod", "attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out")
_SINGLE = ("mod", "attn.q", "attn.k", "attn.v", "mlp.in", "out")
_EMBED = ("img", "txt", "time.in", "time.out", "vector.in", "vector.out")


def flux_units(double: int = 19, single: int = 38, *, guidance: bool = True) -> list[str]:
    """Return the names: 1,162 for the published depth with guidance."""
    linear = [f"embed.{part}" for part in _EMBED]
    linear += ["guidance.in", "guidance.out"] if guidance else []
    norms = []
    for i in range(double):
        for stream in ("img", "txt"):
            linear += [f"double.{i}.{stream}.{part}" for part in _STREAM]
            norms += [f"double.{i}.{stream}.norm.{part}.weight" for part in "qk"]
    for i in range(single):
        linear += [f"single.{i}.{part}" for part in _SINGLE]
        norms += [f"single.{i}.norm.{part}.weight" for part in "qk"]
    linear += ["final.mod.shift", "final.mod.scale", "final.linear"]
    return [f"{name}.{kind}" for name in linear for kind in ("weight", "bias")] + norms
