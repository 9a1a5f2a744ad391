"""The files of a pipeline: a transformer in any layout, and the folder of its companions.

Reads headers and configs only, and refuses what diffusers would open as something else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from submerge.adapters import open_adapter
from submerge.checkpoint import FLOATS, NUMBERS, open_checkpoint
from submerge.checkpoint.dtypes import WORDS
from submerge.checkpoint.reading import Reading
from submerge.errors import LayoutError, RecipeError, listing
from submerge.files import path_of
from submerge.inference.activations import Shapes
from submerge.inference.codes import packings_of
from submerge.inference.companions import Companions, check_pipeline, open_companions
from submerge.inference.decoded import of_transformer
from submerge.inference.quantized import PACKED, QUANTIZATIONS, stored_bytes, unpacked_bytes
from submerge.inference.sizes import Sizes, Stored
from submerge.layout import Model, identify, tensors_of
from submerge.merge import MergedModel
from submerge.plan.adapted import fuse
from submerge.plan.labels import label
from submerge.recipe import AdapterSource
from submerge.view import View

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from submerge.inference.codes import Packing
    from submerge.opened import Opened
    from submerge.plan.adapted import Fused

__all__ = ["Parts", "find_parts", "with_lent"]

_TEXT = ("text_encoder", "text_encoder_2")
_CHANNELS = 64
# How much of each tensor speaks for it in the fingerprint.
_SAMPLE = 4096


@dataclass(frozen=True)
class Parts:
    """A model and what paints with it.

    Attributes:
        model: the transformer, its layout known.
        beside: text encoders, tokenizers, VAE and scheduler.
        name: what the model is called in public.
        own_scheduler: whether the scheduler belongs to this model.
        adapters: what is added to the transformer as it is read.
        given: the same as it was asked for.
        view: the merge whose tensors the transformer's are, if it was never written.
    """

    model: Model
    beside: Companions
    name: str
    own_scheduler: bool
    adapters: tuple[Fused, ...] = ()
    given: tuple[str | Mapping[str, Any], ...] = ()
    view: View | None = None

    def opened(self, dtype: str) -> Opened | None:
        """Return the transformer in diffusers' names and a dtype, as a merge would write it.

        None where every tensor is rows of its files.

        Args:
            dtype: as torch writes it: `bfloat16`, `float16` or `float32`.

        Raises:
            AdapterError: an adapter holds numbers that are not finite.
            OSError: a file cannot be read.
        """
        if self.view is not None:
            return self.painted(self.view, dtype).opened
        if not self.adapters and all(u.dtype in FLOATS for u in self.model.units.values()):
            return None
        return of_transformer(self.model, dtype, self.adapters, self.given)

    def painted(self, view: View, dtype: str) -> View:
        """Return a view with the adapters, in diffusers' names and a dtype as torch writes it."""
        added = [*view.recipe.to_dict().get("adapters", ()), *self.given]
        adapted = view.with_(adapters=added) if self.given else view
        return adapted.as_(layout="diffusers", dtype=WORDS[dtype].lower())

    @property
    def packings(self) -> dict[str, Packing]:
        """The transformer's parameters that can stay in the codes of its files."""
        changed = {unit for fused in self.adapters for unit in fused.strengths}
        return packings_of(self.model, changed)

    @property
    def companions(self) -> Path:
        """The pipeline folder that text encoders, tokenizers, VAE and scheduler are from."""
        return self.beside.folder

    @property
    def guided(self) -> bool:
        """Whether the transformer has a guidance embedder."""
        return self.model.arch.guidance

    @property
    def few_step_parent(self) -> bool:
        """Whether a model without guidance is among the parents that the file names."""
        inputs = self._declared("submerge.inputs")
        if not isinstance(inputs, list):
            return False
        models = (entry for entry in inputs if isinstance(entry, Mapping) and "units" in entry)
        units = {str(entry["units"]) for entry in models}  # of adapters, tensors are counted
        return self.guided and len(units) > 1

    @property
    def metadata(self) -> Mapping[str, str]:
        """The text metadata of the transformer's first file."""
        return self.model.checkpoint.files[0].metadata

    @property
    def recipe(self) -> Any:
        """The recipe the transformer was merged by, where its file tells it."""
        return self._declared("submerge.recipe")

    def _declared(self, field: str) -> Any:
        """Return what the file says of itself in JSON; nothing, if anybody wrote something else."""
        try:
            return json.loads(self.metadata.get(field, "null"))
        except (ValueError, RecursionError):
            return None

    def config(self, component: str) -> dict[str, Any]:
        """Return the config of a companion."""
        return self.beside.configs[component]

    def default_size(self) -> int:
        """Pixels along each side of an image: 1024 for FLUX.1."""
        levels = len(self.config("vae").get("block_out_channels", (1,) * 4))
        return int(128 * 2 ** (levels - 1))

    def check_size(self, width: int, height: int, where: str = "") -> None:
        """Refuse sides of an image that are no multiple of the pipeline's patch.

        Raises:
            RecipeError: naming the field after `where`.
        """
        patch = self.default_size() // 64
        for field, pixels in (("width", width), ("height", height)):
            if pixels % patch:
                raise RecipeError(f"{where}{field}: expected a multiple of {patch}, got {pixels}")

    def sizes(self, itemsize: int) -> Sizes:
        """Return the bytes of the parts when every number takes `itemsize` bytes."""
        text = [
            _layers(
                (name, tensor.elements * itemsize)
                for name, tensor in self.beside.weights[part].tensors.items()
            )
            for part in _TEXT
        ]
        vae = self.beside.weights["vae"].tensors.values()
        packings = self.packings
        return Sizes(
            text=sum(sum(part.values()) for part in text),
            text_layer=max(max(part.values()) for part in text),
            transformer=self._stored(None, itemsize),
            coded=self._coded(packings, itemsize) if packings else None,
            quantized={kind: self._stored(kind, itemsize) for kind in QUANTIZATIONS},
            vae=sum(tensor.elements for tensor in vae) * itemsize,
            shapes=self._shapes(itemsize),
        )

    def _stored(self, quantization: str | None, itemsize: int) -> Stored:
        """Return the bytes of the transformer's weights, quantised or as numbers."""
        return self._sized(
            {
                tensor.name: (
                    stored_bytes(quantization, tensor.name, tensor.shape, itemsize),
                    unpacked_bytes(quantization, tensor.name, tensor.shape, itemsize),
                )
                for tensor in tensors_of(self.model.arch, "diffusers")
            },
            "gguf" if quantization in PACKED else None,
        )

    def _coded(self, packings: Mapping[str, Packing], itemsize: int) -> Stored:
        """Return the bytes of the transformer's weights where layers stay in their codes."""
        found = {}
        for tensor in tensors_of(self.model.arch, "diffusers"):
            numbers = math.prod(tensor.shape) * itemsize
            packing = packings.get(tensor.name)
            found[tensor.name] = (
                (numbers, 0) if packing is None else (packing.nbytes(tensor.shape), numbers)
            )
        has_blocks = any(not packing.scaled for packing in packings.values())
        return self._sized(found, "gguf" if has_blocks else None)

    def _sized(self, tensors: Mapping[str, tuple[int, int]], package: str | None) -> Stored:
        """Return what parameters take: in memory, and on top while their layers compute."""
        layers = _layers((name, size) for name, (size, _) in tensors.items())
        blocks: dict[str, int] = defaultdict(int)
        for name, size in layers.items():
            if block := re.match(r"(single_)?transformer_blocks\.[0-9]+\.", name):
                blocks[block[0]] += size
        return Stored(
            total=sum(layers.values()),
            blocks=tuple(blocks.values()),
            layer=max(layers.values()),
            unpacked=max(unpacked for _, unpacked in tensors.values()),
            package=package,
        )

    def _shapes(self, itemsize: int) -> Shapes:
        arch, t5, vae = self.model.arch, self.config("text_encoder_2"), self.config("vae")
        return Shapes(
            hidden=arch.hidden,
            head_dim=arch.head_dim,
            # What a config leaves out is that of FLUX.1's own parts.
            text=t5.get("d_model", 4096),
            text_inner=t5.get("d_ff", 10240),
            text_heads=t5.get("num_heads", 64),
            vae=tuple(vae.get("block_out_channels", (128, 256, 512, 512))),
            itemsize=itemsize,
        )

    def fingerprint(self) -> str:
        """Return a digest of the files' headers and of the first bytes of every tensor.

        It tells models apart without reading them whole; it is no proof that two are equal.
        """
        digest = hashlib.sha256()
        own = (self.model.checkpoint,) if self.view is None else self.view.checkpoints
        if self.view is not None:
            digest.update(self.view.recipe.to_json().encode())
        for checkpoint in (*own, *(a.adapter.checkpoint for a in self.adapters)):
            with Reading(checkpoint) as reading:
                for file in range(len(checkpoint.files)):
                    digest.update(reading.header(file))
                    for tensor in checkpoint.tensors.values():
                        for one in (tensor, *tensor.sides):
                            if one.file == file:
                                digest.update(reading.sample(one, 0, _SAMPLE))
        for fused in self.adapters:
            digest.update(json.dumps([fused.source.compat, dict(fused.strengths)]).encode())
        return digest.hexdigest()


