"""The licence of an output: what follows from its parents, never anything looser.

Every name found counts: in the metadata of the files (`submerge.license`, `modelspec.license`), in
the model card beside them, and in the kind of model: a guidance embedder marks the FLUX.1 [dev]
family (dev, Krea, Kontext, Fill, ...), which is non-commercial; FLUX.1 models without one descend
from FLUX.1-schnell, which is Apache-2.0. An output has the restrictions of all its parents.

`models.NAME.license` in a recipe adds to what was found. A permissive licence in place of a
restrictive one is refused, unless it is written as `apache-2.0 (granted)`: then the user says that
the owner of the weights granted it, and that statement goes into the card and the notes.

These are facts for the user to judge, not legal advice.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from submerge.errors import RecipeError, quoted
from submerge.plan.labels import label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from submerge.adapters import Adapter
    from submerge.layout import Model

__all__ = [
    "FLUX_DEV",
    "UNKNOWN",
    "Licence",
    "Terms",
    "adapter_terms",
    "combined",
    "is_licence",
    "is_permissive",
    "license_files",
    "terms_of",
    "texts_of_adapter",
]

FLUX_DEV = "flux-1-dev-non-commercial-license"
UNKNOWN = "unknown"
_APACHE = "apache-2.0"
_PERMISSIVE = frozenset(
    {"0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "isc", "mit", "unlicense"}
)
_GRANTED = " (granted)"
_KEYS = ("submerge.license", "modelspec.license")
_CARD_BYTES = 1 << 16


class Terms(NamedTuple):
    """The licences of one model, and where each was found: `(name, evidence)`."""

    found: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The licences, each once."""
        return tuple(dict.fromkeys(name for name, _ in self.found))

    @property
    def words(self) -> str:
        """Licences with the evidence: `apache-2.0 (FLUX.1-schnell kind)`."""
        return ", ".join(f"{name} ({evidence})" for name, evidence in self.found)


class Licence(NamedTuple):
    """The licence of an output.

    Attributes:
        names: every licence that applies, the FLUX.1 [dev] one first.
        parents: the models each one comes from.
    """

    names: tuple[str, ...]
    parents: Mapping[str, tuple[str, ...]]

    @property
    def text(self) -> str:
        """All names as one, in the manner of SPDX: `a AND b`."""
        return " AND ".join(self.names)

    @property
    def is_dev(self) -> bool:
        """Whether the FLUX.1 [dev] Non-Commercial License applies."""
        return FLUX_DEV in self.names

    @property
    def words(self) -> str:
        """The licences and the parents they follow from."""
        return "; ".join(f"{n} (from {', '.join(self.parents[n])})" for n in self.names)


def is_permissive(name: str) -> bool:
    """Tell whether a licence asks for no more than notices to be kept."""
    return name in _PERMISSIVE


def combined(terms: Mapping[str, Terms]) -> Licence:
    """Return the licence of what is made of these models: every restriction of each.

    Permissive licences stand only where nothing restricts.
    """
    parents: dict[str, tuple[str, ...]] = {}
    for model, found in terms.items():
        for name in found.names:
            parents[name] = (*parents.get(name, ()), model)
    restrictive = [name for name in parents if not is_permissive(name)]
    names = sorted(restrictive or parents, key=lambda name: (name != FLUX_DEV, name))
    return Licence(tuple(names), {name: parents[name] for name in names})


def terms_of(name: str, model: Model, declared: str | None) -> Terms:
    """Return the licences of a model; `declared` is what the recipe says of it.

    Raises:
        RecipeError: the recipe loosens what was found without saying that this was granted.
    """
    return _terms(f"recipe.models.{name}", _found(model), declared)


def adapter_terms(field: str, adapter: Adapter, declared: str | None) -> Terms:
    """Return the licences of an adapter; `field` is where the recipe names it.

    One that was trained on a FLUX.1 [dev] model, as its metadata says, is taken to be a derivative
    of it.

    Raises:
        RecipeError: as `terms_of`.
    """
    base = adapter.base or ""
    found = []
    if "flux" in base.lower() and "dev" in base.lower():
        found.append((FLUX_DEV, f"trained on {quoted(label(base))}"))
    found += _said(adapter.checkpoint.files[0].metadata)
    if adapter.path.is_dir():
        found += [(name, "its model card") for name in _names(_card_licence(adapter.path))]
    return _terms(field, found or [(UNKNOWN, "no licence found")], declared)


