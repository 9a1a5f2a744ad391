"""What a plan says of itself, and what stands beside the weights: card, notice, licence texts."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from submerge.adapters.written import FORMS
from submerge.checkpoint.marks import METADATA
from submerge.errors import counted, listing, quoted
from submerge.layout import depths_of, family_of
from submerge.plan.about import About, Applied, Parent
from submerge.plan.form import BESIDE, Copy, Text
from submerge.plan.gguf import OF_THE_FILE
from submerge.plan.labels import label
from submerge.plan.licence import (
    Licence,
    Terms,
    adapter_terms,
    combined,
    is_permissive,
    license_files,
    terms_of,
    texts_of_adapter,
)
from submerge.plan.precision import precision_words
from submerge.plan.provenance import public_recipe
from submerge.plan.remarks import never_written, of_precision
from submerge.plan.words import formulas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from submerge.layout import Architecture, Model
    from submerge.plan.adapted import Fused
    from submerge.plan.outputs import Placed, Shape
    from submerge.recipe import Recipe

__all__ = ["Draft", "about", "beside", "remarks"]

# A description in metadata is read by people; a gradient has a formula for every block.
_DESCRIBED = 8


@dataclass(frozen=True)
class Draft:
    """Everything decided about an output, for the texts that tell of it.

    Attributes:
        contributing: the models that numbers of the transformer come from, a baked guidance MLP's
            included.
        guidance: what became of guidance, in words.
        adapters: what is added to the models and to the result.
        adapting: the names of those that change something.
    """

    recipe: Recipe
    models: Mapping[str, Model]
    target: Path
    shape: Shape
    arch: Architecture
    placed: Placed
    contributing: frozenset[str]
    guidance: str
    adapters: Sequence[Fused] = ()
    adapting: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The title in the card and the metadata."""
        return self.recipe.output.title or " + ".join(self.models)

    @functools.cached_property
    def formulas(self) -> list[tuple[str, list[str]]]:
        """Each formula with the selectors of its units; tensors that are no units are left out."""
        units = self.placed.units
        told = [unit for unit in units if unit.reason not in ("extras", BESIDE)]
        return formulas({unit.name: unit.formula for unit in told})

    @functools.cached_property
    def terms(self) -> dict[str, Terms]:
        """The licences of every model and adapter."""
        sources = self.recipe.models
        found = {n: terms_of(n, model, sources[n].license) for n, model in self.models.items()}
        return found | {
            a.name: adapter_terms(a.field, a.adapter, a.source.license) for a in self.adapters
        }

    @functools.cached_property
    def licence(self) -> Licence:
        """The licence of the output."""
        used = self.contributing | self.adapting
        return combined({n: t for n, t in self.terms.items() if n in used})

    @functools.cached_property
    def public(self) -> dict[str, Any]:
        """The recipe without machine paths."""
        return public_recipe(self.recipe)

    @property
    def parents(self) -> tuple[Parent, ...]:
        """The models in words."""
        return tuple(
            Parent(
                name=name,
                label=label(self.recipe.models[name].path),
                variant=model.variant,
                license=self.terms[name].words,
                contributes=name in self.contributing,
                precision=precision_words(model),
            )
            for name, model in self.models.items()
        )

    @property
    def applied(self) -> tuple[Applied, ...]:
        """The adapters in words."""
        return tuple(
            Applied(
                name=fused.name,
                label=label(fused.source.path),
                kind=fused.kind,
                onto=fused.onto,
                license=self.terms[fused.name].words,
                contributes=fused.name in self.adapting,
            )
            for fused in self.adapters
        )

    @property
    def words(self) -> dict[str, str]:
        """Title, description, layout, parents and what the architecture ends in, for metadata."""
        adapter = self.recipe.output.adapter
        said = [f"{', '.join(where)}: {formula}" for formula, where in self.formulas[:_DESCRIBED]]
        if len(self.formulas) > _DESCRIBED:
            said.append(f"and {len(self.formulas) - _DESCRIBED} more formulas, see submerge.recipe")
        if len(self.formulas) == 1:
            said = [f"result = {self.formulas[0][0]}"]
        description = f"{'; '.join(said)}. Guidance: {self.guidance}."
        both: list[Parent | Applied] = [*self.parents, *self.applied]
        used = [parent.label for parent in both if parent.contributes]
        return {
            "title": self.title,
            "description": description,
            "layout": self.shape.layout if adapter is None else FORMS[adapter.form].layout,
            "suffix": "" if adapter is None else "/lora",
            "parents": ", ".join(used),
        }


def about(draft: Draft) -> About:
    """Return what the plan says of itself, without notes and unused tensors."""
    placed = draft.placed
    floats = sorted({placed.outputs[u.output].written for u in placed.units if u.reason != BESIDE})
    return About(
        title=draft.title,
        layout=draft.shape.words,
        dtype=", ".join(floats),
        guidance=draft.guidance,
        license=draft.licence.words,
        parents=draft.parents,
        recipe=draft.recipe.to_dict(),
        adapters=draft.applied,
    )


def beside(draft: Draft) -> tuple[tuple[Text, ...], tuple[Copy, ...]]:
    """Return the card and the notice of an output folder, and the licence texts taken over."""
    if not draft.shape.is_folder or not draft.recipe.output.card:
        return (), ()
    from submerge.plan.card import Facts, card, notice

    copies = tuple(_licence_texts(draft))
    facts = Facts(
        title=draft.title,
        parents=draft.parents,
        adapters=draft.applied,
        paths={name: source.path for name, source in draft.recipe.models.items()}
        | {fused.name: fused.source.path for fused in draft.adapters},
        formulas=draft.formulas,
        guidance=draft.guidance,
        licence=draft.licence,
        license_file=copies[0].path if copies else None,
        public=draft.public,
        folder=draft.target.name,
    )
    texts = (
        Text("README.md", card(facts)),
        Text("NOTICE", notice(draft.licence, (*draft.parents, *draft.applied))),
    )
    return texts, copies


