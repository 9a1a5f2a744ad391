"""Adapters that peft, diffusers and LyCORIS wrote, fused as these libraries mean them.

Deltas are compared in F64. Where a library's own merging differs from its forward pass, or drops
what the file holds, the test says so and asserts that it does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from lycoris import LycorisNetwork, create_lycoris
from lycoris.functional.general import weight_decompose
from safetensors.torch import load_file, save_file

import adapter_files as files
import factory
import submerge
from factory import Flux
from fusing import WIDE, assert_close, fused
from oracles.models import model_of, state_of
from submerge import lora

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from factory import Array

TARGETS = ["to_q", "attn.to_k", "to_out.0", "net.0.proj", "proj_mlp", "proj_out", "x_embedder"]


def transformer(folder: Path, model: Flux = WIDE) -> FluxTransformer2DModel:
    path = factory.save_folder(folder / "theirs", model)
    return model_of(state_of(path), path / "config.json")


def shaken(module: Any, seed: int = 0) -> None:
    """Give every parameter that trains some value: libraries begin with zeros."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=draw) * 0.1
            parameter.data = parameter.data + noise.to(parameter.dtype)


def plain(state: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    return {name: tensor.detach().double().clone().numpy() for name, tensor in state.items()}


CONFIGS: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS),
    "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=TARGETS),
    "patterns": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS,
        rank_pattern={"to_q": 2, r"single_transformer_blocks\.\d+\.proj_out": 3},
        alpha_pattern={"^x_embedder": 1, "attn.to_k": 9},
    ),
    "bias": lambda: peft.LoraConfig(r=4, lora_alpha=2, lora_bias=True, target_modules=TARGETS),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=TARGETS),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "lokr whole": lambda: peft.LoKrConfig(r=64, alpha=16, target_modules=TARGETS),
    "lokr both": lambda: peft.LoKrConfig(
        r=1, alpha=2, decompose_both=True, decompose_factor=8, target_modules=TARGETS
    ),
}


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
@pytest.mark.parametrize("case", CONFIGS)
def test_what_peft_saves_is_what_peft_merges(tmp_path: Path, case: str, layout: str) -> None:
    model = transformer(tmp_path).double()
    before = plain(model.state_dict())
    adapted = peft.get_peft_model(model, CONFIGS[case]())
    shaken(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    after = plain(adapted.merge_and_unload().state_dict())
    changed = [name for name, array in after.items() if not np.array_equal(array, before[name])]
    assert len(changed) > 10
    found = fused(tmp_path, WIDE, [str(tmp_path / "adapter")], layout)
    assert_close(found, after)


def test_deltas_of_peft_are_those_of_get_delta_weight(tmp_path: Path) -> None:
    model = transformer(tmp_path).double()
    adapted = peft.get_peft_model(model, CONFIGS["patterns"]())
    shaken(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    found = fused(tmp_path, WIDE, [str(tmp_path / "adapter")])
    base = factory.tensors(WIDE)
    layers = {n: m for n, m in adapted.named_modules() if hasattr(m, "get_delta_weight")}
    assert len(layers) > 10
    for name, layer in layers.items():
        module = name.removeprefix("base_model.model.")
        delta = layer.get_delta_weight("default").detach().double().numpy()
        np.testing.assert_allclose(
            found[f"{module}.weight"] - files.wide(base[f"{module}.weight"]), delta, atol=2e-6
        )


@pytest.mark.parametrize("method", ["linear", "magnitude_prune", "ties"])
@pytest.mark.parametrize("weights", [(0.6, 1.1), (0.9, -0.4)])
def test_factors_are_merged_as_add_weighted_adapter_does(
    tmp_path: Path, method: Any, weights: tuple[float, float]
) -> None:
    """Also the votes of `ties`, which strengths and alphas have no part in."""
    model = peft.get_peft_model(transformer(tmp_path), CONFIGS["lora"](), adapter_name="a")
    model.add_adapter("b", peft.LoraConfig(r=4, lora_alpha=1, target_modules=TARGETS))
    for seed, name in enumerate("ab"):
        model.set_adapter(name)
        shaken(model, seed)
    model.save_pretrained(str(tmp_path / "saved"))
    density: Any = {} if method == "linear" else {"density": 0.3}
    model.add_weighted_adapter(["a", "b"], list(weights), "m", method, **density)
    given: Any = [
        {"path": str(tmp_path / "saved" / name), "scale": weight}
        for name, weight in zip("ab", weights, strict=True)
    ]
    base = factory.save_file(tmp_path / "base.safetensors", WIDE)
    lora.merge(given, tmp_path / "o.safetensors", base=base, method=method, **density)
    found = factory.read(tmp_path / "o.safetensors")
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    assert 2 * len(layers) == len(found)
    for name, layer in layers.items():
        stem = f"transformer.{name.removeprefix('base_model.model.')}"
        for side, factors in (("A", layer.lora_A), ("B", layer.lora_B)):
            theirs = factors["m"].weight.detach().numpy()
            np.testing.assert_allclose(found[f"{stem}.lora_{side}.weight"], theirs, atol=1e-6)


def pipeline(model: FluxTransformer2DModel) -> FluxPipeline:
    return FluxPipeline(None, None, None, None, None, None, model)  # only its loader is used


@pytest.mark.parametrize("metadata", [False, True])
def test_what_diffusers_saves_and_fuses(tmp_path: Path, *, metadata: bool) -> None:
    model = transformer(tmp_path)
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_k", "proj_out"])
    model.add_adapter(config)
    shaken(model)
    state = peft.get_peft_model_state_dict(model)
    more = {"transformer_lora_adapter_metadata": config.to_dict()} if metadata else {}
    FluxPipeline.save_lora_weights(tmp_path / "saved", transformer_lora_layers=state, **more)
    theirs = pipeline(transformer(tmp_path))
    theirs.load_lora_weights(tmp_path / "saved")
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora_weights()
    after = plain(theirs.transformer.state_dict())
    source = {"path": str(tmp_path / "saved"), "scale": 0.7}
    assert_close(fused(tmp_path, WIDE, [source]), after)


# The converters of diffusers know the width of FLUX.1 only; without fused layers they take any.
SPLIT = (
    "double_blocks.0.img_attn.qkv",
    "double_blocks.1.txt_attn.proj",
    "double_blocks.1.img_mlp.2",
    "double_blocks.0.img_mod.lin",
    "single_blocks.1.linear2",
    "single_blocks.0.modulation.lin",
)
OUTSIDE = ("img_in", "txt_in", "time_in.in_layer", "final_layer.linear")


@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
def test_kohya_files_as_diffusers_fuses_them(tmp_path: Path, alpha: float | None) -> None:
    found = files.pairs(WIDE, SPLIT, layout="bfl")
    path = files.save(tmp_path / "kohya.safetensors", files.kohya(found, alpha))
    theirs = pipeline(transformer(tmp_path))
    theirs.load_lora_weights(path)
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    assert_close(fused(tmp_path, WIDE, [str(path)]), plain(theirs.transformer.state_dict()))


def test_diffusers_loses_modules_outside_the_blocks_and_compat_follows_it(tmp_path: Path) -> None:
    found = files.pairs(WIDE, [*SPLIT, *OUTSIDE], layout="bfl")
    path = files.save(tmp_path / "kohya.safetensors", files.kohya(found, 2.0))
    theirs = pipeline(transformer(tmp_path))
    theirs.load_lora_weights(path)
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    after = plain(theirs.transformer.state_dict())
    base = factory.tensors(WIDE)
    np.testing.assert_array_equal(after["x_embedder.weight"], base["x_embedder.weight"])
    source = {"path": str(path), "compat": "diffusers"}
    assert_close(fused(tmp_path, WIDE, [source]), after)
    ours = fused(tmp_path, WIDE, [str(path)])
    delta = files.product(found["img_in"], 0.5)
    np.testing.assert_allclose(
        ours["x_embedder.weight"] - files.wide(base["x_embedder.weight"]), delta, atol=1e-6
    )


def test_diffusers_gives_the_first_alpha_to_every_module_and_compat_follows_it(
    tmp_path: Path,
) -> None:
    modules = ["transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_q"]
    arrays = files.diffusers(files.pairs(WIDE, modules))
    arrays[f"transformer.{modules[0]}.alpha"] = np.array(1.0, dtype=np.float32)
    path = files.save(tmp_path / "s.safetensors", arrays)
    theirs = pipeline(transformer(tmp_path))
    theirs.load_lora_weights(path)
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    after = plain(theirs.transformer.state_dict())
    assert_close(fused(tmp_path, WIDE, [{"path": str(path), "compat": "diffusers"}]), after)
    with pytest.raises(AssertionError):
        assert_close(fused(tmp_path, WIDE, [str(path)]), after)


def test_xlabs_files_as_diffusers_fuses_them(tmp_path: Path) -> None:
    arrays, _ = files.xlabs(WIDE)
    path = files.save(tmp_path / "xlabs.safetensors", arrays)
    theirs = pipeline(transformer(tmp_path))
    theirs.load_lora_weights(path)
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    assert_close(fused(tmp_path, WIDE, [str(path)]), plain(theirs.transformer.state_dict()))


ALGORITHMS: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora", "linear_dim": 4, "linear_alpha": 1},
    "lora scalar": {"algo": "lora", "linear_dim": 4, "linear_alpha": 2, "use_scalar": True},
    "rs_lora": {"algo": "lora", "linear_dim": 4, "linear_alpha": 1, "rs_lora": True},
    "dora": {"algo": "lora", "linear_dim": 4, "linear_alpha": 2, "dora_wd": True},
    "loha": {"algo": "loha", "linear_dim": 4, "linear_alpha": 1},
    "lokr": {"algo": "lokr", "linear_dim": 2, "linear_alpha": 1, "factor": 4},
    "lokr both": {
        "algo": "lokr", "linear_dim": 1, "linear_alpha": 2, "factor": 8, "decompose_both": True,
    },
    "lokr whole": {"algo": "lokr", "linear_dim": 10_000, "linear_alpha": 1, "factor": 4},
    "lokr dora": {
        "algo": "lokr", "linear_dim": 2, "linear_alpha": 1, "factor": 4, "dora_wd": True,
    },
    "glora": {"algo": "glora", "linear_dim": 4, "linear_alpha": 2},
    "full": {"algo": "full", "linear_dim": 4, "linear_alpha": 1},
}  # fmt: skip
NAMES = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_out", "proj_out")


def lycoris(tmp_path: Path, case: str) -> tuple[LycorisNetwork, FluxTransformer2DModel, Path]:
    """A network of LyCORIS that is on in a model, with values, and the file it saved."""
    model = transformer(tmp_path)
    torch.manual_seed(0)
    network = create_lycoris(model, 1.0, **ALGORITHMS[case])
    network.apply_to()
    shaken(network, 1)
    path = tmp_path / "lycoris.safetensors"
    state = {n: t.detach().contiguous().clone() for n, t in network.state_dict().items()}
    save_file(state, path)
    return network, model, path


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
@pytest.mark.parametrize("case", ALGORITHMS)
def test_files_of_lycoris_mean_what_its_forward_pass_does(
    tmp_path: Path, case: str, layout: str
) -> None:
    """Its weights are what the layers, switched on, make of unit vectors."""
    _, model, path = lycoris(tmp_path, case)
    found = fused(tmp_path, WIDE, [str(path)], layout)
    layers = dict(model.named_modules())
    reached = 0
    for name in NAMES:
        layer = layers[name]
        with torch.no_grad():
            zero = layer(torch.zeros(1, layer.in_features))
            weight = (layer(torch.eye(layer.in_features)) - zero).T.double().numpy()
        own = files.wide(factory.tensors(WIDE)[f"{name}.weight"])
        reached += int(np.abs(weight - own).max() > 1e-3)
        np.testing.assert_allclose(found[f"{name}.weight"], weight, atol=3e-6, err_msg=name)
    assert reached == len(NAMES)


@pytest.mark.parametrize("case", ["loha", "lokr"])
def test_merge_to_of_lycoris_scales_twice_and_compat_follows_it(tmp_path: Path, case: str) -> None:
    network, model, path = lycoris(tmp_path, case)
    network.restore()
    network.merge_to(1.0)
    after = plain(model.state_dict())
    source = {"path": str(path), "compat": "lycoris"}
    found = fused(tmp_path, WIDE, [source])
    for name in NAMES:
        np.testing.assert_allclose(found[f"{name}.weight"], after[f"{name}.weight"], atol=3e-6)
    once = fused(tmp_path, WIDE, [str(path)])
    assert np.abs(once[f"{NAMES[0]}.weight"] - after[f"{NAMES[0]}.weight"]).max() > 1e-3


def test_lora_of_lycoris_has_its_keys(tmp_path: Path) -> None:
    """What the tables take for its names is what it writes."""
    _, _, path = lycoris(tmp_path, "dora")
    assert set(load_file(path)) >= {
        f"lycoris_transformer_blocks_0_attn_to_q.{part}"
        for part in ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
    }
    assert (
        submerge.plan(
            {"models": {"m": str(tmp_path / "theirs")}, "adapters": [str(path)]}, tmp_path / "out"
        )
        .about.adapters[0]
        .kind.startswith("DoRA, lycoris names, ")
    )
    assert json.loads((tmp_path / "theirs/config.json").read_text())["num_layers"] == 2


@pytest.mark.parametrize("compat", [None, "lycoris"])
def test_lengths_of_rows_in_bf16_get_that_dtypes_epsilon_in_lycoris(
    tmp_path: Path, compat: str | None
) -> None:
    """Its loader leaves `dora_scale` in the file's dtype and adds what is least in that."""
    name = "transformer_blocks.0.attn.to_q"
    pair = files.pairs(WIDE, [name])[name]
    weight = torch.tensor(files.wide(factory.tensors(WIDE)[f"{name}.weight"]))
    total = weight + torch.tensor(files.product(pair))
    lengths = weight.norm(dim=1, keepdim=True).to(torch.bfloat16)
    stem = f"lycoris_{name.replace('.', '_')}"
    state = {
        f"{stem}.lora_up.weight": torch.tensor(pair[0]),
        f"{stem}.lora_down.weight": torch.tensor(pair[1]),
        f"{stem}.dora_scale": lengths,
    }
    path = tmp_path / "s.safetensors"
    save_file(state, path)
    theirs = weight_decompose(total, lengths, 1, wd_on_out=True).double().norm(dim=1)
    source = {"path": str(path), **({"compat": compat} if compat else {})}
    found = fused(tmp_path, WIDE, [source])[f"{name}.weight"]
    ours = torch.tensor(files.wide(found)).norm(dim=1)
    # Theirs is rounded to BF16 on the way, up and down alike.
    apart = float((ours / theirs - 1).mean())
    assert abs(apart) < 2e-3 if compat else 1e-2 < apart < 3e-2