def _terms(field: str, found: list[tuple[str, str]], declared: str | None) -> Terms:
    if declared is not None and declared.endswith(_GRANTED):
        said = declared.removesuffix(_GRANTED)
        return Terms(tuple((n, "granted, says the recipe") for n in _names(said)))
    restrictive = [(n, evidence) for n, evidence in found if not is_permissive(n)]
    if declared is None:
        return Terms(tuple(restrictive or found))
    stated = [(n, "says the recipe") for n in _names(declared)]
    known = [(n, evidence) for n, evidence in restrictive if n != UNKNOWN]
    if known and all(is_permissive(n) for n, _ in stated):
        said, evidence = known[0]
        raise RecipeError(
            f"{field}.license: {quoted(declared)} is less restrictive than "
            f"{quoted(said)} ({evidence}), expected a licence that keeps its terms",
            hint=f"if the owner of the weights granted it, write `license: {declared}{_GRANTED}`",
        )
    added = [(n, evidence) for n, evidence in stated if n not in {k for k, _ in known}]
    return Terms(tuple(known + added))


def _found(model: Model) -> list[tuple[str, str]]:
    """Return every licence there is evidence for; the kind of model comes first."""
    found: list[tuple[str, str]] = []
    if model.arch.guidance:
        found.append((FLUX_DEV, "FLUX.1 [dev] kind, it has a guidance embedder"))
    for file in model.checkpoint.files:
        found += _said(file.metadata)
    found += [(name, "its model card") for name in _names(_card_licence(_home(model)))]
    if not found:
        known = model.arch.family == "flux1"
        found.append((_APACHE, "FLUX.1-schnell kind") if known else (UNKNOWN, "no licence found"))
    return list(dict(reversed(found)).items())[::-1]


def _said(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the licences that a file's metadata names."""
    return [(name, f"`{key}`") for key in _KEYS for name in _names(metadata.get(key, ""))]


def _names(text: str) -> list[str]:
    return [name for part in text.split(" AND ") if (name := _canonical(part))]


def _canonical(text: str) -> str:
    """Return the hub's name of a licence for its usual spellings."""
    name = " ".join(text.lower().split())
    if "flux" in name and "dev" in name and "commercial" in name:
        return FLUX_DEV
    if re.fullmatch(r"apache(?: license)?,?[ -]?(?:version )?2(?:\.0)?", name):
        return _APACHE
    return name


def _card_licence(folder: Path | None) -> str:
    """Return the licence in the front matter of a folder's README.md, if it has one."""
    if folder is None:
        return ""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # no card, or none that can be read: the other evidence stands
    fields = dict(_fields(text))
    licence = fields.get("license", "")
    return fields.get("license_name", licence) if licence == "other" else licence


def _fields(card: str) -> Iterator[tuple[str, str]]:
    """Yield what a card's front matter says of its licence."""
    first, *lines = card.removeprefix("\ufeff").split("\n")
    if first.rstrip() != "---" or "---" not in map(str.rstrip, lines):
        return
    for line in itertools.takewhile(lambda line: line.rstrip() != "---", lines):
        key, _, value = line.partition(":")
        if key in ("license", "license_name") and value.strip():
            yield key, value.strip().strip("'\"")


def license_files(model: Model) -> list[Path]:
    """Return the licence texts beside a model that is a folder of its own.

    Raises:
        OSError: the folder cannot be listed.
    """
    return _texts_in(_home(model))


def texts_of_adapter(adapter: Adapter) -> list[Path]:
    """Return the licence texts beside an adapter that is a folder of its own; raises as above."""
    return _texts_in(adapter.path if adapter.path.is_dir() else None)


def _texts_in(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    return sorted(path for path in folder.iterdir() if is_licence(path.name) and path.is_file())


def is_licence(name: str) -> bool:
    """Tell whether a file is a licence text, by its name."""
    return re.match(r"LICEN[CS]E", name, re.IGNORECASE) is not None


def _home(model: Model) -> Path | None:
    """Return the folder that is the model's own; a single file has none."""
    checkpoint = model.checkpoint
    if checkpoint.pipeline is not None:
        return checkpoint.pipeline
    return checkpoint.path if checkpoint.path.is_dir() else None
