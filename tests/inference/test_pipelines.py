"""The tiny pipelines are what the other tests take them for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_only_schnell_lacks_guidance(pipelines: dict[str, Path]) -> None:
    configs = {
        name: json.loads((path / "transformer" / "config.json").read_text(encoding="utf-8"))
        for name, path in pipelines.items()
    }
    guided = {name: config["guidance_embeds"] for name, config in configs.items()}
    assert guided == {"schnell": False, "krea": True, "merged": True}
