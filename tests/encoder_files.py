"""Pipelines with text encoders, and adapters with parts for them, in numpy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

import adapter_files as files
import factory
from factory import KREA, Array

if TYPE_CHECKING:
    from pathlib import Path

CLIP = "text encoder (CLIP)"
ATTN, FC = "encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1"
SELF, DENSE = "encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.1.DenseReluDense.wo"
TO_Q = "transformer.transformer_blocks.0.attn.to_q"
SIZES = {ATTN: (24, 24), FC: (48, 24), SELF: (32, 16), DENSE: (16, 40)}


def clip(before: str = "text_model.") -> dict[str, Array]:
    """CLIP in F16, as diffusers keeps it: with biases, and positions that are no floats."""
    found: dict[str, Array] = {
        f"{before}embeddings.position_ids": np.arange(7, dtype=np.int64)[None],
        f"{before}embeddings.token_embedding.weight": files.draw("t", 11, 24, dtype=np.float16),
        f"{before}final_layer_norm.weight": files.draw("n", 24, dtype=np.float16),
    }
    for name in (ATTN, FC):
        found[f"{before}{name}.weight"] = files.draw(name, *SIZES[name], dtype=np.float16)
        found[f"{before}{name}.bias"] = files.draw(f"{name}b", SIZES[name][0], dtype=np.float16)
    return found


def t5() -> list[dict[str, Array]]:
    """T5 in two shards."""
    first = {
        "shared.weight": files.draw("s", 9, 16),
        f"{SELF}.weight": files.draw(SELF, *SIZES[SELF]),
    }
    return [first, {f"{DENSE}.weight": files.draw(DENSE, *SIZES[DENSE])}]


def pipeline(folder: Path, flux: factory.Flux = KREA, before: str = "text_model.") -> Path:
    factory.save_pipeline(folder, flux)
    factory.write(folder / "text_encoder/model.safetensors", clip(before), {"format": "pt"})
    second = folder / "text_encoder_2"
    (second / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, shard in zip(names, t5(), strict=True):
        factory.write(second / name, shard, {"format": "pt"})
    listed = {t: n for n, shard in zip(names, t5(), strict=True) for t in shard}
    index = {"metadata": {"total_size": 1}, "weight_map": listed}
    (second / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def factors(*modules: str) -> dict[str, tuple[Array, Array]]:
    return {
        m: (files.draw(f"u{m}", SIZES[m][0], 4), files.draw(f"d{m}", 4, SIZES[m][1]))
        for m in modules
    }


def kohya(prefix: str, *modules: str, alpha: float | None = 2.0) -> dict[str, Array]:
    return files.kohya(factors(*modules), alpha, prefix)


def dotted(prefix: str, *modules: str) -> dict[str, Array]:
    return files.diffusers(factors(*modules), prefix)


def written(folder: Path, component: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for path in sorted((folder / component).glob("*.safetensors")):
        found |= factory.read(path)
    return found


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def assert_baked(
    out: Path, source: Path, added: dict[str, Array], before: str = "text_model."
) -> None:
    """Every tensor is the sum in its own dtype, or the same bytes; files and headers are equal."""
    for component in ("text_encoder", "text_encoder_2"):
        names = {p.name for p in (source / component).iterdir()}
        assert {p.name for p in (out / component).iterdir()} == names
        for name in names:
            if name.endswith(".safetensors"):
                assert header(out / component / name) == header(source / component / name)
        theirs, ours = written(source, component), written(out, component)
        assert set(ours) == set(theirs)
        for name, array in theirs.items():
            delta = added.get(name.removeprefix(before))
            assert ours[name].dtype == array.dtype
            if delta is None:
                assert ours[name].tobytes() == array.tobytes()
                continue
            wanted = files.wide(array) + delta
            unit = 2.0**-10 if array.dtype == np.float16 else 2.0**-22
            limit = unit * np.abs(wanted) + 1e-6
            assert (np.abs(files.wide(ours[name]) - wanted) <= limit).all(), name
            assert not np.array_equal(ours[name], array), name


def deltas(*modules: str, scale: float = 1.0) -> dict[str, Array]:
    return {f"{m}.weight": files.product(p, scale) for m, p in factors(*modules).items()}
