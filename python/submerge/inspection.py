"""What a checkpoint is, from its headers alone; nothing is refused, what is wrong is said."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import Checkpoint, open_checkpoint
from submerge.errors import CheckpointError, LayoutError
from submerge.layout import Model, depths_of, identify
from submerge.plan.precision import precision_of
from submerge.plan.sizes import bytes_in_words

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Inspection", "inspect"]

_VALUE_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint is.

    Attributes:
        path: what was inspected.
        form: `file`, `sharded` or `pipeline`.
        variant: the model in words, or None when it is none that submerge merges.
        layout: `diffusers`, `bfl` or `generic`, or None; `prefix` stands before its names.
        prefix: what stands before the transformer's tensor names.
        architecture: widths and block counts, or None where they are not known.
        problem: why the model cannot be merged, with a hint, or None.
        files: the size in bytes of each weight file.
        tensors: how many tensors there are.
        elements: how many numbers they hold.
        dtypes: bytes of tensor data by element type, as the files spell them.
        precision: of a model, what its tensors hold: for each dtype or number format `tensors`,
            `elements` and `bits`, the bits per weight with scales beside them.
        extras: tensors outside the transformer (VAE, text encoders), counted by namespace.
        metadata: the text metadata of the first file.
        config: the config.json beside the weights, or None.
        pipeline: the pipeline folder the weights belong to, or None.
        warnings: what is odd but does not stop a merge.
    """

    path: Path
    form: str
    variant: str | None
    layout: str | None
    prefix: str
    architecture: Mapping[str, Any] | None
    problem: str | None
    files: Mapping[str, int]
    tensors: int
    elements: int
    dtypes: Mapping[str, int]
    precision: Mapping[str, Mapping[str, float]]
    extras: Mapping[str, int]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    pipeline: Path | None
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        what = self.variant or "not a model that submerge merges"
        return f"<Inspection {str(self.path)!r}: {what}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data, ready for JSON."""
        plain = {"format": "submerge-inspection/1", **asdict(self)}
        plain["path"] = str(self.path)
        plain["pipeline"] = None if self.pipeline is None else str(self.pipeline)
        return plain

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the findings as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def text(self) -> str:
        """Return the findings in words, a fact a line."""
        facts = {
            "path": f"{self.path} ({self.form}, {bytes_in_words(sum(self.files.values()))})",
            "model": self.variant or "not a model that submerge merges",
            "layout": self._layout(),
            "architecture": self._architecture(),
            "tensors": f"{self.tensors:,}, {self.elements:,} elements",
            "dtypes": ", ".join(f"{t} {bytes_in_words(n)}" for t, n in self.dtypes.items()),
            "precision": self._precision(),
            "extras": ", ".join(f"{name} {n:,} tensors" for name, n in self.extras.items()),
            "pipeline": str(self.pipeline or ""),
        }
        lines = [f"{name + ':':<14}{value}" for name, value in facts.items() if value]
        lines += [f"{'metadata:':<14}{key} = {_cut(text)}" for key, text in self.metadata.items()]
        lines += [f"{'file:':<14}{name} {bytes_in_words(n)}" for name, n in self.files.items()]
        lines += [f"{'warning:':<14}{text}" for text in self.warnings]
        lines += [] if self.problem is None else [f"{'problem:':<14}{self.problem}"]
        return "\n".join(lines)

    def _precision(self) -> str:
        return ", ".join(
            f"{name} {p['tensors']:,} tensors ({p['bits']:.2f} bits per weight)"
            for name, p in self.precision.items()
        )

    def _layout(self) -> str:
        prefix = f", prefix `{self.prefix}`" if self.prefix else ""
        return (self.layout or "") + prefix

    def _architecture(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in (self.architecture or {}).items())


def inspect(
    path: str | os.PathLike[str], *, layout: str = "auto", nvfp4: str = "auto"
) -> Inspection:
    """Say what a checkpoint is, reading its headers only.

    A file that is sound but not a model submerge merges (a LoRA, a text encoder, another family)
    is described all the same, with the reason in `problem`; so is one whose scales do not fit.

    Args:
        path: a checkpoint file or folder.
        layout: what to expect: `auto`, `diffusers`, `bfl`, `comfy` or `generic`.
        nvfp4: whose NVFP4 codes it has, where the file does not say: `comfy` or `bfl`.

    Raises:
        CheckpointError: the file is damaged or not safetensors.
        OSError: it cannot be read.
    """
    checkpoint = open_checkpoint(path)
    problem: str | None = None
    model: Model | None = None
    try:
        model = identify(checkpoint, layout=layout, nvfp4=nvfp4)
    except (CheckpointError, LayoutError) as error:
        problem = str(error)
    dtypes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        dtypes[tensor.packed.dtype if tensor.packed else tensor.dtype] += tensor.nbytes
    tensors = (model.checkpoint if model else checkpoint).tensors.values()
    return Inspection(
        path=checkpoint.path,
        form=checkpoint.form,
        variant=model.variant if model else None,
        layout=model.layout if model else None,
        prefix=model.prefix if model else "",
        architecture=_architecture(model),
        problem=problem,
        files={file.path.name: file.size for file in checkpoint.files},
        tensors=len(tensors),
        elements=sum(tensor.elements for tensor in tensors),
        dtypes=dict(dtypes.most_common()),
        precision={
            name: {"tensors": p.tensors, "elements": p.elements, "bits": p.bits}
            for name, p in precision_of(tensors).items()
        },
        extras=_extras(model),
        metadata=_metadata(checkpoint),
        config=checkpoint.config,
        pipeline=checkpoint.pipeline,
        warnings=model.checkpoint.warnings if model else checkpoint.warnings,
    )


def _architecture(model: Model | None) -> dict[str, Any] | None:
    """Return family, block counts and widths; None where they are not known."""
    if model is None or not model.arch.depths:
        return None
    plain = asdict(model.arch)
    del plain["depths"]
    return {"family": plain.pop("family"), **depths_of(model.arch), **plain}


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    return dict(checkpoint.files[0].metadata) if checkpoint.files else {}


def _extras(model: Model | None) -> dict[str, int]:
    names = model.extras if model else ()
    return dict(Counter(name.partition(".")[0] for name in names))


def _cut(text: str) -> str:
    line = text.replace("\n", " ")
    return (
        line if len(line) <= _VALUE_LIMIT else f"{line[:_VALUE_LIMIT]}… ({len(line):,} characters)"
    )
