"""What a host program has set for itself does not reach the output, and stays as it was."""

from __future__ import annotations

import json
import platform
import sys
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

import factory
import submerge
from jobs import run_python

if TYPE_CHECKING:
    from pathlib import Path

# glibc keeps MXCSR in the last word of an x86 environment, and FPCR in the first of an ARM one.
FLUSHING = """
import ctypes, json, platform, sys
import submerge

x86 = platform.machine() == "x86_64"
at, bits = (7, 0x8040) if x86 else (0, 1 << 24)
libm = ctypes.CDLL("libm.so.6")
environment = (ctypes.c_uint32 * 8)()
assert libm.fegetenv(environment) == 0
environment[at] |= bits
assert libm.fesetenv(environment) == 0
tiny = float(sys.argv[1])
before = tiny / 2
submerge.merge(json.loads(sys.argv[2]), sys.argv[3], threads=2)
print(json.dumps({"before": before, "after": tiny / 2}))
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64") or platform.libc_ver()[0] != "glibc",
    reason="sets the processor's flags by glibc's layout of them",
)
@pytest.mark.parametrize(
    "method", ["linear", "slerp", "nearswap", {"ties": {"base": "a", "density": 0.7}}], ids=str
)
def test_a_host_that_flushes_subnormals_gets_the_same_bytes(tmp_path: Path, method: object) -> None:
    random = np.random.default_rng(6)
    models: dict[str, object] = {}
    for name in "ab":
        small = random.standard_normal((40, 50)).astype(np.float32)
        arrays = {
            "f32": small * np.float32(1e-39),
            "bf16": (small * np.float32(1e-39)).astype(ml_dtypes.bfloat16),
            "f16": (small * np.float32(1e-6)).astype(np.float16),
        }
        path = factory.write(tmp_path / f"{name}.safetensors", arrays)
        models[name] = {"path": str(path), "layout": "generic"}
    recipe = {"models": models, "method": method}
    plain, flushed = tmp_path / "plain.safetensors", tmp_path / "flushed.safetensors"
    submerge.merge(recipe, plain)
    found = run_python(FLUSHING, sys.float_info.min, json.dumps(recipe), flushed)
    # The host flushed before, and its own setting is as it was.
    assert found == {"before": 0.0, "after": 0.0}
    assert flushed.read_bytes() == plain.read_bytes()
    merged = factory.read(plain)["f32"]
    assert np.count_nonzero(merged) > merged.size // 2
    assert np.all(np.abs(merged) < np.finfo(np.float32).tiny)
