"""Text encoders of an output pipeline that adapters change: their files, made anew.

An encoder is a set of tensors that is taken over as it is. Where an adapter has a part for it, the
files that hold what is changed are made by the core like those of the transformer, under the same
names, with the same tensors and dtypes; what is not changed in them is copied as bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from submerge.adapters import part_for
from submerge.adapters.keys import ENCODERS
from submerge.checkpoint import FLOATS, open_files
from submerge.checkpoint.names import is_safetensors
from submerge.errors import AdapterError, counted, quoted
from submerge.methods import copied
from submerge.plan.adapted import fuse
from submerge.plan.form import OutFile, OutputTensor, Unit
from submerge.plan.outputs import dtype_of
from submerge.plan.pipeline import files_of, giver_of
from submerge.plan.sizes import data_key
from submerge.plan.terms import Rows
from submerge.plan.words import adapted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from submerge.adapters import Adapter
    from submerge.checkpoint import Checkpoint, TensorInfo
    from submerge.layout import Model
    from submerge.plan.adapted import Fused
    from submerge.plan.pipeline import Taken
    from submerge.plan.terms import Operand
    from submerge.plan.unit import Inputs
    from submerge.recipe import AdapterSource, Recipe

__all__ = ["Changed", "Encoders", "open_encoders"]


class _Encoder(NamedTuple):
    """A text encoder.

    Attributes:
        component: its folder in the pipeline.
        checkpoint: its files.
        paths: where each goes in the output.
    """

    component: str
    checkpoint: Checkpoint
    paths: tuple[str, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its tensors."""
        return {name: tensor.shape for name, tensor in self.checkpoint.tensors.items()}


class Changed(NamedTuple):
    """The files of text encoders that are made anew, as a plan has them, and remarks on them."""

    files: tuple[OutFile, ...]
    outputs: tuple[OutputTensor, ...]
    units: tuple[Unit, ...]
    notes: tuple[str, ...]
    read_bytes: int

    def in_place_of(self, taken: Taken) -> Taken:
        """Return what is taken over, without these files and with the remarks on them."""
        anew = {file.path for file in self.files}
        copies = tuple(copy for copy in taken.copies if copy.path not in anew)
        return taken._replace(copies=copies, notes=(*taken.notes, *self.notes))


