"""The documents about adapters: what one is and how strong where, and what making one did."""

from __future__ import annotations

from typing import Literal, TypedDict

from submerge.documents.figures import Run  # noqa: TC001 - types of fields are read
from submerge.documents.form import Figure  # noqa: TC001 - types of fields are read

__all__ = ["AdapterDocument", "AdapterRow", "MadeRow", "MakingDocument"]


class AdapterRow(TypedDict):
    """What an adapter does to one part of one block.

    Attributes:
        block: `double.7`, `single.37`, or the part's name outside the blocks.
        stream: `img` or `txt` in a double block; else empty.
        part: `attn.q`, `mlp`, `mod`, ...
        kinds: `LoRA`, `DoRA`, `LoHa`, `LoKr`, `difference`, each once.
        ranks: the ranks of its products, each once.
        alphas: the alphas the file holds, each once.
        scales: what products are multiplied by, each once.
        elements: elements of the units that are changed.
        norm: length of what is added; null where it was not measured.
        relative: that over the model's; null without a model.
    """

    block: str
    stream: str
    part: str
    kinds: list[str]
    ranks: list[int]
    alphas: list[float]
    scales: list[float]
    elements: int
    norm: Figure
    relative: Figure


class AdapterDocument(TypedDict):
    """What `submerge lora info` says.

    Attributes:
        submerge: the version that wrote it.
        path: the file or folder.
        kind: in words.
        names: whose names its keys are; null where none fits.
        trainer: what wrote it; null where the file does not say.
        trained_on: the model it was trained on; null where the file does not say.
        model: the model it was looked at on.
        problem: why it does not fit that model; null where it does.
        norm: length of all that is added; `relative` over the model's.
        rows: one for each stream and part of each block.
        unmatched: keys that have no place in the model, with the reason.
        elsewhere: keys for other models of a pipeline, counted.
        metadata: the header's text.
    """

    format: Literal["submerge-adapter/1"]
    submerge: str
    path: str
    kind: str
    names: str | None
    trainer: str | None
    trained_on: str | None
    model: str
    problem: str | None
    norm: Figure
    relative: Figure
    rows: list[AdapterRow]
    unmatched: dict[str, str]
    elsewhere: dict[str, int]
    metadata: dict[str, str]


class MadeRow(TypedDict):
    """What became of one module.

    Attributes:
        block: the block it lies in, or the part where it lies in none.
        part: the part; of a module that stacks several, each of them.
        name: its name in the form it is written in.
        rank: its rank; 0 where it is no product or is left out.
        norm: length of what it adds; 0 where it is a tensor's new value.
        residual: length of what is missing in it, as a share of that.
    """

    block: str
    part: str
    name: str
    rank: int
    norm: Figure
    residual: Figure


class MakingDocument(TypedDict):
    """What making an adapter did.

    Attributes:
        submerge: the version that made it.
        path: the file.
        residual: length of what is missing, as a share of all differences.
        modules: in file order.
        notes: what has no place in it, and whatever else is unusual.
        run: time, memory and speed.
    """

    format: Literal["submerge-making/1"]
    submerge: str
    path: str
    residual: Figure
    modules: list[MadeRow]
    notes: list[str]
    run: Run
