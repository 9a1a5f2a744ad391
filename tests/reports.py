"""Inputs of a report in the forms the other commands write: as large as real ones.

Not measured anywhere: sines and checksums stand in for a model's figures.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'`|*_[x](javascript:alert(3))"
)
PROMPTS = (
    ("a fox in snow at dawn, soft light, film grain", ["fantasy"]),
    ("seven red apples in a row on a white table", ["counts", "technical"]),
    ("a street sign that reads OPEN LATE", ["text"]),
    ("", ["edge"]),
    ("портрет старика, масло", ["people", "edge"]),
    (HOSTILE, ["edge"]),
)
MODELS = ("schnell", "merged", "krea")
COMPARED = ("scorer", "parent", "mean_difference", "low", "high", "pairs", "win_rate")
SIGNAL = ("signal", "model", "against", "x", "value")
QUESTION = ("question", "verdict", "evidence")
DOUBLE = ("attn.k", "attn.out", "attn.q", "attn.v", "mlp", "mod", "norm")
WORKLOAD = "4 steps, 512x512"
SINGLE = ("attn.k", "attn.q", "attn.v", "mlp", "mod", "norm", "out")


def parts(double: int = 19, single: int = 38) -> list[tuple[str, str, str]]:
    """Every block, stream and part of a model, in the order of a report."""
    streams = ("img", "txt")
    inside = [(f"double.{i}", s, part) for i in range(double) for part in DOUBLE for s in streams]
    inside += [(f"single.{i}", "", part) for i in range(single) for part in SINGLE]
    outside = [(name, "", name) for name in ("embed", "guidance", "final")]
    return [*outside[:2], *inside, outside[2]]


def elements(part: str) -> int:
    """How many elements a part has in a model of full width, norms few and the others many."""
    return 128 if part == "norm" else 9_437_184


def _wave(i: int, of: int = 57) -> float:
    return 0.5 - 0.5 * math.cos(2 * math.pi * i / of)


def analysis() -> dict[str, Any]:
    """An analysis of two models of full depth."""
    rows = []
    for i, (block, stream, part) in enumerate(parts()):
        delta = 0.02 + 0.11 * _wave(i, 200) + (0.05 if part == "mod" else 0.0)
        # A norm barely moves, whatever the rest does.
        delta = 1e-4 if part == "norm" else delta
        place = {"block": block, "stream": stream, "part": part}
        rows.append(place | _figures(elements(part), delta) | {"sums": {}})
    return {
        "format": "submerge-analysis/1",
        "submerge": "0.1.0",
        "models": {"a": "schnell", "b": "krea"},
        "paths": {"a": "models/schnell", "b": "models/krea"},
        "alpha": 0.5,
        "dtype": None,
        "layout": "auto",
        "guided": ["b"],
        "blocks": rows,
        "totals": _figures(11_900_000_000, 0.08),
        "nonfinite": [],
        "notes": [],
        "run": None,
    }


def _figures(elements: int, delta: float) -> dict[str, Any]:
    return {
        "units": 1,
        "identical_units": 0,
        "elements": elements,
        "cosine": 1 - delta**2 / 2,
        "norm_ratio": 1 + delta / 7,
        "norm_a": 100.0,
        "norm_b": 100.0 + delta,
        "delta_norm": 100 * delta,
        "relative_delta": delta,
        "identical": 0.0,
        "below_rounding": 0.1,
        "effective_rank": 40 + 60 * delta,
        "rank_share": 0.5,
        "nonfinite": 0,
    }


def evaluation(folder: Path, *, prompts: int = 6, seeds: int = 1, side: int = 0) -> dict[str, Any]:
    """Write an evaluation of three models and its images of `side` pixels; 0 writes no images."""
    used = [(f"p{i}", *PROMPTS[i % len(PROMPTS)]) for i in range(prompts)]
    keys = [(m, p, seed) for p, *_ in used for seed in range(seeds) for m in MODELS]
    data = {
        "format": "submerge-evaluation/1",
        "models": [
            {"name": "merged", "path": "out/merged", "role": "merge"},
            {"name": "schnell", "path": "models/schnell", "role": "parent"},
            {"name": "krea", "path": "models/krea", "role": "parent"},
        ],
        "prompts": [{"id": i, "text": text, "tags": tags} for i, text, tags in used],
        "options": {"steps": 4, "guidance": 3.5, "width": 512, "height": 512, "seeds": [0]},
        "environment": {"submerge": "0.1.0", "device": "cpu", "memory": 24_000_000_000},
        "images": list(map(_image, keys)),
        "scores": [score for key in keys for score in _scores(key)],
        "comparisons": [
            _row(COMPARED, "clip", "schnell", 0.012, 0.004, 0.021, 128, 0.61),
            _row(COMPARED, "clip", "krea", -0.003, -0.011, 0.005, 128, 0.48),
            _row(COMPARED, "nsfw", "schnell", 0.0009, 0.0002, 0.0017, 128, 0.4),
            _row(COMPARED, "sharpness", "krea", -31.0, -55.0, -6.0, 128, None),
        ],
        "signals": [
            _row(SIGNAL, "velocity cosine", "merged", against, t, base + 0.02 * math.sin(6 * t))
            for against, base in (("schnell", 0.97), ("krea", 0.93))
            for t in (0.1, 0.3, 0.5, 0.7, 0.9)
        ]
        + [_row(SIGNAL, "seeds differ", "merged", None, None, 1.0)]
        + [_row(SIGNAL, "block contribution", "merged", None, f"double.{i}", i) for i in range(19)],
        "sweep": [
            {"model": "merged", "steps": n, "guidance": g, "scorer": "clip", "value": n / 100}
            for n in (4, 8, 28)
            for g in (1.0, 3.5)
        ],
        "questions": [
            _row(
                QUESTION, "Does it follow the prompt?", "good", "clip above schnell, 61 % of pairs"
            ),
            _row(QUESTION, "Is it as sharp as krea?", "mixed", "less, and more than schnell"),
            _row(QUESTION, "Are its images safe?", "unknown", "no classifier was given"),
            _row(QUESTION, "Do four steps suffice?", "bad", "4 and 28 steps differ: SSIM 0.41"),
        ],
        "not_run": [{"what": "image_reward", "why": "no weights were given"}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(data), encoding="utf-8")
    if side:
        for path in (str(_image(key)["path"]) for key in keys):
            paint(folder / path, path, side)
    return data


def _row(names: tuple[str, ...], *values: object) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _drawn(*key: object) -> float:
    """A number from 0 to 1 that the key decides."""
    return zlib.crc32(repr(key).encode()) / 2**32


def _image(key: tuple[str, str, int]) -> dict[str, Any]:
    model, prompt, seed = key
    return {
        "model": model,
        "prompt": prompt,
        "seed": seed,
        "path": f"images/{model}-{prompt}-{seed}.png",
        "sha256": f"{zlib.crc32(repr(key).encode()):064x}",
        "seconds": 2.0 + _drawn(*key),
        "phases": {"text": 0.2, "denoise": 1.5, "decode": 0.3},
        "memory": {},
    }


def _scores(key: tuple[str, str, int]) -> list[dict[str, Any]]:
    names = ("scorer", "unit", "better", "model", "prompt", "seed", "value")
    return [
        _row(names, name, unit, better, *key, low * (1 + 0.2 * _drawn(name, *key)))
        for name, unit, better, low in (
            ("clip", "cosine", "higher", 0.28),
            ("sharpness", "variance", "none", 410.0),
            ("nsfw", "probability", "lower", 0.01),
        )
    ]


def paint(path: Path, seed: str, side: int) -> None:
    """Paint soft hills with grain, which compress about as photographs do."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    draw = np.random.default_rng(list(seed.encode()))
    y, x = np.mgrid[0:side, 0:side] / side
    layers = np.zeros((side, side, 3))
    for octave in range(1, 7):
        phase, turn = draw.uniform(0, 6.3, 3), draw.uniform(0, 6.3)
        angle = (x * np.cos(turn) + y * np.sin(turn)) * 2.0**octave * 3
        layers += np.sin(angle[..., None] + phase + np.sin(4 * y + turn)[..., None]) / octave
    grain = draw.normal(0, 6, (side, side, 1))
    pixels = np.clip(128 + 45 * layers + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def measure() -> dict[str, Any]:
    """Memory and speed of three models, with a minute of samples each."""
    spans = [("load", 0.0, 12.0, 0), ("image", 13.0, 20.0, 0), ("text", 13.0, 2.0, 1)]
    spans += [("denoise", 15.0, 15.0, 1), ("decode", 30.0, 3.0, 1), ("image", 34.0, 16.0, 0)]
    samples = [
        {"seconds": at / 20}
        | memory(
            round(4e8 + 6e8 * min(1.0, at / 240) + 1e8 * math.sin(at / 40) ** 2),
            round(3e8 + 2e8 * min(1.0, at / 240)),
        )
        for at in range(1000)
    ]
    names = ("name", "start", "seconds", "depth")
    more = {"thread": 1, "details": {}}
    peak = memory(1_100_000_000, 500_000_000)
    return {
        "format": "submerge-measure/1",
        "environment": {"submerge": "0.1.0", "cpu": "a processor", "cores": 2},
        "workloads": [{"name": WORKLOAD, "images": 5, "prompt": "a fox", "options": {"steps": 4}}],
        "models": [
            {
                "name": model,
                "path": f"models/{model}",
                "role": "merge" if model == "merged" else "parent",
                "plan": "everything on the device",
                "rounds": 1,
                "import_seconds": 4.0,
                "load_seconds": 12.1,
                "peak": peak,
            }
            for model in MODELS
        ],
        "results": [
            {
                "model": model,
                "workload": WORKLOAD,
                "images": 5,
                "batch": 1,
                "options": {"steps": 4},
                "first_seconds": 20.1,
                **dict.fromkeys(("seconds", "least_seconds", "most_seconds"), 16.2),
                "cpu_seconds": 30.0,
                "phases": {"text": 0.2, "denoise": 15.0, "decode": 1.0},
                "phase_peaks": {"denoise": peak},
                "images_per_minute": 3.7,
                "peak": peak,
                "average": peak,
            }
            for model in MODELS
        ],
        "timelines": [
            {
                "model": model,
                "round": 1,
                "process": 100,
                "interval": 0.05,
                "samples": samples,
                "spans": [dict(zip(names, s, strict=True)) | more for s in spans],
            }
            for model in MODELS
        ],
    }


def memory(rss: int, anonymous: int) -> dict[str, int | None]:
    """The memory of a process without a device."""
    known = {"rss": rss, "anonymous": anonymous, "file": rss - anonymous}
    return {**known, "vram": None, "vram_reserved": None}


def merge() -> dict[str, Any]:
    """The report of a merge of full depth with a gradient and an exception."""
    rows = []
    for block, stream, part in parts():
        stack, _, index = block.partition(".")
        share = {"guidance": 1.0, "final": 0.0}.get(block, 0.4)
        if stack == "single":
            share = round(0.2 + 0.5 * int(index) / 37, 2)
        formula = {0.0: "schnell", 1.0: "krea"}.get(
            share, f"{1 - share:.2f} * schnell + {share:.2f} * krea"
        )
        rows.append(
            {
                "block": block,
                "stream": stream,
                "part": part,
                "formulas": [formula],
                "elements": elements(part),
                "changed": 9_000_000,
                "nonfinite": 0,
                "nonfinite_out": 0,
                "pairs": [
                    {"first": "schnell", "second": "krea", "cosine": 0.995, "relative_l2": 0.1}
                ],
                "shares": {"schnell": 1 - share, "krea": share},
            }
        )
    return {
        "format": "submerge-merge/1",
        "path": "/home/somebody/merged",
        "files": {"diffusion_pytorch_model.safetensors": 23_800_000_000},
        "title": "schnell + krea",
        "layout": "diffusers",
        "dtype": "BF16",
        "guidance": "keep: krea; guidance_embeds true",
        "license": "flux-1-dev-non-commercial-license (from krea)",
        "parents": [
            {"name": "schnell", "label": "owner/schnell", "variant": "schnell kind",
             "license": "apache-2.0 (FLUX.1-schnell kind)", "contributes": True},
            {"name": "krea", "label": "black-forest-labs/FLUX.1-Krea-dev", "variant": "dev kind",
             "license": "flux-1-dev-non-commercial-license", "contributes": True},
        ],
        "notes": ["no licence text lies beside `schnell`"],
        "unused": [{"model": "krea", "tensors": ["final_layer.linear.weight"], "reason": "taken"}],
        "recipe": {"models": {"schnell": "/home/somebody/models/schnell", "krea": "krea"},
                   "method": {"linear": {"alpha": 0.4}}},
        "rows": rows,
        "findings": {"nonfinite": [], "overflow": [], "rounding": None, "equal": {}, "whole": [],
                     "vanished": [], "notes": {}},
        "run": {"seconds": 31.2, "phases": {"open": 0.2, "compute": 30.0, "commit": 1.0},
                "bytes_read": 47_600_000_000, "bytes_written": 23_800_000_000,
                "working_bytes": 64_000_000, "peak_rss": 99_000_000, "threads": 2,
                "chunk": 262_144, "io": "mmap", "isa": "avx512"},
        "versions": {"submerge": "0.1.0", "numerics": 1, "python": "3.11.2", "system": "Linux"},
    }  # fmt: skip