class Encoders(NamedTuple):
    """The text encoders of an output pipeline that some adapter has a part for.

    Attributes:
        giver: what the pipeline is called that they are taken from.
        model: the model that it is of, or None.
        found: by the title that adapters give them.
    """

    giver: str
    model: str | None
    found: Mapping[str, _Encoder]

    def fused(
        self,
        sources: Sequence[AdapterSource],
        adapters: Sequence[Adapter],
        models: Mapping[str, Model],
        units: Sequence[str],
    ) -> tuple[Fused, ...]:
        """Return adapters on their models, and their parts for these encoders; as `fuse`.

        An adapter onto another model than the one that gives the encoders has no such part.

        Raises:
            AdapterError, RecipeError: as `fuse`, of these parts too.
            CheckpointError, OSError: an adapter is no longer the file that was opened.
        """
        parts = [
            [
                part_for(adapter, title, encoder.shapes, source.compat)
                for title, encoder in self.found.items()
                if title in adapter.elsewhere and source.onto in (None, self.model)
            ]
            for source, adapter in zip(sources, adapters, strict=True)
        ]
        return fuse(sources, adapters, models, units, parts)

    def changed(self, inputs: Inputs, files: int, outputs: int) -> Changed:
        """Return the files that hold what adapters change.

        Args:
            inputs: what the adapters are; the files become sources.
            files: how many files of the output stand before them.
            outputs: how many tensors do.

        Raises:
            AdapterError: what is changed is no float.
        """
        whole: list[OutFile] = []
        tensors: list[OutputTensor] = []
        units: list[Unit] = []
        notes: list[str] = []
        read_bytes = 0
        for title, encoder in self.found.items():
            parts = [a.encoders[title] for a in inputs.adapters if title in a.encoders]
            fused = [part for part in parts if part.strengths]
            for at, inside in _touched(encoder, fused):
                path, metadata = encoder.paths[at], encoder.checkpoint.files[at].metadata
                for tensor in inside:
                    unit = self._unit(encoder, tensor, fused, inputs)
                    units.append(unit._replace(output=outputs + len(tensors)))
                    tensors.append(
                        OutputTensor(files + len(whole), tensor.name, _dtype(tensor), tensor.shape)
                    )
                whole.append(OutFile(path, metadata))
                read_bytes += sum(tensor.nbytes for tensor in inside)
            if fused:
                changed = {name for part in fused for name in part.strengths}
                read_bytes += sum(part.nbytes(name) for part in fused for name in part.strengths)
                names = ", ".join(quoted(part.name) for part in fused)
                notes.append(f"{encoder.component}: {names} in {counted(len(changed), 'tensor')}")
        return Changed(tuple(whole), tuple(tensors), tuple(units), tuple(notes), read_bytes)

    def _unit(
        self, encoder: _Encoder, tensor: TensorInfo, fused: Sequence[Fused], inputs: Inputs
    ) -> Unit:
        """Return what makes one tensor of an encoder; what no adapter changes is copied."""
        name = f"{encoder.component}.{tensor.name}"
        source = inputs.file(encoder.checkpoint.files[tensor.file])
        terms: Operand = (Rows(source, tensor.name, 0, tensor.rows),)
        changing = [part for part in fused if name in part.strengths]
        for part in changing:
            if tensor.dtype not in FLOATS:
                raise AdapterError(
                    f"{part.field}: {quoted(part.name)} changes {quoted(name)}, which is "
                    f"{tensor.dtype}, expected floats",
                    hint="take the pipeline from one whose text encoders are not quantised",
                )
            terms = inputs.with_added(part, name, terms)
        blend = copied(self.giver)
        if changing:
            words = adapted(self.giver, {self.giver: [part.words(name) for part in changing]})
            blend = replace(blend, op="linear", arguments={"weights": [1.0]}, words=words)
        return Unit(name, "encoder", blend, (terms,), 0, tensor.rows)


def open_encoders(
    recipe: Recipe, models: Mapping[str, Model], adapters: Sequence[Adapter]
) -> Encoders:
    """Return the text encoders that a pipeline is written with and adapters have parts for.

    Those whose weights are no safetensors are not among them.

    Raises:
        RecipeError, CheckpointError, OSError: as `take_over`.
    """
    wanted = {title for adapter in adapters for title in adapter.elsewhere}
    name = recipe.output.pipeline_from
    if name is None or wanted.isdisjoint(ENCODERS):
        return Encoders("", None, {})
    giver = giver_of(name, models, "pipeline_from")
    found = {}
    for title, component in ENCODERS.items():
        if title not in wanted or component not in giver.pipeline.names:
            continue
        taken = files_of(giver.pipeline.component(component), recipe.output.link).copies
        weights = [copy for copy in taken if is_safetensors(copy.path)]
        if weights:
            files = open_files(giver.pipeline.folder / component, [c.source for c in weights])
            found[title] = _Encoder(component, files, tuple(copy.path for copy in weights))
    return Encoders(giver.name, name if name in models else None, found)


def _touched(encoder: _Encoder, fused: Sequence[Fused]) -> Iterator[tuple[int, list[TensorInfo]]]:
    """Yield the files that hold what is changed: which, and its tensors in data order."""
    changed = {name for part in fused for name in part.strengths}
    for at in range(len(encoder.paths)):
        inside = [t for t in encoder.checkpoint.tensors.values() if t.file == at]
        if not changed.isdisjoint(f"{encoder.component}.{tensor.name}" for tensor in inside):
            yield at, sorted(inside, key=lambda t: data_key(t.name, _dtype(t)))


def _dtype(tensor: TensorInfo) -> str:
    return dtype_of(tensor.name, {tensor.dtype}, "same")