def _licence_texts(draft: Draft) -> list[Copy]:
    """Return the licence texts of the parents whose terms apply, one for each licence.

    The text comes from the user's own download: it is the version that was agreed to.
    """
    copies: dict[str, Copy] = {}
    for licence in draft.licence.names:
        for name in draft.licence.parents[licence]:
            for path in _texts_beside(draft, name):
                # Two licences may not end up in one file; the first has precedence.
                inside = path.name if not copies else f"LICENSE-{name}{path.suffix}"
                copies.setdefault(licence, Copy.of(inside, path))
    return list(copies.values())


def _texts_beside(draft: Draft, name: str) -> list[Path]:
    if name in draft.models:
        return license_files(draft.models[name])
    return next(texts_of_adapter(a.adapter) for a in draft.adapters if a.name == name)


def remarks(draft: Draft, licences: Sequence[Copy]) -> tuple[str, ...]:
    """Return what a reader of the plan should know beyond what was asked for."""
    return (
        *_of_models(draft),
        *_of_adapters(draft),
        *_of_output(draft),
        *_of_licence(draft, licences),
    )


def _of_adapters(draft: Draft) -> list[str]:
    """Tell of adapters that change nothing, and of parts for other models of the pipeline."""
    notes = [
        f"{quoted(fused.name)} changes nothing: its scale is 0, or its model's weight is"
        for fused in draft.adapters
        if fused.name not in draft.adapting
    ]
    for fused in draft.adapters:
        for what, keys in fused.adapter.elsewhere.items():
            if what not in fused.encoders:
                number = counted(len(keys), "key")
                notes.append(f"{quoted(fused.name)}: not applied, {number} for {what}")
    return notes


def _of_models(draft: Draft) -> list[str]:
    notes = [*_same_file(draft)]
    notes += [warning for model in draft.models.values() for warning in model.checkpoint.warnings]
    notes += never_written(draft.models)
    family = family_of(draft.arch)
    full = None if family is None else family.published
    if family is not None and full is not None and draft.arch.depths != full.depths:
        found = " and ".join(f"{n} {stack}" for stack, n in depths_of(draft.arch).items())
        usual = " and ".join(map(str, full.depths))
        notes.append(f"reduced depth: {found} blocks, a full {family.title} has {usual}")
    for name, model in draft.models.items():
        said = {key for file in model.checkpoint.files for key in file.metadata}
        keys = sorted(said - OF_THE_FILE - {"format", METADATA})
        if keys:
            noun = "metadata entry" if len(keys) == 1 else "metadata entrie"
            notes.append(f"{quoted(name)}: not carried over, {listing(keys, noun=noun)}")
    return notes


def _same_file(draft: Draft) -> list[str]:
    """Tell of models that are one under two names."""
    by_files: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for name, model in draft.models.items():
        files = tuple(tuple(file.identity.values()) for file in model.checkpoint.files)
        by_files.setdefault(files, []).append(name)
    return [
        f"{' and '.join(map(quoted, names))} are the same file{'s' * (len(files) > 1)}"
        for files, names in by_files.items()
        if len(names) > 1
    ]


def _of_output(draft: Draft) -> list[str]:
    """Tell of other precisions, of widths that need another pipeline, of an equal parent."""
    if draft.recipe.output.adapter is not None:
        return []
    asked = draft.shape.encoding.formats.default != "same"
    notes = [] if asked else of_precision(draft.models, draft.placed)
    widths = {name: model.arch.in_channels for name, model in draft.models.items()}
    if len(set(widths.values())) > 1:
        notes.append(
            f"the output takes {draft.arch.in_channels} input channels; it runs in the pipeline of "
            f"{', '.join(quoted(n) for n, w in widths.items() if w == draft.arch.in_channels)}"
        )
    carried = [unit for unit in draft.placed.units if unit.reason == "extras"]
    if carried:
        spaces = Counter(unit.name.partition(".")[0] for unit in carried)
        words = ", ".join(f"{quoted(s)} ({counted(n, 'tensor')})" for s, n in spaces.items())
        notes.append(f"carried along from {quoted(carried[0].models[0])} as they are: {words}")
    units = [unit for unit in draft.placed.units if unit.reason not in ("extras", BESIDE)]
    sources = {unit.models for unit in units}
    if len(draft.models) > 1 and len(sources) == 1 and all(u.op == "copy" for u in units):
        (source,) = sources
        if set(draft.models[source[0]].units) == {unit.name for unit in units}:
            notes.append(f"every number is that of {quoted(source[0])}: the output is a copy of it")
    return notes


def _of_licence(draft: Draft, licences: Sequence[Copy]) -> list[str]:
    restrictive = [name for name in draft.licence.names if not is_permissive(name)]
    notes = [
        f"{quoted(name)}: licence {terms.words}"
        for name, terms in draft.terms.items()
        if any("recipe" in evidence for _, evidence in terms.found)
    ]
    if not restrictive:
        return notes
    if not draft.shape.is_folder:
        notes.append("one file says its licence in its metadata only; pass a copy of it on with it")
    elif not draft.recipe.output.card:
        notes.append("no card and no NOTICE: whoever passes the model on owes them")
    elif not licences:
        notes.append(
            f"no licence text lies beside {', '.join(map(quoted, sorted(draft.contributing)))}; "
            "whoever passes the model on must add it"
        )
    return notes
