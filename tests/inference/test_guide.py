"""The examples of the guide run as they stand, but for the size of the images."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from submerge import cli

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs" / "inference.md"
FENCE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_examples_run_in_order(
    pipelines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "merged").symlink_to(pipelines["merged"])
    monkeypatch.chdir(tmp_path)
    ran = 0
    for kind, text in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        body = text.replace("1024", "32")
        if kind == "python":
            exec(compile(body, "example", "exec"), {})  # noqa: S102 - our own page
        else:
            for line in body.splitlines():
                assert cli._run(shlex.split(line.removeprefix("$ submerge "))) == cli.OK
        ran += 1
    assert ran == 5
    assert len(list((tmp_path / "images").glob("*.png"))) == 4
    assert (tmp_path / "merged-fp8.safetensors").is_file()
