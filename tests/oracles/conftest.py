"""Other people's libraries judge what submerge writes: nothing is fetched, nothing is random."""

from __future__ import annotations

import os

# Before diffusers and transformers are imported, which read it once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

# Warnings of ours are errors; those of libraries about each other are not ours to mend.
_THEIRS = ("diffusers", "huggingface_hub", "peft", "torch", "transformers", "tokenizers")


def pytest_configure(config: pytest.Config) -> None:
    for module in _THEIRS:
        config.addinivalue_line("filterwarnings", rf"ignore:::{module}(\..*)?")
    # Raised by SWIG modules and importers without a module of their own.
    config.addinivalue_line("filterwarnings", "ignore:builtin type .* has no __module__")


@pytest.fixture(scope="module", autouse=True)
def _same_sums_every_time() -> None:
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)
