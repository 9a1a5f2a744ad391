"""What is asked of a loading, checked against headers and configs before torch is imported."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from submerge.checkpoint.dtypes import WORDS
from submerge.errors import RecipeError, SubmergeError, nearest, quoted
from submerge.given import shown, size
from submerge.inference.activations import Work
from submerge.inference.parts import Parts, find_parts
from submerge.inference.planner import Machine
from submerge.inference.quantized import QUANTIZATIONS
from submerge.merge import MergedModel
from submerge.recipe import Recipe
from submerge.sources import Hub, Local, download, read_name
from submerge.view import View
from submerge.view import open as open_view

if TYPE_CHECKING:
    from typing import TypeAlias

    Paintable: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Recipe | MergedModel | View

__all__ = ["LoadArguments", "Request", "check_device", "fetched", "libraries", "requested"]

_RECIPES = (".yaml", ".yml", ".json")
_COMPUTED = ("BF16", "F16", "F32")
_DEVICE = re.compile(r"auto|cpu|mps|(?:cuda|xpu|npu|hpu|mtia|musa)(?::[0-9]{1,3})?")


class LoadArguments(TypedDict, total=False):
    """Further keywords of `load_model`.

    Attributes:
        components: the pipeline folder to take text encoders, tokenizers, VAE and scheduler from.
        width: pixels the memory plan is made for; 1024 for FLUX.1.
        height: as `width`.
        batch: images denoised together that the plan is made for.
        tokens: text tokens the plan is made for; 512, or 256 without guidance.
        checkpointing: recompute the transformer's activations where gradients flow through it.
        adapters: LoRAs and others, added to the transformer as it is read: paths, or `{"path",
            "scale", ...}` as in a recipe. The `loras` of `run_inference` are diffusers' own.
        embeddings: a folder to keep prompt embeddings in; the text encoders are then loaded when
            the first prompt comes that is not there, and not at all where every one is.
    """

    components: str | os.PathLike[str] | None
    width: int
    height: int
    batch: int
    tokens: int
    checkpointing: bool
    embeddings: str | os.PathLike[str] | None
    adapters: Sequence[str | Mapping[str, Any]]


class Request(NamedTuple):
    """What is known of a model and of what is asked, before any library is imported."""

    parts: Parts
    dtype: str
    work: Work
    quantization: str | None
    device: str
    limits: Mapping[str, int] | None

    def machine(self) -> Machine:
        """Return the device with its limits; asks torch for a device or limit that is not given.

        Raises:
            SubmergeError: torch is missing, or the device cannot be used.
        """
        return _machine(self.device, self.limits)


def requested(
    source: Paintable,
    how: tuple[str, str, str | None],
    memory_budget: int | str | Mapping[str, int | str] | None,
    more: LoadArguments,
) -> Request:
    """Check all that headers and configs show, without importing torch."""
    device, dtype, quantization = how
    name: object = device
    known = LoadArguments.__annotations__
    if unknown := [name for name in more if name not in known]:
        close = nearest(unknown[0], known) or list(known)
        raise TypeError(f"load_model: unknown keyword {quoted(unknown[0])}, expected {close[0]}")
    if quantization not in (None, "auto", *QUANTIZATIONS):
        raise RecipeError(
            "quantization: expected `auto`, `fp8`, `int8`, `int4` or nothing, "
            f"got {shown(quantization)}"
        )
    if not isinstance(name, str) or not _DEVICE.fullmatch(device):
        raise RecipeError(
            f"device: expected `auto`, `cpu`, `cuda`, `cuda:1`, `mps` or `xpu`, got {shown(device)}"
        )
    limits = _limits(memory_budget)
    parts = find_parts(fetched(source), more.get("components"), more.get("adapters", ()))
    return Request(parts, _dtype(dtype, parts), _work(parts, more), quantization, device, limits)


def _work(parts: Parts, asked: LoadArguments) -> Work:
    """Return what the plan is made for."""
    pixels = parts.default_size()
    work = Work(
        asked.get("width", pixels),
        asked.get("height", pixels),
        asked.get("batch", 1),
        asked.get("tokens", 512 if parts.guided else 256),
    )
    for name in ("width", "height", "batch", "tokens"):
        value = getattr(work, name)
        if type(value) is not int or value < 1:
            raise RecipeError(f"{name}: expected a whole number of at least 1, got {shown(value)}")
    parts.check_size(work.width, work.height)
    return work


def _dtype(dtype: str, parts: Parts) -> str:
    """Return the dtype to compute in, as files spell it."""
    if dtype == "auto":
        counts: dict[str, int] = {}
        for unit in parts.model.units.values():
            elements = unit.rows * unit.row_elements
            counts[unit.dtype] = counts.get(unit.dtype, 0) + elements
        most = max(counts, key=counts.__getitem__)
        return most if most in _COMPUTED else "BF16"
    name = WORDS.get(str(dtype))
    if name not in _COMPUTED:
        raise RecipeError(f"dtype: expected `auto`, `bf16`, `f16` or `f32`, got {shown(dtype)}")
    return str(name)


def _limits(
    memory_budget: int | str | Mapping[str, int | str] | None,
) -> dict[str, int] | None:
    """Return the bytes allowed by pool; one number for the device is `device`; None is no limit."""
    if memory_budget is None:
        return None
    if not isinstance(memory_budget, Mapping):
        return {"device": size(memory_budget, "memory_budget")}
    if unknown := set(memory_budget) - {"vram", "ram"}:
        raise RecipeError(
            f"memory_budget: expected `vram` and `ram`, got {quoted(str(min(unknown, key=str)))}"
        )
    return {name: size(raw, f"memory_budget.{name}") for name, raw in memory_budget.items()}


def _machine(device: str, limits: Mapping[str, int] | None) -> Machine:
    """Return the device with its limits."""
    if device == "auto":
        libraries("torch")
        import torch

        found = torch.accelerator.current_accelerator(check_available=True)
        device = "cpu" if found is None else str(found)
    if Machine(device).shares_memory:
        # One memory: the tighter limit counts.
        return Machine(device, None, min(limits.values()) if limits else None)
    if limits is None:
        return Machine(device, _free(device))
    return Machine(device, limits.get("device", limits.get("vram")), limits.get("ram"))


def check_device(device: str) -> None:
    """Refuse a device that torch cannot compute on, before anything is loaded.

    Raises:
        SubmergeError: there is none, or it cannot be reached.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (AssertionError, ImportError, RuntimeError) as error:
        raise SubmergeError(
            f"device: {quoted(device)} cannot be used: {_first_line(error)}",
            hint="paint with `cpu`, or install a build of torch and a driver for the device",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _free(device: str) -> int:
    """Return the free bytes of an accelerator's memory."""
    libraries("torch")
    import torch

    check_device(device)
    return int(torch.accelerator.get_memory_info(torch.device(device))[0])


def fetched(source: Paintable) -> str | os.PathLike[str] | MergedModel | View:
    """Return the source, fetched first where it is of the hub, opened where it is a recipe."""
    if isinstance(source, View | MergedModel):
        return source
    if isinstance(source, Recipe | Mapping) or _is_recipe(source):
        return open_view(source)
    if not isinstance(source, str) or os.path.exists(source):  # noqa: PTH110
        return source
    name = read_name(source)
    if isinstance(name, Local):
        return source
    if isinstance(name, Hub):
        return download(name, source)
    raise RecipeError(
        f"model: {quoted(source)}: expected a path or a model of the hub, got an address",
        hint="download the file and name it",
    )


def _is_recipe(source: object) -> bool:
    """Tell whether a path or a text is a recipe's: its ending says so, or it is YAML itself."""
    if not isinstance(source, str | bytes | os.PathLike):
        return False  # no path at all, which is told where it is opened
    text = os.fsdecode(source)
    if text.endswith(".index.json"):
        return False
    return "\n" in text or text.lstrip().startswith("{") or text.endswith(_RECIPES)


def libraries(*names: str) -> None:
    """Import optional libraries, or say which extra brings them.

    Raises:
        SubmergeError: one is not installed.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            extra = {"gguf": "gguf"}.get(name, "diffusers")
            raise SubmergeError(
                f"{name}: cannot be imported, expected to be installed: {error}",
                hint=f"pip install 'submerge[{extra}]'",
            ) from error
