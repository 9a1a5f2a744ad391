"""Where each part of a pipeline lives so that painting stays within a memory budget.

Pure: sizes in, plan out; nothing is loaded and torch is not imported. Painting has three phases,
encoding the texts, denoising and decoding, and only what a phase needs must be in memory in it.
The plan is the first of its candidates that fits; each costs more time than the one before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.errors import PlanError
from submerge.inference.activations import TILE, Work, activations
from submerge.inference.quantized import PACKED, QUANTIZATIONS, scratch
from submerge.inference.sizes import CODED, Sizes, Stored
from submerge.plan.sizes import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Candidate", "LoadPlan", "Machine", "Sizes", "Stored", "Work", "plan_load"]

PHASES = ("text", "denoise", "decode")
POOLS = ("vram", "ram")

_GIB = 1 << 30
# What a GPU's runtime takes for itself.
_CONTEXT = int(0.6 * _GIB)

Placement = Literal["resident", "once", "host", "blocks", "layers", "disk"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where painting happens and what it may take.

    Attributes:
        device: the device, as torch writes it: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`.
        vram: bytes of the device's memory that may be used; None is no limit. Nothing where the
            device shares the main memory (CPU, MPS): there `ram` is the limit.
        ram: bytes of main memory the process may take, its libraries included; None is no limit.
        base: bytes of main memory the process takes before any weight is loaded: torch, diffusers
            and transformers, 414 MB with a CPU build of torch 2.13 and 755 MB with a CUDA build of
            torch 2.15.
    """

    device: str = "cpu"
    vram: int | None = None
    ram: int | None = None
    base: int = 800_000_000

    @property
    def shares_memory(self) -> bool:
        """Whether the device computes in main memory."""
        return self.kind in ("cpu", "mps")

    @property
    def kind(self) -> str:
        """The device without its number: `cuda`."""
        return self.device.partition(":")[0]


class Candidate(NamedTuple):
    """One way to place the parts.

    Attributes:
        name: what it is called.
        placement: part -> where it lives: `resident` on the device; read `once` for its phase and
            dropped; on the `host` and moved in for its phase; streamed from the host by `blocks`
            or `layers`; streamed from `disk` layer by layer.
        tiles: whether the VAE decodes in tiles.
        quantization: what the transformer's layers are rounded to, None as they are.
        kept: how many of the transformer's blocks stay on the device though the rest is on disk.
        needs: phase -> pool -> bytes.
        coded: whether the transformer's layers stay in the codes of its files.
    """

    name: str
    placement: Mapping[str, Placement]
    tiles: bool
    quantization: str | None
    kept: int
    needs: Mapping[str, Mapping[str, int]]
    coded: bool = False

    @property
    def peak(self) -> dict[str, int]:
        """Pool -> the most bytes of any phase."""
        return {pool: max(need[pool] for need in self.needs.values()) for pool in POOLS}

    @property
    def words(self) -> str:
        """The candidate with its modifiers: `text first, int8 layers, tiled VAE`."""
        more = ["layers in the file's codes"] if self.coded else []
        more += [f"{self.quantization} layers"] if self.quantization else []
        more += ["tiled VAE"] * self.tiles
        more += [f"{self.kept} blocks kept in memory"] if self.kept else []
        return ", ".join([_TITLES[self.name], *more])


