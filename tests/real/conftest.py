"""Published checkpoints as safetensors files, converted once for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from real.published import FILES, convert, installed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# Small tensors: threads would wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the file of a published model by its name; skip where its package is missing."""
    folder = tmp_path_factory.mktemp("published")

    def found(name: str) -> Path:
        if installed(name) is None:
            pytest.skip(f"{FILES[name][0]} is not installed: `make test-real`")
        return convert(name, folder)

    return found
