"""Adapters that cannot be applied: where, what was expected, what to do; nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import KREA, SCHNELL, Array
from submerge import AdapterError, CheckpointError, RecipeError
from submerge.adapters import open_adapter
from submerge.adapters.keys import split

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TO_Q = "transformer.transformer_blocks.0.attn.to_q"
ALLOW = "`allow: [{}]` leaves it out, `--allow` on the command line; patterns may hold `*`"
QKV = "lora_unet_double_blocks_0_img_attn_qkv"


def pair(rows: int = 64, columns: int = 64, rank: int = 4, stem: str = TO_Q) -> dict[str, Array]:
    return {
        f"{stem}.lora_A.weight": files.draw("down", rank, columns),
        f"{stem}.lora_B.weight": files.draw("up", rows, rank),
    }


def scalar(value: object, dtype: str = "f4") -> Array:
    return np.array(value, dtype=dtype)


CASES: dict[str, tuple[Callable[[], dict[str, Array]], str, str]] = {
    "no partner": (
        lambda: {f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64)},
        r"`transformer\.transformer_blocks\.0\.attn\.to_q`: `up` missing beside 1 tensor: ",
        "the file is incomplete; download it again",
    ),
    "alpha alone": (
        lambda: pair() | {f"{QKV}.alpha": scalar(1)},
        rf"`{QKV}`: `up` and `down` missing beside 1 tensor",
        "the file is incomplete; download it again",
    ),
    "magnitude alone": (
        lambda: {f"{TO_Q}.dora_scale": files.draw(1, 64, 1)},
        "`up` and `down` missing beside",
        "the file is incomplete; download it again",
    ),
    "a half of LoHa": (
        lambda: {
            f"{QKV}.hada_w1_a": files.draw(1, 192, 2),
            f"{QKV}.hada_w1_b": files.draw(2, 2, 64),
        },
        "`right_down` and `right_up` missing",
        "the file is incomplete; download it again",
    ),
    "a half of LoKr": (
        lambda: {f"{QKV}.lokr_w1": files.draw(1, 4, 4), f"{QKV}.lokr_w2_a": files.draw(2, 48, 2)},
        "`right_down` missing",
        "the file is incomplete; download it again",
    ),
    "a factor twice": (
        lambda: {
            f"{QKV}.lokr_w1": files.draw(1, 4, 4),
            f"{QKV}.lokr_w2": files.draw(2, 48, 16),
            f"{QKV}.lokr_w2_a": files.draw(2, 48, 2),
        },
        "a factor is there whole and as a product",
        "the file holds two adapters in one; save each to a file of its own",
    ),
    "two ranks": (
        lambda: pair() | {f"{TO_Q}.lora_B.weight": files.draw(1, 64, 5)},
        "rank 5 of .* and 4 of .*, expected the same",
        "the file is damaged, or two adapters in one",
    ),
    "two kinds": (
        lambda: pair() | {f"{TO_Q}.lokr_w1": files.draw(1, 4, 4)},
        "LoKr and LoRA at one module, expected one kind",
        "save each adapter to a file of its own",
    ),
    "two names for one part": (
        lambda: pair() | {f"{TO_Q}.lora_down.weight": files.draw(1, 4, 64)},
        "are the same part of one module, expected one adapter in a file",
        "save each adapter to a file of its own",
    ),
    "two formats": (
        lambda: (
            pair()
            | files.kohya(files.pairs(KREA, ["double_blocks.0.img_attn.proj"], layout="bfl"), 1)
        ),
        "is named as .* in .* names, .* as .* in .* names, expected one format",
        "save each adapter to a file of its own",
    ),
    "a module under two names": (
        lambda: pair() | pair(stem="transformer_blocks.0.attn.to_q"),
        r"is named as diffusers does in diffusers names, .* as bare in diffusers names",
        "save each adapter to a file of its own",
    ),
    "rows of another model": (
        lambda: pair(rows=3072),
        r"`transformer\S+lora_B\.weight`: expected \[64, 4\], got \[3072, 4\]",
        "the adapter was made for a model of other sizes",
    ),
    "columns of another model": (
        lambda: pair(columns=3072),
        r"lora_A\.weight`: expected \[4, 64\], got \[4, 3072\]",
        "the adapter was made for a model of other sizes",
    ),
    "a Kronecker product of another size": (
        lambda: {f"{QKV}.lokr_w1": files.draw(1, 4, 4), f"{QKV}.lokr_w2": files.draw(2, 48, 15)},
        r"\[4, 4\] and \[48, 15\] make \[192, 60\], expected \[192, 64\]",
        "the adapter was made for a model of other sizes",
    ),
    "a bias of another size": (
        lambda: pair() | {f"{TO_Q}.lora_B.bias": files.draw(1, 63)},
        r"lora_B\.bias`: expected \[64\], got \[63\]",
        "the adapter was made for a model of other sizes",
    ),
    "lengths of columns of a part": (
        lambda: (
            files.kohya(files.pairs(KREA, ["double_blocks.0.img_attn.qkv"], layout="bfl"), 1)
            | {f"{QKV}.dora_scale": files.draw(1, 1, 64)}
        ),
        r"dora_scale`: expected \[192, 1\] or \[192\], got \[1, 64\]",
        "the adapter was made for a model of other sizes",
    ),
    "a LoRA on a norm": (
        lambda: pair(16, 16, stem="transformer.transformer_blocks.0.attn.norm_q"),
        "norm_q.* expected no such tensor",
        "the adapter was made for a model of other sizes",
    ),
    "alpha is NaN": (
        lambda: pair() | {f"{TO_Q}.alpha": scalar(np.nan)},
        r"alpha`: alpha is nan, expected a finite number",
        "training diverged, or the file is damaged",
    ),
    "alpha is infinite": (
        lambda: pair() | {f"{TO_Q}.alpha": scalar(-np.inf, "f8")},
        r"alpha`: alpha is -inf, expected a finite number",
        "training diverged, or the file is damaged",
    ),
    "alpha is a matrix": (
        lambda: pair() | {f"{TO_Q}.alpha": files.draw(1, 2, 2)},
        r"F32 \[2, 2\], expected one number",
        "the file is damaged, or no adapter",
    ),
    "factors that are no floats": (
        lambda: pair() | {f"{TO_Q}.lora_A.weight": np.ones((4, 64), dtype="i4")},
        "dtype I32, expected floats",
        "save the adapter in bf16, f16 or f32",
    ),
    "factors of a convolution": (
        lambda: pair() | {f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64, 1, 1)},
        r"shape \[4, 64, 1, 1\], expected a matrix of a linear layer",
        "factors of convolutions are not read; FLUX.1 has none",
    ),
    "rank 0": (
        lambda: pair(rank=0),
        r"shape \[0, 64\], expected a matrix",
        "the file is damaged",
    ),
    "a Tucker core": (
        lambda: pair() | {f"{TO_Q}.lora_mid.weight": files.draw(1, 4, 4)},
        "a Tucker core of a convolution",
        "fuse it into its model with the program that made it",
    ),
    "GLoRA without a factor": (
        lambda: {f"{QKV}.{part}.weight": files.draw(part, 4, 4) for part in ("a1", "a2", "b1")},
        "`down` missing beside",
        "the file is incomplete; download it again",
    ),
    "GLoRA of another width": (
        lambda: {
            f"{QKV}.a1.weight": files.draw(1, 63, 4),
            f"{QKV}.a2.weight": files.draw(2, 4, 64),
            f"{QKV}.b1.weight": files.draw(3, 192, 4),
            f"{QKV}.b2.weight": files.draw(4, 4, 64),
        },
        r"a1\.weight`: expected \[64, 4\], got \[63, 4\]",
        "the adapter was made for a model of other sizes",
    ),
    "OFT": (
        lambda: {f"{QKV}.oft_blocks": files.draw(1, 4, 4, 4)},
        "OFT and BOFT turn the weight by a matrix of which the file does not say how it is made",
        "fuse it into its model with the program that made it",
    ),
    "a widened layer": (
        lambda: pair() | {"diffusion_model.img_in.reshape_weight": scalar([64, 128], "i8")},
        "widens the model's layer",
        "fuse it into its model with the program that made it",
    ),
    "an unknown key": (
        lambda: pair() | {"transformer.extra": files.draw(1, 4)},
        r"1 key: `transformer\.extra` without a place in the model \(nothing an adapter holds\)",
        ALLOW.format("transformer.extra"),
    ),
    "an unknown module": (
        lambda: pair() | pair(stem="transformer.transformer_blocks.0.attn.to_x"),
        r"2 keys: .* without a place in the model \(no module of FLUX\.1\)",
        ALLOW.format("transformer.transformer_blocks.0.attn.to_x"),
    ),
    "a block too many": (
        lambda: pair() | pair(stem="transformer.transformer_blocks.7.attn.to_q"),
        r"\(this model has 2 double \+ 2 single blocks\)",
        ALLOW.format("transformer.transformer_blocks.7.attn.to_q"),
    ),
    "nothing for the transformer": (
        lambda: {"lora_te1_x.lora_down.weight": files.draw(1, 4, 4)},
        r"changes nothing in the transformer, .* got parts for: text encoder \(CLIP\)",
        "parts for text encoders are added where a pipeline is written: `pipeline_from`",
    ),
    "nothing for any model": (
        lambda: {"bundle_emb.x": files.draw(1, 4, 4)},
        r"changes nothing in the transformer, .* got parts for: text embedding",
        "`submerge lora info` lists what the file holds",
    ),
    "a model": (
        lambda: factory.tensors(SCHNELL),
        "holds no adapter, expected LoRA, DoRA, LoHa, LoKr or differences, got 108 tensors",
        "a model is named under `models:`, or as an argument of `submerge merge`",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_applied_is_said_with_its_place(tmp_path: Path, case: str) -> None:
    made, message, hint = CASES[case]
    path = files.save(tmp_path / "style.safetensors", made())
    model = factory.save_file(tmp_path / "m.safetensors", KREA)
    with pytest.raises(AdapterError, match=message) as caught:
        submerge.convert(model, tmp_path / "out.safetensors", adapters=[str(path)])
    assert str(path) in str(caught.value)
    assert caught.value.hint == hint
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "m.safetensors",
        "style.safetensors",
    ]


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "VERA"}, "`peft_type` expected one of LORA, LOHA, LOKR"),
    "another kind than the keys": ({"peft_type": "LOHA"}, "is LoRA, expected a loha by"),
    "a rank that is none": ({"r": 0}, "`r` expected to be positive, got 0"),
    "a rank of words": ({"r": "4"}, "`r` expected a finite number"),
    "an infinite alpha": ({"lora_alpha": 1e999}, "`lora_alpha` expected a finite number"),
    "an alpha beyond f64": ({"lora_alpha": 10**400}, "`lora_alpha` expected a finite number"),
    "another rank": ({"r": 8}, "rank 4, expected 8 by"),
    "a rank pattern": ({"rank_pattern": {"to_q": 2}}, "rank 4, expected 2 by"),
    "a rank of 0": ({"rank_pattern": {"to_q": 0}}, "`rank_pattern` expected positive ranks"),
    "a pattern list": ({"alpha_pattern": [1]}, "`alpha_pattern` expected a mapping"),
    "a pattern of words": ({"alpha_pattern": {"to_q": "x"}}, "`to_q` expected a finite number"),
    "a slow pattern": ({"alpha_pattern": {"(a+)+$": 1}}, "is not understood"),
    "a broken pattern": ({"alpha_pattern": {"[z-a]": 1}}, "is no regular expression"),
    "transposed": ({"fan_in_fan_out": True}, "`fan_in_fan_out` is true"),
    "lost magnitudes": ({"use_dora": True}, "`use_dora` is true, expected `lora_magnitude_vector`"),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("beside", [False, True])
def test_configurations_that_contradict_the_file(
    tmp_path: Path, case: str, *, beside: bool
) -> None:
    given, message = CONFIGS[case]
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, **given}
    folder = tmp_path / "adapter"
    metadata = None if beside else {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    if beside:
        factory.write_json(folder / "adapter_config.json", config)
    files.save(folder / "adapter_model.safetensors", pair(), metadata)
    model = factory.save_file(tmp_path / "m.safetensors", KREA)
    infinite = beside and case == "an infinite alpha"
    kind = CheckpointError if infinite else AdapterError
    with pytest.raises(kind, match="cannot be read as JSON" if infinite else message):
        submerge.convert(model, tmp_path / "out.safetensors", adapters=[str(folder)])


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 1, "r": 2}', "[" * 100_000])
def test_metadata_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    metadata = {"format": "pt", "lora_adapter_metadata": text}
    path = files.save(tmp_path / "s.safetensors", pair(), metadata)
    with pytest.raises(AdapterError, match="lora_adapter_metadata: expected a JSON object"):
        open_adapter(path)


def test_an_alpha_and_a_configuration_must_agree(tmp_path: Path) -> None:
    arrays = pair() | {f"{TO_Q}.alpha": scalar(3)}
    model = factory.save_file(tmp_path / "m.safetensors", KREA)
    for alpha in (3, 2):
        metadata = files.peft_metadata(r=4, lora_alpha=alpha)
        path = files.save(tmp_path / "s.safetensors", arrays, metadata)
        if alpha == 3:
            submerge.convert(model, tmp_path / "out.safetensors", adapters=[str(path)])
            continue
        with pytest.raises(AdapterError, match=r"alpha 3, and 2 by .*, expected one"):
            submerge.convert(model, tmp_path / "x.safetensors", adapters=[str(path)])


@pytest.mark.parametrize(
    "allow",
    [
        ["lora_unet_guidance_in_in_layer"],
        ["lora_unet_guidance_in_*"],
        ["lora_unet_guidance_in_in_layer.lora_down.weight", "lora_unet_guidance_in_in_layer.*"],
    ],
)
def test_keys_without_a_place_are_allowed_by_name(tmp_path: Path, allow: list[str]) -> None:
    """A LoRA of dev on schnell, which has no guidance."""
    found = files.pairs(KREA, ["double_blocks.0.img_mlp.0", "guidance_in.in_layer"], layout="bfl")
    path = files.save(tmp_path / "style.safetensors", files.kohya(found, None))
    model = factory.save_file(tmp_path / "m.safetensors", SCHNELL)
    with pytest.raises(AdapterError, match="this model has no guidance embedder"):
        submerge.convert(model, tmp_path / "out.safetensors", adapters=[str(path)])
    source = {"path": str(path), "allow": allow}
    report = submerge.convert(model, tmp_path / "out.safetensors", adapters=[source])
    (left,) = [gone for gone in report.summary["unused"] if gone["model"] == "style"]
    assert left["reason"] == "this model has no guidance embedder"
    assert len(left["tensors"]) == 2


def test_allowing_does_not_excuse_what_is_damaged(tmp_path: Path) -> None:
    path = files.save(tmp_path / "s.safetensors", {f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64)})
    model = factory.save_file(tmp_path / "m.safetensors", KREA)
    with pytest.raises(AdapterError, match="`up` missing"):
        submerge.convert(
            model, tmp_path / "out.safetensors", adapters=[{"path": str(path), "allow": ["*"]}]
        )


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b.safetensors"]])
def test_a_folder_must_hold_one_adapter(tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in names:
        files.save(folder / name, pair())
    with pytest.raises(AdapterError, match="expected one adapter"):
        open_adapter(folder)
    files.save(folder / "pytorch_lora_weights.safetensors", pair())
    assert open_adapter(folder).modules[0].rank == 4


def test_what_needs_a_model_is_not_put_onto_a_result(tmp_path: Path) -> None:
    models = {
        name: str(factory.save_file(tmp_path / f"{name}.safetensors", flux))
        for name, flux in (("schnell", SCHNELL), ("krea", KREA))
    }
    arrays = pair() | {f"{TO_Q}.dora_scale": files.draw(1, 64, 1)}
    norm = {"transformer.transformer_blocks.0.attn.norm_q.weight": files.draw(1, 16)}
    for name, found, what in (
        ("dora", arrays, "sets the lengths of rows"),
        ("norms", pair() | norm, "replaces numbers"),
    ):
        path = files.save(tmp_path / f"{name}.safetensors", found)
        recipe: dict[str, Any] = {"models": models, "adapters": [str(path)]}
        with pytest.raises(AdapterError, match=f"`{name}` {what}") as caught:
            submerge.merge(recipe, tmp_path / "out.safetensors")
        assert caught.value.hint == "add `onto: MODEL`, on the command line `@MODEL`"
        recipe["adapters"] = [{"path": str(path), "onto": "krea"}]
        submerge.merge(recipe, tmp_path / "out.safetensors", overwrite=True)


def test_guidance_that_is_dropped_cannot_be_changed(tmp_path: Path) -> None:
    models = {
        name: str(factory.save_file(tmp_path / f"{name}.safetensors", flux))
        for name, flux in (("schnell", SCHNELL), ("krea", KREA))
    }
    found = files.pairs(KREA, ["guidance_in.in_layer", "img_in"], layout="bfl")
    path = files.save(tmp_path / "style.safetensors", files.kohya(found, None))
    recipe: dict[str, Any] = {"models": models, "adapters": [str(path)], "guidance": "drop"}
    with pytest.raises(AdapterError, match=r"1 unit: `guidance\.in\.weight` that the re") as e:
        submerge.merge(recipe, tmp_path / "out.safetensors")
    assert e.value.hint == "`scale: {guidance: 0, default: 1}` leaves guidance out"
    recipe["adapters"] = [{"path": str(path), "scale": {"guidance": 0, "default": 1}}]
    submerge.merge(recipe, tmp_path / "out.safetensors")
    recipe |= {
        "guidance": {"bake": 3.5},
        "adapters": [{"path": str(path), "onto": "krea"}],
    }
    with pytest.raises(RecipeError, match=r"an adapter changes `guidance\.in\.weight`, which"):
        submerge.merge(recipe, tmp_path / "baked.safetensors")


def test_a_generic_model_has_no_layers_to_put_it_onto(tmp_path: Path) -> None:
    model = factory.save_file(tmp_path / "m.safetensors", KREA)
    path = files.save(tmp_path / "s.safetensors", pair())
    recipe = {"models": {"m": {"path": str(model), "layout": "generic"}}, "adapters": [str(path)]}
    with pytest.raises(AdapterError, match="needs a model whose layers are known"):
        submerge.merge(recipe, tmp_path / "out.safetensors")


@pytest.mark.parametrize("key", ["x" * 600 + ".lora_A.weight", "lora_A", "", "." * 400])
def test_keys_of_strangers_are_taken_apart_at_once(key: str) -> None:
    assert split(key) is None
