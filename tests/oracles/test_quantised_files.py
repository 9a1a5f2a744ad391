"""Models that the libraries quantised themselves, read and merged: as what they decode to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, Flux
from oracles.quantised_models import FORMS, Written, is_quantised, plain

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array

# The rotation is a product of matrices there and goes in steps here, so that sums are rounded
# otherwise; the 8 bits of bitsandbytes are decoded there in half precision.
NEARLY = {"rotated int8": 1e-6, "mixed": 1e-6, "bitsandbytes' int8": 2e-3}
OTHER = Flux(guidance=True, seed=5)
WRITE: dict[str, Any] = {"stats": False, "statistics_cache": "off", "overwrite": True}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    folder = tmp_path_factory.mktemp("quantised")
    return {name: make(folder / f"{name}.safetensors", KREA) for name, make in FORMS.items()}


def decoded(path: Path, out: Path) -> dict[str, Array]:
    submerge.convert(path, out, dtype="f32", **WRITE)
    return {n.removeprefix("model.diffusion_model."): a for n, a in factory.read(out).items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_read_as_its_library_decodes_it(
    form: str, written: dict[str, Written], tmp_path: Path
) -> None:
    found = decoded(written[form].path, tmp_path / "out.safetensors")
    assert found.keys() == written[form].numbers.keys()
    for name, expected in written[form].numbers.items():
        most = NEARLY.get(form, 0.0) * np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=most, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_a_merge_is_that_of_the_numbers_bit_for_bit(
    form: str, written: dict[str, Written], tmp_path: Path
) -> None:
    """With another model in the other layout; of rotated codes as they are decoded here."""
    made = written[form]
    if form in NEARLY:
        out = tmp_path / "decoded.safetensors"
        made = made._replace(numbers=decoded(made.path, out))
    unquantised = plain(tmp_path / "plain", made, KREA)
    other = factory.save_folder(tmp_path / "other", OTHER)
    merged = []
    for path in (made.path, unquantised):
        out = tmp_path / "out.safetensors"
        recipe = {
            "models": {"a": str(path), "b": str(other)},
            "alpha": 0.3,
            "output": {"layout": "diffusers", "dtype": "f32"},
        }
        submerge.merge(recipe, out, **WRITE)
        merged.append({name: array.tobytes() for name, array in factory.read(out).items()})
    assert merged[0] == merged[1]


@pytest.mark.parametrize("form", [form for form in FORMS if "SDNQ" not in form])
def test_what_was_lost_before_is_estimated_well(
    form: str, written: dict[str, Written], tmp_path: Path
) -> None:
    made = written[form]
    report = submerge.merge(
        {
            "models": {
                "a": str(made.path),
                "b": str(factory.save_file(tmp_path / "b.safetensors", OTHER)),
            },
            "alpha": 0.5,
        },
        tmp_path / "out.safetensors",
    )
    original = factory.tensors(KREA, made.layout)
    error2 = norm2 = 0.0
    for name, array in original.items():
        if is_quantised(name, array):
            numbers = made.numbers[name].astype(float)
            error2 += float(((numbers - array.astype(float)) ** 2).sum())
            norm2 += float((numbers**2).sum())
    (found,) = report.inherited
    # Rows of 64 are short: what is exact, the largest of each, is much of a row.
    assert found.relative == pytest.approx((error2 / norm2) ** 0.5, rel=0.15)
