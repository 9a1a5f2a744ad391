"""Models that the libraries quantised themselves, read and merged: as what they decode to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, Flux
from oracles.quantised_models import FORMS, Written

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array

# The rotation is a product of matrices there and done in steps here: sums round otherwise. Codes of
# 4 bits are decoded there as one product of two scales, or in half precision.
NEARLY = {"rotated int8": 1e-6, "mixed": 1e-6, "bitsandbytes' int8": 2e-3}
OTHER = Flux(guidance=True, seed=5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    folder = tmp_path_factory.mktemp("quantised")
    return {name: make(folder / f"{name}.safetensors", KREA) for name, make in FORMS.items()}


def bits(arrays: dict[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_read_as_its_library_decodes_it(
    form: str, written: dict[str, Written], tmp_path: Path
) -> None:
    made = written[form]
    submerge.convert(made.path, tmp_path / "out.safetensors", dtype="f32")
    found = factory.read(tmp_path / "out.safetensors")
    assert found.keys() == {name.removeprefix("model.diffusion_model.") for name in made.numbers}
    for name, expected in made.numbers.items():
        if form in NEARLY:
            np.testing.assert_allclose(
                found[name], expected, rtol=0, atol=NEARLY[form] * np.abs(expected).max()
            )
        else:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