_TITLES = {
    "resident": "everything resident",
    "text-first": "text encoders first, then dropped",
    "time-share": "one part at a time on the device",
    "blocks": "transformer streamed block by block from main memory",
    "layers": "transformer streamed layer by layer from main memory",
    "disk": "transformer and text encoders streamed layer by layer from their files",
}
_NOT_INSTALLED = "the package gguf is not installed, see `submerge[gguf]`"
_PLACEMENTS: dict[str, tuple[Placement, Placement, Placement]] = {
    "resident": ("resident", "resident", "resident"),
    "text-first": ("once", "resident", "resident"),
    "time-share": ("host", "host", "host"),
    "blocks": ("layers", "blocks", "resident"),
    "layers": ("layers", "layers", "resident"),
    "disk": ("disk", "disk", "resident"),
}


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a pipeline is loaded, and why.

    Attributes:
        machine: the device and the budget.
        work: what the plan was made for.
        sizes: what it was made from.
        chosen: the way to place them.
        rejected: the ways tried before it, each with the reason.
        dtype: the dtype computed in, as torch writes it.
    """

    machine: Machine
    work: Work
    sizes: Sizes
    chosen: Candidate
    rejected: tuple[tuple[Candidate, str], ...]
    dtype: str = "bfloat16"

    @property
    def package(self) -> str | None:
        """What must be installed to compute from the transformer's weights."""
        return self.sizes.stored(_form(self.chosen)).package

    def with_dtype(self, dtype: str) -> LoadPlan:
        """Return the plan with the name of the dtype it was sized for."""
        return replace(self, dtype=dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, ready for JSON; sizes in bytes."""
        return {
            "machine": asdict(self.machine),
            "work": asdict(self.work),
            "sizes": asdict(self.sizes),
            "dtype": self.dtype,
            "chosen": _plain(self.chosen),
            "rejected": [{**_plain(candidate), "why": why} for candidate, why in self.rejected],
        }

    def describe(self) -> str:
        """Return the plan in words: what was chosen, bytes by phase, and what was not and why."""
        work, machine = self.work, self.machine
        limits = [f"{p} {bytes_in_words(n)}" for p in POOLS if (n := getattr(machine, p))]
        lines = [
            f"device:    {machine.device}, {self.dtype}, within {', '.join(limits) or 'no limit'}",
            (
                f"for:       {work.width} x {work.height} pixels, {work.batch} at a time, "
                f"{work.tokens} text tokens"
            ),
            f"chosen:    {self.chosen.words}",
        ]
        lines += [f"  {part + ':':<14} {place}" for part, place in self.chosen.placement.items()]
        lines += [
            f"  {phase + ':':<14} {_bytes(need)}" for phase, need in self.chosen.needs.items()
        ]
        lines += [f"rejected:  {candidate.words}: {why}" for candidate, why in self.rejected]
        return "\n".join(lines)


def plan_load(
    sizes: Sizes,
    machine: Machine,
    work: Work,
    *,
    quantization: str | None = None,
    packages: bool = True,
) -> LoadPlan:
    """Return the first candidate that fits the machine.

    Args:
        sizes: bytes of the parts.
        machine: the device and the budget.
        work: what is painted at a time.
        quantization: `fp8`, `int8` or `int4` stores the transformer's layers so unless they are
            streamed from their files; `auto` the first of them that saves streaming; None never.
        packages: whether what packs layers is installed; without it `auto` passes over them, and
            so do layers that are packed in the files.

    Raises:
        PlanError: nothing fits; the message names the smallest budget that would.
    """
    rejected: list[tuple[Candidate, str]] = []
    for candidate in _candidates(sizes, machine, work, quantization, packages=packages):
        filled = _fill(candidate, sizes, machine)
        why = _too_much(filled, machine)
        left_to_us = candidate.coded or quantization == "auto"
        if left_to_us and not packages and sizes.stored(_form(candidate)).package:
            why = _NOT_INSTALLED
        if why is None:
            return LoadPlan(machine, work, sizes, filled, tuple(rejected))
        rejected.append((filled, why))
    raise PlanError(
        f"memory_budget: {rejected[-1][1]} at the least, and nothing needs less",
        hint=f"the smallest budget that would do: {_least(rejected, machine)}",
    )


def _candidates(
    sizes: Sizes,
    machine: Machine,
    work: Work,
    quantization: str | None,
    *,
    packages: bool = True,
) -> Iterator[Candidate]:
    """Yield the candidates from the fastest to the smallest."""
    one_pool = machine.shares_memory
    in_memory = ["resident", "text-first"] if one_pool else ["resident", "text-first", "time-share"]
    own = _own(sizes, packages=packages)
    kinds: Sequence[str | None] = own if quantization is None else (quantization,)
    if quantization == "auto":
        kinds = (*own, *QUANTIZATIONS)
    tiled = (False, True) if max(work.width, work.height) > TILE else (False,)
    for kind in kinds:
        for tiles in tiled:
            for name in in_memory:
                yield _candidate(name, sizes, machine, work, (tiles, kind))
    # Casts happen in hooks that streaming has hooks of its own for.
    packed = [kind for kind in kinds if kind in PACKED]
    streamed = [*own, *packed] if quantization == "auto" else [*packed, *own]
    for kind in [] if one_pool else streamed:
        for name in ("blocks", "layers"):
            for tiles in tiled:
                yield _candidate(name, sizes, machine, work, (tiles, kind))
    for tiles in tiled:
        # What is streamed from the files becomes numbers when it is read.
        yield _candidate("disk", sizes, machine, work, (tiles, None))


def _own(sizes: Sizes, *, packages: bool) -> tuple[str | None, ...]:
    """Return the forms that change no weight: the codes of the files where layers can stay so."""
    if sizes.coded is None:
        return (None,)
    missing = sizes.coded.package is not None and not packages
    return (CODED, None) if missing else (CODED,)


def _candidate(
    name: str, sizes: Sizes, machine: Machine, work: Work, flags: tuple[bool, str | None]
) -> Candidate:
    tiles, kind = flags
    placement = dict(zip(("text", "transformer", "vae"), _PLACEMENTS[name], strict=True))
    stored = sizes.stored(kind)
    weights = {"text": sizes.text, "transformer": stored.total, "vae": sizes.vae}
    # What is never on the device as a whole: two pieces, one computed with and one on its way
    # in or out.
    others = stored.total - sum(stored.blocks)
    streamed = {
        ("text", "layers"): 2 * sizes.text_layer,
        ("text", "disk"): 2 * sizes.text_layer,
        ("transformer", "blocks"): others + 2 * max(stored.blocks, default=0),
        ("transformer", "layers"): 2 * stored.layer,
        ("transformer", "disk"): 2 * stored.layer,
    }
    phase_of = {"text": "text", "transformer": "denoise", "vae": "decode"}
    beside = activations(
        sizes.shapes,
        work,
        tiles=tiles,
        device=machine.kind,
        unpacked=_unpacked(stored, kind, machine),
    )
    needs: dict[str, dict[str, int]] = {}
    for phase in PHASES:
        device, host = beside[phase], 0
        for part, place in placement.items():
            here = phase_of[part] == phase
            if place == "resident":
                # Read once for the text phase, the encoders are gone before the rest is read.
                early = phase == "text" and placement["text"] == "once" and part != "text"
                device += 0 if early else weights[part]
            elif place in ("once", "host"):
                device += weights[part] if here else 0
                host += weights[part] if place == "host" else 0
            else:
                device += streamed[part, place] if here else 0
                host += weights[part] if place != "disk" else 0
        needs[phase] = _pools(machine, device, host)
    coded = kind == CODED
    return Candidate(name, placement, tiles, None if coded else kind, 0, needs, coded)


def _form(candidate: Candidate) -> str | None:
    return CODED if candidate.coded else candidate.quantization


def _unpacked(stored: Stored, form: str | None, machine: Machine) -> int:
    """Return what the layer that computes takes where codes become numbers a few at a time."""
    is_packed = form == CODED or form in PACKED
    return stored.unpacked + (scratch(machine.kind) if is_packed else 0)


def _pools(machine: Machine, device: int, host: int) -> dict[str, int]:
    if machine.shares_memory:
        return {"vram": 0, "ram": machine.base + device + host}
    return {"vram": _CONTEXT + device, "ram": machine.base + host}


def _fill(candidate: Candidate, sizes: Sizes, machine: Machine) -> Candidate:
    """Keep as many blocks in memory as fit, where the rest is on disk."""
    if candidate.name != "disk":
        return candidate
    for kept, size in reversed(list(enumerate(accumulate(sizes.transformer.blocks, initial=0)))):
        pool = "ram" if machine.shares_memory else "vram"
        needs = {
            phase: {**need, pool: need[pool] + size} for phase, need in candidate.needs.items()
        }
        filled = candidate._replace(kept=kept, needs=needs)
        if _too_much(filled, machine) is None:
            return filled
    return candidate


def _too_much(candidate: Candidate, machine: Machine) -> str | None:
    """Return which phase needs more than the machine gives, or None where all fit."""
    for phase, need in candidate.needs.items():
        for pool in POOLS:
            limit = getattr(machine, pool)
            if limit is not None and need[pool] > limit:
                return (
                    f"the {phase} phase needs {bytes_in_words(need[pool])} of {pool}, "
                    f"and {bytes_in_words(limit)} are allowed"
                )
    return None


def _least(rejected: list[tuple[Candidate, str]], machine: Machine) -> str:
    """Return the smallest budget that some way of loading would do with, in bytes."""
    pools = [pool for pool in POOLS if getattr(machine, pool) is not None]
    peaks = [candidate.peak for candidate, why in rejected if why != _NOT_INSTALLED]
    peak = min(peaks, key=lambda peak: [peak[p] for p in pools])
    return ", ".join(f"{pool} {peak[pool]}B ({bytes_in_words(peak[pool])})" for pool in pools)


def _bytes(need: Mapping[str, int]) -> str:
    return ", ".join(f"{pool} {bytes_in_words(need[pool])}" for pool in POOLS if need[pool])


def _plain(candidate: Candidate) -> dict[str, Any]:
    plain = candidate._asdict()
    plain["placement"] = dict(candidate.placement)
    plain["needs"] = {phase: dict(need) for phase, need in candidate.needs.items()}
    return {**plain, "words": candidate.words, "peak": candidate.peak}
