"""The bytes of an output follow from the recipe and the numbers alone.

Not from how the inputs are laid out, sharded or stored, nor from how the job runs. Inputs hold any
bit pattern: NaNs with payloads, infinities, subnormals, both zeros.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factory
import oracle
import submerge
from factory import FLOATS, Flux
from submerge import _core

if TYPE_CHECKING:
    from pathlib import Path

ISAS: list[str] = json.loads(_core.build_info())["isas"]
# Units of more than one cell of the reduction grid (65,536 elements), and sizes that are not round.
SCHNELL = Flux(1, 1, 192, 16, context=47, pooled=33)
KREA = replace(SCHNELL, guidance=True)
FLUXES = {"schnell": SCHNELL, "krea": KREA, "other": KREA}
FORMS = ("diffusers", "bfl", "comfy", "prefixed", "folder", "sharded", "pipeline")


@dataclass(frozen=True)
class Meaning:
    """What decides the output: the dtypes of the two inputs, and the recipe."""

    schnell: str
    krea: str
    out: str
    alpha: Any
    layout: str = "bfl"
    overflow: str = "saturate"
    guidance: Any = "keep"


MEANINGS = (
    Meaning("BF16", "BF16", "bf16", 0.3),
    Meaning("BF16", "F32", "f16", {"from": 0.25, "to": 1.25}, "diffusers"),
    Meaning("F16", "F8_E4M3", "f8_e5m2", {"double": 0.1, "default": 1 / 3}, "comfy", "nan"),
    Meaning("F8_E5M2", "BF16", "f8_e4m3", 0.7, "bfl", "nan", "drop"),
    Meaning("F32", "F16", "f8_e4m3", 0.5, "diffusers", "saturate", "scale"),
    Meaning("F32", "F8_E5M2", "f32", 0.9, "bfl", "saturate", {"bake": 3.5}),
)


def numbers(model: str, dtype: str) -> oracle.Arrays:
    """Every tensor of a model in the diffusers layout, full of hard numbers."""
    shapes = factory.diffusers_shapes(FLUXES[model])
    return {
        name: oracle.hard_numbers(
            dtype, int(np.prod(shape)), zlib.crc32(f"{model}/{name}".encode())
        ).reshape(shape)
        for name, shape in shapes.items()
    }


def tame(arrays: oracle.Arrays) -> oracle.Arrays:
    """Only finite numbers of moderate size: for a guidance MLP, whose sums would be NaN."""
    found = dict(arrays)
    for name in arrays:
        if "guidance" in name:
            values = oracle.decoded(arrays[name])
            values = np.where(np.isfinite(values), np.clip(values, -2, 2), 0.5)
            found[name] = values.astype(arrays[name].dtype)
    return found


class Shelf:
    """Models on disk, each in every form, written when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def model(self, name: str, dtype: str, form: str) -> Path:
        """A model under its own name, in a folder that tells its form."""
        folder = self.root / f"{dtype}-{form}"
        single = form in ("diffusers", "bfl", "comfy", "prefixed")
        path = folder / (f"{name}.safetensors" if single else name)
        if not path.exists():
            self._write(path, FLUXES[name], tame(numbers(name, dtype)), form)
        return path

    @staticmethod
    def _write(path: Path, flux: Flux, arrays: oracle.Arrays, form: str) -> None:
        if form in ("folder", "sharded", "pipeline"):
            shards = {"folder": 1, "sharded": 3, "pipeline": 2}[form]
            inside = path / "transformer" if form == "pipeline" else path
            factory.save_folder(inside, flux, shards, arrays)
            if form == "pipeline":
                factory.write_json(path / "model_index.json", {"_class_name": "FluxPipeline"})
            return
        layout = "diffusers" if form == "diffusers" else "bfl"
        prefix = {"comfy": "model.diffusion_model.", "prefixed": "transformer."}.get(form, "")
        factory.write(path, oracle.from_diffusers(arrays, flux, layout, prefix))

    def output(self) -> Path:
        """A path that is free, in a folder of its own, with the name every output has."""
        self.count += 1
        folder = self.root / "out" / str(self.count)
        folder.mkdir(parents=True)
        return folder / "merged.safetensors"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def recipe(meaning: Meaning, paths: dict[str, Path]) -> dict[str, Any]:
    output = {"layout": meaning.layout, "dtype": meaning.out, "overflow": meaning.overflow}
    return {
        "models": {name: str(path) for name, path in paths.items()},
        "alpha": meaning.alpha,
        "guidance": meaning.guidance,
        "output": output,
    }


