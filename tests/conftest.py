"""What all tests share: how long property tests may take. Checkpoints come from `factory`."""

from __future__ import annotations

import hypothesis

# A loaded machine must not fail a property; the number of examples bounds the time instead.
hypothesis.settings.register_profile("submerge", deadline=None, derandomize=True)
hypothesis.settings.load_profile("submerge")
