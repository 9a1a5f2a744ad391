"""The document about an adapter: what it is, and how strong it is where."""

from __future__ import annotations

from typing import Literal, TypedDict

from submerge.documents.form import Figure  # noqa: TC001 - types of fields are read

__all__ = ["AdapterDocument", "AdapterRow"]


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
