"""Whole pipelines, so small that they paint in a second, through the real diffusers code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import submerge
from factory import KREA, SCHNELL, save_folder
from oracles.conftest import _same_sums_every_time, pytest_configure
from oracles.pipelines import save_pipeline

if TYPE_CHECKING:
    from pathlib import Path

# The surroundings of the oracles: nothing is fetched, sums are the same every time.
__all__ = ["_same_sums_every_time", "pytest_configure"]


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`schnell` (no guidance), `krea` (guidance) and `merged`, half of each."""
    folder = tmp_path_factory.mktemp("pipelines")
    parents = {
        name: save_pipeline(
            folder / name, save_folder(folder / f"{name}-transformer", flux), dynamic=flux.guidance
        )
        for name, flux in (("schnell", SCHNELL), ("krea", KREA))
    }
    submerge.merge(
        {"models": parents, "alpha": 0.5, "output": {"pipeline_from": "krea"}}, folder / "merged"
    )
    return {**parents, "merged": folder / "merged"}
