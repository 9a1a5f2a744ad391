"""What peft's configuration says of an adapter's strength: beside the file, or in its metadata."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from submerge.errors import AdapterError, quoted
from submerge.given.text import unique

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["PeftConfig", "from_metadata", "parsed", "software"]

_KEY = "lora_adapter_metadata"
_TYPES = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
# Keys of patterns are mostly plain names. Others are regular expressions from a stranger's file, so
# only those that take no long time on a module's name are run.
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_QUICK = re.compile(r"\^?(?:[A-Za-z0-9_.|$-]|\\[.dw]|\[[A-Za-z0-9_-]+\]|[*+?]){1,200}")
_REPEATS = 2


class _Patterns:
    """Values by pattern, as peft finds them: the first key that ends a module's name at a dot.

    Raises:
        AdapterError: a pattern that is no regular expression, or one that may take long.
    """

    def __init__(self, given: Mapping[str, float], where: str) -> None:
        self._plain: dict[str, tuple[int, float]] = {}
        self._others: list[tuple[int, re.Pattern[str], float]] = []
        for rank, (key, value) in enumerate(given.items()):
            if _PLAIN.fullmatch(key):
                self._plain.setdefault(key, (rank, value))
            else:
                self._others.append((rank, _compiled(key, where), value))

    def of(self, module: str) -> float | None:
        """Return the value for a module, or None where no pattern matches."""
        found = [self._plain[end] for end in _endings(module) if end in self._plain]
        found += [(rank, value) for rank, key, value in self._others if key.fullmatch(module)]
        return min(found)[1] if found else None


def _endings(module: str) -> Iterator[str]:
    words = module.split(".")
    for start in range(len(words)):
        yield ".".join(words[start:])


def _compiled(key: str, where: str) -> re.Pattern[str]:
    if not _QUICK.fullmatch(key) or sum(map(key.count, "*+?")) > _REPEATS:
        raise AdapterError(
            f"{where}: the pattern {quoted(key)} is not understood, expected a module's name or a "
            f"short regular expression with at most {_REPEATS} repetitions",
            hint="write the alpha and rank of every module out",
        )
    try:
        return re.compile(rf"(?:.*\.)?(?:{key})")
    except re.error as error:
        raise _damaged(
            f"{where}: the pattern {quoted(key)} is no regular expression: {error}"
        ) from None


@dataclass(frozen=True)
class PeftConfig:
    """Rank and alpha of every module, as peft reads them.

    Attributes:
        where: the file or metadata it comes from, for messages.
        kind: `lora`, `loha` or `lokr`.
        base: the model it was trained on, where that is said.
        magnitudes: whether every module has a DoRA magnitude.
    """

    where: str
    kind: str
    rank: float
    alpha: float
    rslora: bool = False
    magnitudes: bool = False
    base: str = ""
    ranks: _Patterns = field(default_factory=lambda: _Patterns({}, ""))
    alphas: _Patterns = field(default_factory=lambda: _Patterns({}, ""))

    def rank_of(self, module: str) -> float:
        """Return the rank of a module; its name without peft's prefix."""
        found = self.ranks.of(module)
        return self.rank if found is None else found

    def alpha_of(self, module: str) -> float:
        """Return the alpha of a module."""
        found = self.alphas.of(module)
        return self.alpha if found is None else found

    def scale_of(self, module: str) -> float:
        """Return `alpha / rank`, of rsLoRA `alpha / sqrt(rank)`."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)


def from_metadata(
    metadata: Mapping[str, str], path: Path, component: str = "transformer"
) -> PeftConfig | None:
    """Return what diffusers keeps of a pipeline's component in a file's metadata, or None.

    Raises:
        AdapterError: it is there and malformed.
    """
    if _KEY not in metadata:
        return None
    where = f"{path}: {_KEY}"
    try:
        data = json.loads(metadata[_KEY], object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{where}: expected a JSON object, got: {error}") from error
    if not isinstance(data, dict):
        raise _damaged(f"{where}: expected a JSON object")
    own = {
        key.removeprefix(f"{component}."): value
        for key, value in data.items()
        if key.startswith(f"{component}.") or (component == "transformer" and "." not in key)
    }
    return parsed(own, where) if own else None


def parsed(data: Mapping[str, Any], where: str) -> PeftConfig:
    """Return peft's configuration from its JSON; `where` is what errors call it.

    Raises:
        AdapterError: a kind that is not read, numbers that are none, a layout that is transposed.
    """
    kind = data.get("peft_type", "LORA")
    if kind not in _TYPES:
        raise AdapterError(
            f"{where}: `peft_type` expected one of {', '.join(_TYPES)}, got {quoted(str(kind))}",
            hint="fuse it with peft's `merge_and_unload()` first",
        )
    if data.get("fan_in_fan_out"):
        raise AdapterError(
            f"{where}: `fan_in_fan_out` is true, expected weights of linear layers",
            hint="FLUX.1 has no transposed layers; the adapter is another model's",
        )
    rank = _number(data, "r", where, 8)
    alpha = _number(data, "lora_alpha" if kind == "LORA" else "alpha", where, 8)
    if rank <= 0:
        raise _damaged(f"{where}: `r` expected to be positive, got {rank:g}")
    return PeftConfig(
        where=where,
        kind=_TYPES[kind],
        rank=rank,
        alpha=alpha,
        rslora=bool(data.get("use_rslora")),
        magnitudes=bool(data.get("use_dora")),
        base=str(data.get("base_model_name_or_path") or ""),
        ranks=_Patterns(_pattern(data, "rank_pattern", where), where),
        alphas=_Patterns(_pattern(data, "alpha_pattern", where), where),
    )


def _pattern(data: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    found = data.get(name) or {}
    if not isinstance(found, dict):
        raise _damaged(f"{where}: {quoted(name)} expected a mapping of module names to numbers")
    numbers = {str(key): _number(found, key, f"{where}: {name}") for key in found}
    if name == "rank_pattern" and any(rank <= 0 for rank in numbers.values()):
        raise _damaged(f"{where}: {quoted(name)} expected positive ranks")
    return numbers


def _number(data: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    found = data.get(key, default)
    # JSON's whole numbers have no end, and f64 has one.
    most = sys.float_info.max
    if isinstance(found, bool) or not isinstance(found, int | float) or not -most <= found <= most:
        raise _damaged(f"{where}: {quoted(str(key))} expected a finite number")
    return float(found)


def _damaged(message: str) -> AdapterError:
    return AdapterError(message, hint="the configuration is damaged; save the adapter again")


def software(text: str) -> str:
    """Return the name in what trainers write as JSON or as a word."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text[:80]
    if isinstance(found, dict) and isinstance(found.get("name"), str):
        return " ".join(str(found[key])[:80] for key in ("name", "version") if found.get(key))
    return text[:80]