def merged(shelf: Shelf, meaning: Meaning, forms: tuple[str, str], **run: Any) -> tuple[str, Any]:
    """SHA-256 of the output and the report's figures; the output is removed again."""
    paths = {
        "schnell": shelf.model("schnell", meaning.schnell, forms[0]),
        "krea": shelf.model("krea", meaning.krea, forms[1]),
    }
    out = shelf.output()
    report = submerge.merge(recipe(meaning, paths), out, **run)
    found = oracle.digest(out)
    shutil.rmtree(out.parent)
    return found, report.rows


REFERENCE: dict[str, tuple[str, Any]] = {}


def reference(shelf: Shelf, meaning: Meaning) -> tuple[str, Any]:
    """The output of the plainest way to run: one thread, no vectors, read as the file lies."""
    if repr(meaning) not in REFERENCE:
        REFERENCE[repr(meaning)] = merged(
            shelf, meaning, ("diffusers", "diffusers"), threads=1, isa="scalar", io="pread"
        )
    return REFERENCE[repr(meaning)]


WAYS = st.fixed_dictionaries(
    {
        "threads": st.integers(1, 8),
        "chunk": st.sampled_from([1, 4096, 1 << 17, 1 << 20, 3_000_000]),
        "memory_budget": st.sampled_from(["2MB", "8MiB", "64MiB", "1GiB"]),
        "io": st.sampled_from(["auto", "mmap", "pread"]),
        "cache": st.sampled_from(["drop", "keep"]),
        "isa": st.sampled_from(["auto", *ISAS]),
        "stats": st.booleans(),
    }
)


@settings(max_examples=90)
@given(
    meaning=st.sampled_from(MEANINGS),
    forms=st.tuples(st.sampled_from(FORMS), st.sampled_from(FORMS)),
    way=WAYS,
)
def test_one_recipe_has_one_output(
    shelf: Shelf, meaning: Meaning, forms: tuple[str, str], way: dict[str, Any]
) -> None:
    digest, rows = reference(shelf, meaning)
    found, figures = merged(shelf, meaning, forms, **way)
    assert found == digest
    if way["stats"]:
        assert figures == rows


@pytest.mark.parametrize("meaning", MEANINGS, ids=lambda m: f"{m.schnell}-{m.krea}-{m.out}")
def test_that_output_is_the_formula(shelf: Shelf, meaning: Meaning) -> None:
    if isinstance(meaning.alpha, dict) or meaning.guidance != "keep":
        meaning = replace(meaning, alpha=0.3, guidance="keep")
    paths = {"schnell": shelf.model("schnell", meaning.schnell, "bfl")}
    paths["krea"] = shelf.model("krea", meaning.krea, "sharded")
    out = shelf.output()
    submerge.merge(recipe(meaning, paths), out)
    parents = {name: tame(numbers(name, getattr(meaning, name))) for name in paths}
    weights = oracle.alpha(meaning.alpha)
    expected = oracle.merged(parents, lambda _: weights, meaning.out.upper(), meaning.overflow)
    form = {"comfy": ("bfl", "model.diffusion_model.")}.get(meaning.layout, (meaning.layout, ""))
    assert oracle.differing(oracle.read(out), oracle.from_diffusers(expected, KREA, *form)) == []


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_instruction_set_gives_every_output(shelf: Shelf, isa: str, threads: int) -> None:
    for meaning in MEANINGS:
        found, rows = merged(shelf, meaning, ("bfl", "folder"), isa=isa, threads=threads)
        assert (found, rows) == reference(shelf, meaning)


def test_place_and_time_of_the_inputs_do_not_matter(shelf: Shelf, tmp_path: Path) -> None:
    meaning = MEANINGS[0]
    paths = {name: shelf.model(name, "BF16", "bfl") for name in ("schnell", "krea")}
    for at, name in enumerate(paths):
        copy = tmp_path / f"elsewhere {at}" / f"{name}.safetensors"
        copy.parent.mkdir()
        shutil.copyfile(paths[name], copy)
        os.utime(copy, (1e9 + at, 1e9 + at))
        paths[name] = copy
    for i in range(2):  # and a second run is no different from the first
        out = tmp_path / f"{i}" / "merged.safetensors"
        out.parent.mkdir()
        submerge.merge(recipe(meaning, paths), out)
        assert oracle.digest(out) == reference(shelf, meaning)[0]


