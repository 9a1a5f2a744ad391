"""Keys of adapters that are left out by name, wherever adapters are named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

import adapter_files as files
import submerge
from factory import KREA, SCHNELL
from test_lora import QKV, model, run

if TYPE_CHECKING:
    from pathlib import Path

ON_RESULT = [
    ("convert {schnell} --lora {style}", "-o {out}.safetensors"),
    ("merge {schnell} {schnell} --lora {style}", "-o {out}.safetensors"),
    ("lora bake {schnell} {style}", "-o {out}.safetensors"),
    ("lora merge {style} --base {schnell}", "-o {out}.safetensors"),
    ("lora resize {style} --rank 2 --base {schnell}", "-o {out}.safetensors"),
    ("lora convert {style} --to comfy --base {schnell}", "-o {out}.safetensors"),
    ("plan {schnell} {schnell} --lora {style}", "-o {out}.safetensors"),
    ("diff {schnell} {schnell} --lora {style}", ""),
    ("analyze {schnell} {schnell} --lora {style}", ""),
]


@pytest.mark.parametrize(
    ("command", "output"), ON_RESULT, ids=[c.split(" {")[0] for c, _ in ON_RESULT]
)
def test_keys_are_allowed_by_name_on_the_command_line(
    tmp_path: Path, command: str, output: str
) -> None:
    """A LoRA of dev on schnell; what is allowed says nothing of other keys."""
    schnell = model(tmp_path, "schnell", SCHNELL)
    found = files.pairs(KREA, [QKV, "guidance_in.in_layer"], layout="bfl")
    style = files.save(tmp_path / "style.safetensors", files.kohya(found, None))
    text = f"{command} {output}".format(schnell=schnell, style=style, out=tmp_path / "out")
    asked = [*text.split(), "-q"]
    for more in ([], ["--allow", "lora_unet_guidance_in_out_layer"]):
        with pytest.raises(submerge.AdapterError, match="no guidance embedder") as refused:
            run(*asked, *more)
        assert "`--allow` on the command line" in str(refused.value.hint)
        assert not (tmp_path / "out.safetensors").exists()
    run(*asked, "--allow", "lora_unet_guidance_in_in_layer")
    assert (tmp_path / "out.safetensors").exists() == (bool(output) and "plan" not in command)


def test_allowing_without_an_adapter_is_refused(tmp_path: Path) -> None:
    krea = model(tmp_path)
    for command in (["convert", krea], ["merge", krea, krea], ["plan", krea, krea]):
        with pytest.raises(click.UsageError, match="--allow speaks of adapters, expected --lora"):
            run(*command, "-o", tmp_path / "out.safetensors", "--allow", "lora_unet_*")
    assert not (tmp_path / "out.safetensors").exists()
