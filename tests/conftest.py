"""What all tests share: how long property tests may take. Checkpoints come from `factory`."""

from __future__ import annotations

import os
import signal

import hypothesis

# A loaded machine must not fail a property; the number of examples bounds the time instead.
hypothesis.settings.register_profile("submerge", deadline=None, derandomize=True)
hypothesis.settings.load_profile("submerge")

# Tests keep no statistics in the home of whoever runs them.
os.environ["SUBMERGE_STATISTICS_CACHE"] = "off"

# A shell that starts the tests in the background has them ignore interrupts, and every process they
# start with them; those that are interrupted here must notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