def find_parts(
    source: Any,
    components: str | os.PathLike[str] | None = None,
    adapters: Sequence[str | Mapping[str, Any]] = (),
) -> Parts:
    """Find the files of a pipeline.

    Args:
        source: a pipeline folder, a transformer's folder or file in any layout, or a
            `MergedModel` or a view, whose parents lend what a transformer alone lacks.
        components: the pipeline folder to take text encoders, tokenizers, VAE and scheduler from.
        adapters: what is added to the transformer, as a recipe's field has it.

    Raises:
        AdapterError: an adapter does not fit the transformer.
        CheckpointError: a file is damaged, or a component is missing.
        LayoutError: not a FLUX.1 text-to-image transformer, quantised in a form that is not read,
            or in contradiction to its config.
        RecipeError: a transformer alone, without `components`.
        OSError: a file cannot be read.
    """
    view = source if isinstance(source, View) else None
    path = source.path if isinstance(source, MergedModel) else source
    if view is None:
        path = path_of(path, "model")
        model = identify(open_checkpoint(path))
    else:
        path, model = view.path, view.model
    if model.arch.family != "flux1" or model.arch.in_channels != _CHANNELS:
        raise LayoutError(
            f"{path}: is {model.variant}, expected a FLUX.1 text-to-image transformer",
            hint="it paints from further images; use the diffusers pipeline made for it",
        )
    _check_floats(model)
    own = model.checkpoint.pipeline
    if components is not None:
        folder = check_pipeline(path_of(components, "components"), "components")
    elif own is not None:
        folder = own
    else:
        folder = _of_parents(source, model)
    beside = open_companions(folder, model.arch)
    return Parts(
        model=model,
        beside=beside,
        name=label(str(path)),
        own_scheduler=own == folder,
        adapters=_fused(model, adapters),
        given=tuple(adapters),
        view=view,
    )


