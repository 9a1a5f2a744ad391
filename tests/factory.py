"""Tiny FLUX checkpoints for tests, in every layout, written by the safetensors package.

This is an oracle: it shares no code with submerge. Values belong to a tensor of the diffusers
layout (the finest one) and depend on its name and the seed alone, so two layouts of one `Flux` hold
the same numbers, and models of different depth agree where they overlap.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import safetensors

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = dict[str, tuple[int, ...]]

# The spelling in files, numpy's type, and the spelling the safetensors writer wants.
DTYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "F32": (np.dtype(np.float32), "float32"),
    "F16": (np.dtype(np.float16), "float16"),
    "BF16": (np.dtype(ml_dtypes.bfloat16), "bfloat16"),
    "F8_E4M3": (np.dtype(ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
    "F8_E5M2": (np.dtype(ml_dtypes.float8_e5m2), "float8_e5m2"),
    "F64": (np.dtype(np.float64), "float64"),
}
FLOATS = tuple(DTYPES)[:5]  # what is merged into
_OTHERS = {
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
}
_NUMPY: dict[str, np.dtype[Any]] = {
    **{name: dtype for name, (dtype, _) in DTYPES.items()},
    **{name: np.dtype(word) for name, word in _OTHERS.items()},
}
_WORDS: dict[np.dtype[Any], str] = {
    **dict(DTYPES.values()),
    **{np.dtype(word): word for word in _OTHERS.values()},
}
WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Flux:
    """One model: its sizes, whether it has guidance, and the seed of its values."""

    double: int = 2
    single: int = 2
    hidden: int = 64
    head_dim: int = 16
    context: int = 48
    pooled: int = 32
    channels: int = 64
    out: int = 64
    guidance: bool = False
    dtype: str = "BF16"
    seed: int = 0

    @property
    def mlp(self) -> int:
        return 4 * self.hidden


SCHNELL = Flux()
KREA = Flux(guidance=True, seed=1)
REAL = Flux(19, 38, 3072, 128, 4096, 768, guidance=True)


def diffusers_shapes(flux: Flux) -> Shapes:
    """Every tensor of the diffusers layout, in the order of the state dict."""
    h, mlp, shapes = flux.hidden, flux.mlp, Shapes()

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (rows,)

    embedders = [("timestep_embedder", 256), ("text_embedder", flux.pooled)]
    if flux.guidance:
        embedders.insert(1, ("guidance_embedder", 256))
    for name, columns in embedders:
        linear(f"time_text_embed.{name}.linear_1", h, columns)
        linear(f"time_text_embed.{name}.linear_2", h, h)
    linear("context_embedder", h, flux.context)
    linear("x_embedder", h, flux.channels)
    for i in range(flux.double):
        block = f"transformer_blocks.{i}."
        linear(block + "norm1.linear", 6 * h, h)
        linear(block + "norm1_context.linear", 6 * h, h)
        for norms, layers in (
            (("norm_q", "norm_k"), ("to_q", "to_k", "to_v", "to_out.0")),
            (
                ("norm_added_q", "norm_added_k"),
                ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            ),
        ):
            shapes |= {f"{block}attn.{norm}.weight": (flux.head_dim,) for norm in norms}
            for layer in layers:
                linear(f"{block}attn.{layer}", h, h)
        for side in ("ff", "ff_context"):
            linear(f"{block}{side}.net.0.proj", mlp, h)
            linear(f"{block}{side}.net.2", h, mlp)
    for i in range(flux.single):
        block = f"single_transformer_blocks.{i}."
        linear(block + "norm.linear", 3 * h, h)
        linear(block + "proj_mlp", mlp, h)
        linear(block + "proj_out", h, h + mlp)
        shapes |= {f"{block}attn.norm_{norm}.weight": (flux.head_dim,) for norm in "qk"}
        for layer in ("to_q", "to_k", "to_v"):
            linear(f"{block}attn.{layer}", h, h)
    linear("norm_out.linear", 2 * h, h)
    linear("proj_out", flux.out, h)
    return shapes


def bfl_stacks(flux: Flux) -> dict[str, list[str]]:
    """The diffusers tensors each BFL tensor stacks; the final modulation swaps its halves too."""
    stacks: dict[str, list[str]] = {}

    def linear(bfl: str, *diffusers: str) -> None:
        for parameter in (".weight", ".bias"):
            stacks[bfl + parameter] = [name + parameter for name in diffusers]

    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder"}
    if flux.guidance:
        embedders["guidance_in"] = "guidance_embedder"
    for bfl, name in embedders.items():
        linear(f"{bfl}.in_layer", f"time_text_embed.{name}.linear_1")
        linear(f"{bfl}.out_layer", f"time_text_embed.{name}.linear_2")
    linear("txt_in", "context_embedder")
    linear("img_in", "x_embedder")
    for i in range(flux.double):
        a, b = f"transformer_blocks.{i}.", f"double_blocks.{i}."
        for side, norm, qkv, out, mod, ff in (
            ("img", "", ("to_q", "to_k", "to_v"), "to_out.0", "norm1", "ff"),
            (
                "txt",
                "added_",
                ("add_q_proj", "add_k_proj", "add_v_proj"),
                "to_add_out",
                "norm1_context",
                "ff_context",
            ),
        ):
            linear(f"{b}{side}_mod.lin", f"{a}{mod}.linear")
            linear(f"{b}{side}_attn.qkv", *(f"{a}attn.{layer}" for layer in qkv))
            linear(f"{b}{side}_attn.proj", f"{a}attn.{out}")
            linear(f"{b}{side}_mlp.0", f"{a}{ff}.net.0.proj")
            linear(f"{b}{side}_mlp.2", f"{a}{ff}.net.2")
            for word, letter in (("query", "q"), ("key", "k")):
                stacks[f"{b}{side}_attn.norm.{word}_norm.scale"] = [
                    f"{a}attn.norm_{norm}{letter}.weight"
                ]
    for i in range(flux.single):
        a, b = f"single_transformer_blocks.{i}.", f"single_blocks.{i}."
        linear(b + "modulation.lin", a + "norm.linear")
        linear(b + "linear1", a + "attn.to_q", a + "attn.to_k", a + "attn.to_v", a + "proj_mlp")
        linear(b + "linear2", a + "proj_out")
        for word, letter in (("query", "q"), ("key", "k")):
            stacks[f"{b}norm.{word}_norm.scale"] = [f"{a}attn.norm_{letter}.weight"]
    linear("final_layer.linear", "proj_out")
    linear("final_layer.adaLN_modulation.1", "norm_out.linear")
    return stacks


def shapes_of(flux: Flux, layout: str = "diffusers", prefix: str = "") -> Shapes:
    """Every tensor of a layout with its shape; only the diffusers order means something."""
    shapes = diffusers_shapes(flux)
    if layout == "bfl":
        shapes = {
            name: (sum(shapes[part][0] for part in parts), *shapes[parts[0]][1:])
            for name, parts in bfl_stacks(flux).items()
        }
    return {prefix + name: shape for name, shape in shapes.items()}


def values(flux: Flux, name: str, shape: tuple[int, ...]) -> Array:
    """The numbers of one diffusers tensor, rounded to the model's dtype."""
    seed = hashlib.sha256(f"{flux.seed}/{name}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(seed[:8], "little"))
    norm = ".norm_" in name and "norm_out" not in name
    numbers = random.normal(1.0 if norm else 0.0, 0.1 if norm else 0.05, shape)
    return numbers.astype(np.float32).astype(DTYPES[flux.dtype][0])


def tensors(flux: Flux, layout: str = "diffusers", prefix: str = "") -> dict[str, Array]:
    """Every tensor of a layout with its numbers."""
    arrays = {name: values(flux, name, shape) for name, shape in diffusers_shapes(flux).items()}
    if layout == "bfl":
        stacks = bfl_stacks(flux)
        arrays = {name: np.concatenate([arrays[part] for part in stacks[name]]) for name in stacks}
        for name in (
            "final_layer.adaLN_modulation.1.weight",
            "final_layer.adaLN_modulation.1.bias",
        ):
            scale, shift = np.split(arrays[name], 2)
            arrays[name] = np.concatenate([shift, scale])
    return {prefix + name: array for name, array in arrays.items()}


def extras() -> dict[str, Array]:
    """Stand-ins for the other models of an all-in-one file."""
    random = np.random.default_rng(7)
    shapes = {
        "vae.decoder.conv_in.weight": (4, 2, 3, 3),
        "vae.encoder.conv_in.bias": (4,),
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (4, 6),
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": (6, 4),
    }
    return {name: random.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}


def config(flux: Flux) -> dict[str, Any]:
    """What diffusers would write as config.json."""
    return {
        "_class_name": "FluxTransformer2DModel",
        "_diffusers_version": "0.35.0.dev0",
        "attention_head_dim": flux.head_dim,
        "axes_dims_rope": [16, 56, 56] if flux.head_dim == 128 else [4, 4, flux.head_dim - 8],
        "guidance_embeds": flux.guidance,
        "in_channels": flux.channels,
        "joint_attention_dim": flux.context,
        "num_attention_heads": flux.hidden // flux.head_dim,
        "num_layers": flux.double,
        "num_single_layers": flux.single,
        "out_channels": None if flux.out == flux.channels else flux.out,
        "patch_size": 1,
        "pooled_projection_dim": flux.pooled,
    }


def write(path: Path, arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file with the package's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }
    specs = {
        name: safetensors.TensorSpec(
            dtype=_WORDS[array.dtype],
            shape=list(array.shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in held.items()
    }
    safetensors.serialize_file(specs, path, metadata or {"format": "pt"})
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def save_file(path: Path, flux: Flux, layout: str = "diffusers", prefix: str = "") -> Path:
    """Write one file with the transformer alone."""
    return write(path, tensors(flux, layout, prefix))


def save_comfy(path: Path, flux: Flux) -> Path:
    """Write an all-in-one file as ComfyUI keeps them."""
    return write(path, {**tensors(flux, "bfl", "model.diffusion_model."), **extras()})


def save_folder(
    path: Path, flux: Flux, shards: int = 1, arrays: dict[str, Array] | None = None
) -> Path:
    """Write what `save_pretrained` would: config, and one file or shards with their index."""
    write_json(path / "config.json", config(flux))
    arrays = tensors(flux) if arrays is None else arrays
    if shards == 1:
        write(path / f"{WEIGHTS}.safetensors", arrays)
        return path
    weight_map: dict[str, str] = {}
    for i, names in enumerate(np.array_split(list(arrays), shards), start=1):
        shard = f"{WEIGHTS}-{i:05d}-of-{shards:05d}.safetensors"
        write(path / shard, {str(name): arrays[str(name)] for name in names})
        weight_map |= {str(name): shard for name in names}
    total = sum(array.nbytes for array in arrays.values())
    write_json(
        path / f"{WEIGHTS}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )
    return path


def save_pipeline(path: Path, flux: Flux, shards: int = 1) -> Path:
    """Write a diffusers pipeline folder with small stand-ins beside the transformer."""
    components = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "T5TokenizerFast"),
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }
    write_json(
        path / "model_index.json",
        {"_class_name": "FluxPipeline", "_diffusers_version": "0.35.0.dev0", **components},
    )
    write_json(
        path / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "base_image_seq_len": 256,
            "base_shift": 0.5,
            "max_image_seq_len": 4096,
            "max_shift": 1.15,
            "num_train_timesteps": 1000,
            "shift": 3.0 if flux.guidance else 1.0,
            "use_dynamic_shifting": flux.guidance,
        },
    )
    for component in ("text_encoder", "text_encoder_2", "vae"):
        weights = WEIGHTS if component == "vae" else "model"
        fields = {"scaling_factor": 0.3611, "shift_factor": 0.1159} if component == "vae" else {}
        kind = {"_class_name": components[component][1]}
        write_json(path / component / "config.json", {**kind, **fields})
        array = np.full((3, 5), len(component), dtype=np.float32)
        write(path / component / f"{weights}.safetensors", {"stand_in.weight": array})
    for component in ("tokenizer", "tokenizer_2"):
        write_json(path / component / "tokenizer_config.json", {"model_max_length": 77})
    save_folder(path / "transformer", flux, shards)
    return path


def save_sparse(path: Path, flux: Flux = REAL, layout: str = "bfl") -> Path:
    """Write a header and no data: a file of full size that takes no room on disk, all zeros."""
    size, header, at = np.dtype(DTYPES[flux.dtype][0]).itemsize, dict[str, object](), 0
    for name, shape in sorted(shapes_of(flux, layout).items()):
        end = at + size * math.prod(shape)
        header[name] = {"dtype": flux.dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def read(path: Path) -> dict[str, Array]:
    """Read a safetensors file with the package's own reader, any dtype."""
    found: dict[str, Array] = {}
    entries: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    for name, entry in entries:
        array = np.frombuffer(bytes(entry["data"]), dtype=_NUMPY[entry["dtype"]])
        found[name] = array.reshape(entry["shape"])
    return found


def header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file, as JSON and nothing more."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content: dict[str, Any] = json.loads(file.read(length))
    return content
