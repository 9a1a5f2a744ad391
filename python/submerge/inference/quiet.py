"""Keep the libraries' own bars and hints off standard error; what matters is reported by us."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Show errors of diffusers and transformers only, and none of their progress bars."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    libraries = (diffusers, transformers)
    kept = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in libraries]
    accelerate = logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)
    for module in libraries:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        yield
    finally:
        accelerate.setLevel(level)
        for module, (verbosity, bars) in zip(libraries, kept, strict=True):
            module.set_verbosity(verbosity)
            if bars:
                module.enable_progress_bar()
