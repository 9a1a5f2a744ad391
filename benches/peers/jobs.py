"""What is run: each job a whole process that reads the pair and writes one output."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Job", "Pair", "own_jobs", "rival_jobs", "submerge_command"]

_SHARES = (3, 7)
# Transparent huge pages for malloc: halves torch's time on machines where they are not the default.
_HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_MERGEKIT = """merge_method: linear
dtype: float32
out_dtype: bfloat16
models:
  - {{model: "{a}", parameters: {{weight: 0.3}}}}
  - {{model: "{b}", parameters: {{weight: 0.7}}}}
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models, each as one BFL file and as a folder of diffusers shards."""

    folder: Path

    def bfl(self) -> tuple[Path, Path]:
        """The two files."""
        return self.folder / "schnell.bfl.safetensors", self.folder / "krea.bfl.safetensors"

    def diffusers(self) -> tuple[Path, Path]:
        """The two folders."""
        return self.folder / "schnell" / "transformer", self.folder / "krea" / "transformer"


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to measure.

    Attributes:
        name: what it is called in the results.
        label: what it is called in the table.
        command: the process.
        inputs: what it reads, first and second model.
        output: what it writes.
        oracle: the two models, in the output's layout, that the output is checked against.
        shares: of the two in the output.
        floor: the job whose time it is compared with.
        rival: whether it is other people's work.
        cold: whether it is worth measuring with an empty page cache too.
    """

    name: str
    label: str
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    output: Path
    oracle: tuple[Path, Path]
    shares: tuple[int, int] = _SHARES
    floor: str = "floor"
    rival: bool = False
    cold: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def submerge_command() -> tuple[str, ...]:
    """Return the command line of the submerge in this environment."""
    installed = Path(sys.executable).with_name("submerge")
    return (str(installed),) if installed.exists() else (sys.executable, "-m", "submerge")


def own_jobs(pair: Pair, out: Path) -> list[Job]:
    """Return the floors and submerge's jobs."""
    a, b = pair.bfl()
    folders = pair.diffusers()
    submerge, file, folder = submerge_command(), out / "own.safetensors", out / "own"
    floor = f"cat {shlex.quote(str(a))} >/dev/null && cp {shlex.quote(str(b))} "
    merge = (*submerge, "merge", "--quiet", "--alpha", "0.7")
    copied, whole = (b, b), (0, 1)
    return [
        Job(
            "floor",
            "`cat A >/dev/null; cp B OUT`: read both, write one",
            ("sh", "-c", floor + shlex.quote(str(out / "floor.safetensors"))),
            (a, b),
            out / "floor.safetensors",
            copied,
            whole,
            cold=True,
        ),
        Job(
            "submerge",
            "**submerge merge**, two files to one file",
            (*merge, str(a), str(b), "-o", str(file)),
            (a, b),
            file,
            (a, b),
            cold=True,
        ),
        Job(
            "submerge keep",
            "the same, `--cache keep`",
            (*merge, str(a), str(b), "--cache", "keep", "-o", str(file)),
            (a, b),
            file,
            (a, b),
        ),
        Job(
            "submerge folders",
            "submerge merge, two sharded diffusers folders to one",
            (*merge, *map(str, folders), "-o", str(folder)),
            folders,
            folder,
            folders,
            cold=True,
        ),
        Job(
            "copy",
            "`cp B OUT`",
            ("cp", str(b), str(out / "copy.safetensors")),
            (b,),
            out / "copy.safetensors",
            copied,
            whole,
            floor="copy",
            cold=True,
        ),
        Job(
            "convert",
            "**submerge convert**, BFL file to diffusers folder",
            (*submerge, "convert", "--quiet", str(b), "--layout", "diffusers", "-o", str(folder)),
            (b,),
            folder,
            (folders[1], folders[1]),
            whole,
            floor="copy",
            cold=True,
        ),
    ]


def rival_jobs(pair: Pair, out: Path, python: Path) -> list[Job]:
    """Return other people's merges, on the files each of them reads best."""
    a, b = pair.bfl()
    scripts, output = Path(__file__).with_name("rivals"), out / "rival.safetensors"
    torch = (str(python), str(scripts / "plain_torch.py"))
    config = out / "mergekit.yaml"
    config.write_text(_MERGEKIT.format(a=a, b=b), encoding="utf-8")
    mergekit = (str(python.with_name("mergekit-pytorch")), str(config), str(out / "rival"))

    def job(name: str, label: str, command: tuple[str, ...], **more: object) -> Job:
        plain: dict[str, object] = {"output": output, "oracle": (a, b), "rival": True}
        return Job(name, label, command, (a, b), **{**plain, **more})  # type: ignore[arg-type]

    fp32 = (*torch, "fp32", str(a), str(b), str(output))
    return [
        job("torch fp32", "torch, float32 per tensor", fp32),
        job(
            "torch fp32 huge",
            "the same, `glibc.malloc.hugetlb=1`",
            fp32,
            environment=_HUGE,
            cold=True,
        ),
        job(
            "torch mean",
            "torch, `(a + b) / 2` in bf16 (0.5/0.5)",
            (*torch, "mean", str(a), str(b), str(output)),
            shares=(1, 1),
        ),
        job(
            "mergekit",
            "mergekit, linear, `--lazy-unpickle -u`",
            (*mergekit, "--lazy-unpickle", "-u", "--quiet"),
            output=out / "rival",
        ),
        job(
            "sd-mecha",
            "sd-mecha, weighted_sum",
            (str(python), str(scripts / "sdmecha.py"), str(a), str(b), str(output)),
        ),
    ]
