"""Adapters handled with care: what is told of them, and what of them is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import KREA, Array, Flux
from submerge import AdapterError, RecipeError, lora
from submerge.analysis import analyze
from submerge.cli import app
from submerge.diff import diff
from submerge.layout import FAMILIES, unit_shapes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASE = Flux(dtype="F32")
TO_Q = "transformer.transformer_blocks.0.attn.to_q"
QKV = "double_blocks.0.img_attn.qkv"
STEM = f"lora_unet_{QKV.replace('.', '_')}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.save_file(tmp_path_factory.mktemp("base") / "base.safetensors", BASE)


def sick(folder: Path) -> str:
    pairs = files.pairs(BASE, ["transformer_blocks.0.attn.to_q"])
    arrays = files.diffusers(pairs)
    arrays[f"{TO_Q}.lora_B.weight"][3, 2] = np.nan
    return str(files.save(folder / "sick.safetensors", arrays))


def test_numbers_that_are_none_are_located_by_every_command(tmp_path: Path, base: Path) -> None:
    path = sick(tmp_path)
    out = tmp_path / "o.safetensors"
    makes: list[Callable[[], object]] = [
        lambda: lora.merge([path], out, base=base),
        lambda: lora.merge([path], out, base=base, method="knots"),
        lambda: lora.resize(path, out, base=base, rank=2),
        lambda: lora.convert(path, out, base=base, form="kohya"),
        lambda: diff(base, base, adapters=[path]),
        lambda: analyze(base, base, adapters=[path]),
    ]
    for make in makes:
        with pytest.raises(AdapterError, match=r"to_q\.lora_B\.weight`: 1 of 256 elements inf"):
            make()
    assert not out.exists()


def test_the_model_stands_last(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = files.diffusers(files.pairs(BASE, ["proj_out"]))
    files.save(tmp_path / "s.safetensors", found)
    monkeypatch.chdir(tmp_path)
    arguments = ["merge", str(base), str(base), "--lora", "s.safetensors@krea=0.5", "-o", "o"]
    with pytest.raises(click.BadParameter, match=r"write `s\.safetensors=0\.5@krea`"):
        app.main(args=arguments, standalone_mode=False)
    files.save(tmp_path / "a@b.safetensors", found)  # a file of that name is that file
    arguments = ["lora", "bake", str(base), "a@b.safetensors=0.5", "-o", "o.safetensors", "-q"]
    app.main(args=arguments, standalone_mode=False)


def test_a_scale_that_is_no_number_has_a_hint(tmp_path: Path, base: Path) -> None:
    source = {"path": str(tmp_path / "s.safetensors"), "scale": float("nan")}
    with pytest.raises(RecipeError, match="expected a finite number") as caught:
        lora.bake(base, [source], tmp_path / "o.safetensors")
    assert caught.value.hint == "write it out: 0.8, say"


@pytest.mark.parametrize(("rank", "told"), [(2, True), (60, False)])
def test_an_energy_out_of_reach_is_told(tmp_path: Path, base: Path, rank: int, told: bool) -> None:  # noqa: FBT001
    tuned = {n: a + files.draw(n, *a.shape) for n, a in factory.tensors(BASE).items()}
    path = factory.write(tmp_path / "tuned.safetensors", tuned)
    made = lora.extract(
        path, base, tmp_path / "o.safetensors", rank={"double[0].img.attn.q": rank, "default": 0},
        energy=0.9,
    )  # fmt: skip
    notes = [note for note in made.notes if "less than the energy asked for" in note]
    assert [note.split(",")[0] for note in notes] == (
        ["1 module: `transformer_blocks.0.attn.to_q`: rank 2"] if told else []
    )


@pytest.mark.parametrize("form", ["peft", "comfy", "kohya"])
def test_whole_norms_go_where_there_is_a_place(tmp_path: Path, base: Path, form: Any) -> None:
    found = files.diffusers(files.pairs(BASE, ["transformer_blocks.0.attn.to_q"]))
    norm = files.draw("n", 16)
    found["transformer.transformer_blocks.0.attn.norm_q.weight"] = norm
    path = files.save(tmp_path / "s.safetensors", found)
    out = tmp_path / "o.safetensors"
    made = lora.convert(path, out, base=base, form=form)
    names = {
        "peft": "transformer.transformer_blocks.0.attn.norm_q.weight",
        # As ComfyUI's own converter of BFL's control LoRAs names it.
        "comfy": "diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale.set_weight",
    }
    if form == "kohya":
        assert len([note for note in made.notes if "1 norm" in note]) == 1
        return
    np.testing.assert_array_equal(factory.read(out)[names[form]], norm)
    for source, name in ((path, "a"), (out, "b")):
        lora.bake(base, [str(source)], tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size > 0
    one, other = (factory.read(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(array.tobytes() == other[key].tobytes() for key, array in one.items())


def test_block_diagonal_factors_are_split_into_their_own(tmp_path: Path, base: Path) -> None:
    names = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    arrays = files.kohya(files.pairs(BASE, names, 4), alpha=3.0)
    split = files.save(tmp_path / "split.safetensors", arrays)
    fused, again = tmp_path / "fused.safetensors", tmp_path / "again.safetensors"
    lora.convert(split, fused, base=base, form="kohya")
    assert factory.read(fused)[f"lora_unet_{QKV.replace('.', '_')}.lora_down.weight"].shape[0] == 12
    made = lora.convert(fused, again, base=base, form="peft")
    assert {module.ranks for module in made.modules} == {(4,)}
    found = factory.read(again)
    for name in names:
        stem = f"lora_unet_{name.replace('.', '_')}"
        for side, was in (("A", "down"), ("B", "up")):
            got = found[f"transformer.{name}.lora_{side}.weight"]
            assert got.tobytes() == arrays[f"{stem}.lora_{was}.weight"].tobytes()
    for path in (split, fused, again):
        lora.bake(base, [str(path)], tmp_path / f"baked-{path.name}")
    baked = [factory.read(tmp_path / f"baked-{p.name}") for p in (split, fused, again)]
    for name, array in baked[0].items():
        assert all(array.tobytes() == other[name].tobytes() for other in baked[1:]), name
    # What is not block-diagonal shares its `down`.
    pairs = files.pairs(BASE, [QKV], 12, layout="bfl")
    dense = files.save(tmp_path / "dense.safetensors", files.kohya(pairs, 3.0))
    made = lora.convert(dense, again, base=base, form="peft", overwrite=True)
    assert {module.ranks for module in made.modules} == {(12,)}


def full(folder: Path, extra: dict[str, Array] | None = None, value: float = 0.0) -> Path:
    module = "single_blocks.7.modulation.lin"
    up, down = files.draw("u", 9216, 2), files.draw("d", 2, 3072)
    up[0, 0] += value
    arrays = files.kohya({module: (up, down)}, 1.0) | (extra or {})
    return files.save(folder / "full.safetensors", arrays)


def test_verify_looks_at_adapters(tmp_path: Path) -> None:
    found = submerge.verify(full(tmp_path))
    assert found.passed
    assert [check.name for check in found.checks] == ["structure", "places", "finite"]
    assert "24,576 elements, all finite" in found.text()
    found = submerge.verify(full(tmp_path, value=np.inf))
    assert [check.passed for check in found.checks] == [True, True, False]
    lost = {f"lora_unet_x.lora_{s}.weight": files.draw(s, 2, 2) for s in ("down", "up")}
    found = submerge.verify(full(tmp_path, lost))
    assert [check.passed for check in found.checks] == [True, False, True]
    small = files.save(
        tmp_path / "small.safetensors", files.diffusers(files.pairs(KREA, ["proj_out"]))
    )
    found = submerge.verify(small)
    assert not found.passed
    assert "does not fit FLUX.1 [dev]" in found.text()
    assert "lora info FILE --base MODEL" in found.text()


def test_what_was_made_is_a_document(tmp_path: Path, base: Path) -> None:
    path = files.save(tmp_path / "s.safetensors", files.diffusers(files.pairs(BASE, ["proj_out"])))
    made = lora.resize(path, tmp_path / "o.safetensors", base=base, rank=2)
    document = json.loads(made.to_json())
    assert document["format"] == "submerge-making/1"
    read = submerge.documents.read(submerge.documents.MakingDocument, document)
    assert read["modules"][0]["rank"] == 2


def test_lengths_at_full_size_are_those_of_dense_products(tmp_path: Path) -> None:
    """Of two products on one unit as of one: cross terms count."""
    arch = FAMILIES["flux1"].published
    assert arch is not None
    names = ["double_blocks.3.img_attn.qkv", "single_blocks.5.linear2"]
    rows = {"double_blocks.3.img_attn.qkv": (9216, 3072), "single_blocks.5.linear2": (3072, 15360)}
    arrays: dict[str, Array] = {}
    wanted: dict[str, float] = {}
    for name in names:
        m, n = rows[name]
        up, down = files.draw(f"u{name}", m, 6), files.draw(f"d{name}", 6, n)
        arrays |= files.kohya({name: (up, down)}, alpha=3.0)
        parts = np.split(up, 3) if m == 9216 else [up]
        for key, part in zip("qkv" if m == 9216 else "o", parts, strict=True):
            inner = (files.wide(part).T @ files.wide(part)) * (
                files.wide(down) @ files.wide(down).T
            )
            wanted[f"{name}{key}"] = 0.5 * float(np.sqrt(inner.sum()))
    info = lora.info(files.save(tmp_path / "s.safetensors", arrays))
    assert "double + 38 single blocks, width 3,072" in info.model
    found = {f"{row.block} {row.part}": row.norm for row in info.rows}
    expected = dict(
        zip(["double.3 attn.q", "double.3 attn.k", "double.3 attn.v", "single.5 out"],
            wanted.values(), strict=True)
    )  # fmt: skip
    assert set(found) == set(expected)
    for key, norm in expected.items():
        assert found[key] == pytest.approx(norm, rel=1e-6)
    assert len(unit_shapes(arch)) > 100


REFUSED: dict[str, tuple[Callable[[], dict[str, Array]], str, str]] = {
    "BOFT": (
        lambda: {f"{STEM}.boft_R.default": files.draw(1, 1, 4, 4, 4)},
        "OFT and BOFT turn the weight by a matrix of which the file does not say how it is made",
        "fuse it into its model with the program that made it",
    ),
    "a Tucker core of LoHa": (
        lambda: {f"{STEM}.hada_t1": files.draw(1, 4, 4, 1, 1)},
        "a Tucker core of a convolution",
        "fuse it into its model with the program that made it",
    ),
    "GLoRA of peft": (
        lambda: {f"{TO_Q}.glora_A.weight": files.draw(1, 4, 64)},
        "peft's GLoRA changes weights and biases by five factors of its own",
        "fuse it into its model with the program that made it",
    ),
    "IA3": (
        lambda: {f"{TO_Q}.ia3_l": files.draw(1, 64, 1)},
        "IA3 rescales activations, expected what is added to a weight",
        "fuse it into its model with the program that made it",
    ),
    "a control LoRA of a wider model": (
        lambda: {
            "img_in.lora_A.weight": files.draw("down", 4, 128),
            "img_in.lora_B.weight": files.draw("up", 64, 4),
        },
        r"img_in\.lora_A\.weight`: expected \[4, 64\], got \[4, 128\]",
        "the adapter was made for a model of other sizes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kinds_that_are_not_read_are_refused_by_name(tmp_path: Path, base: Path, case: str) -> None:
    made, message, hint = REFUSED[case]
    path = files.save(tmp_path / "s.safetensors", made())
    with pytest.raises(AdapterError, match=message) as caught:
        lora.bake(base, [str(path)], tmp_path / "o.safetensors")
    assert caught.value.hint == hint