@pytest.mark.parametrize("threads", [1, 5])
def test_a_folder_is_the_same_down_to_its_last_file(
    shelf: Shelf, tmp_path: Path, threads: int
) -> None:
    found = []
    for forms in (("bfl", "pipeline"), ("sharded", "comfy")):
        paths = {
            name: shelf.model(name, "BF16", form)
            for name, form in zip(("schnell", "krea"), forms, strict=True)
        }
        made = recipe(MEANINGS[0], paths)
        made["output"] = {"layout": "diffusers", "shard_size": 1_000_000}
        out = tmp_path / "-".join(forms) / "merged"
        out.parent.mkdir()
        submerge.merge(made, out, threads=threads)
        found.append({path.name: oracle.digest(path) for path in sorted(out.iterdir())})
    assert len(found[0]) > 5
    assert found[0] == found[1]


@pytest.mark.parametrize("layout", ["diffusers", "bfl", "comfy"])
@pytest.mark.parametrize("dtype", ["same", "f8_e4m3", "f32"])
def test_merging_and_converting_commute(
    shelf: Shelf, tmp_path: Path, layout: str, dtype: str
) -> None:
    paths = {"schnell": shelf.model("schnell", "BF16", "bfl")}
    paths["krea"] = shelf.model("krea", "BF16", "sharded")
    plain = {"models": {name: str(path) for name, path in paths.items()}, "alpha": 0.3}
    submerge.merge(plain | {"output": {"dtype": dtype}}, tmp_path / "merged.safetensors")
    submerge.convert(tmp_path / "merged.safetensors", tmp_path / "one.safetensors", layout=layout)
    for name, path in paths.items():
        submerge.convert(path, tmp_path / f"{name}.safetensors", layout=layout)
        plain["models"][name] = str(tmp_path / f"{name}.safetensors")  # type: ignore[index]
    submerge.merge(plain | {"output": {"dtype": dtype}}, tmp_path / "other.safetensors")
    assert oracle.data(tmp_path / "one.safetensors") == oracle.data(tmp_path / "other.safetensors")


@pytest.mark.parametrize("dtype", FLOATS)
def test_whole_shares_return_the_parents_bytes(shelf: Shelf, tmp_path: Path, dtype: str) -> None:
    for share, name in ((0, "other"), (1, "krea")):
        paths = {n: str(shelf.model(n, dtype, "folder")) for n in ("other", "krea")}
        out = tmp_path / f"{share}.safetensors"
        submerge.merge({"models": paths, "alpha": share}, out)
        assert oracle.differing(oracle.read(out), tame(numbers(name, dtype))) == []


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_the_dtype_that_holds_a_number_does_not_matter(
    shelf: Shelf, tmp_path: Path, dtype: str
) -> None:
    krea = str(shelf.model("krea", "BF16", "bfl"))
    narrow = shelf.model("schnell", dtype, "bfl")
    wide = tmp_path / "schnell.safetensors"
    factory.write(wide, {n: oracle.decoded(array) for n, array in oracle.read(narrow).items()})
    found = []
    for i, path in enumerate((narrow, wide)):
        out = tmp_path / f"{i}.safetensors"
        models = {"schnell": str(path), "krea": krea}
        submerge.merge({"models": models, "alpha": 0.3, "output": {"dtype": "f16"}}, out)
        found.append(oracle.data(out))
    assert found[0] == found[1]


@settings(max_examples=10)
@given(order=st.permutations(["schnell", "krea", "other"]), weights=st.permutations([1, 2, 4]))
def test_the_order_of_models_does_not_matter_to_named_weights(
    shelf: Shelf, order: list[str], weights: list[int]
) -> None:
    weight = dict(zip(("schnell", "krea", "other"), weights, strict=True))
    found = set()
    for names in (order, sorted(order)):
        models = {name: str(shelf.model(name, "BF16", "bfl")) for name in names}
        out = shelf.output()
        submerge.merge({"models": models, "weight": weight, "output": {"layout": "bfl"}}, out)
        found.add(oracle.data(out))
        shutil.rmtree(out.parent)
    assert len(found) == 1


@settings(max_examples=10)
@given(data=st.data())
def test_the_order_of_keys_changes_no_byte(shelf: Shelf, data: st.DataObject) -> None:
    models = {name: str(shelf.model(name, "BF16", "bfl")) for name in ("schnell", "krea", "other")}
    plain = {
        "weight": {"schnell": 1, "krea": 2, "other": 0.5},
        "rules": [{"where": "double", "weight": {"krea": 1, "schnell": 3}}],
        "output": {"layout": "diffusers", "dtype": "f16", "title": "x"},
        "guidance": "scale",
        "seed": 3,
    }

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = data.draw(st.permutations(list(value)))
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    found = set()
    for made in (plain, shuffled(plain)):
        out = shelf.output()
        submerge.merge({"models": models, **made}, out)
        found.add(oracle.digest(out))
        shutil.rmtree(out.parent)
    assert len(found) == 1