def _fused(model: Model, adapters: Sequence[str | Mapping[str, Any]]) -> tuple[Fused, ...]:
    """Return adapters on the one model that is painted with.

    Raises:
        RecipeError: malformed.
        AdapterError, CheckpointError: one is damaged, or does not fit the model.
        OSError: a file cannot be read.
    """
    sources = [
        AdapterSource.parse(raw, f"adapters[{at}]").alone(f"adapters[{at}]")
        for at, raw in enumerate(adapters)
    ]
    opened = [open_adapter(source.path) for source in sources]
    return fuse(sources, opened, {"model": model}, list(model.units))


def with_lent(
    load: Mapping[str, Any],
    source: Any,
    others: Iterable[str | os.PathLike[str] | MergedModel | View],
) -> dict[str, Any]:
    """Return keywords of loading in which a transformer alone is given another model's components.

    A whole pipeline keeps its own, and a merge its parents'; what `load` names goes before.

    Raises:
        CheckpointError, OSError: a model cannot be opened.
    """
    how = dict(load)
    if isinstance(source, MergedModel | View):
        return how
    if open_checkpoint(source).pipeline is not None:
        how.pop("components", None)
    elif how.get("components") is None:
        paths = (one.path if isinstance(one, MergedModel) else one for one in others)
        lent = (open_checkpoint(p).pipeline for p in paths if not isinstance(p, View))
        if (found := next(filter(None, lent), None)) is not None:
            how["components"] = str(found)
    return how


def _check_floats(model: Model) -> None:
    """Refuse numbers of a type that nothing is painted from."""
    painted = NUMBERS - {"F64"}  # merging rounds it once; a pipeline would keep layers of two types
    others: dict[str, str] = {
        unit.place.tensor: unit.dtype for unit in model.units.values() if unit.dtype not in painted
    }
    if others:
        raise LayoutError(
            f"{model.checkpoint.path}: {listing(others)} in {', '.join(sorted({*others.values()}))}"
            f", expected one of {', '.join(sorted(painted))}",
            hint="write the model in F32 or BF16 first",
        )


def _of_parents(source: Any, model: Model) -> Path:
    """Return the first parent of a merge that is a pipeline, one with the same guidance first."""
    found: list[tuple[bool, Path]] = []
    if isinstance(source, MergedModel | View):
        for parent in source.recipe.models.values():
            checkpoint = open_checkpoint(parent.path)
            if checkpoint.pipeline is not None:
                guided = (checkpoint.config or {}).get("guidance_embeds") is True
                found.append((guided != model.arch.guidance, checkpoint.pipeline))
    if not found:
        raise RecipeError(
            f"{model.checkpoint.path}: is a transformer alone, expected a pipeline or `components`",
            hint="name a FLUX.1 pipeline folder as `components`, to take text encoders, "
            "tokenizers, VAE and scheduler from",
        )
    return min(found, key=lambda entry: entry[0])[1]


def _layers(tensors: Iterator[tuple[str, int]]) -> dict[str, int]:
    """Add up the bytes of tensors by the module they belong to."""
    layers: dict[str, int] = defaultdict(int)
    for name, size in tensors:
        layers[name.rpartition(".")[0]] += size
    return dict(layers)
