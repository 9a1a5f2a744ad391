"""The documents of verbs that only look: what a model is, whether it is sound, how two differ."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from submerge.documents.figures import MergeFigures, MergeRow  # noqa: TC001 - read at run time

__all__ = ["CheckRow", "DifferenceDocument", "InspectionDocument", "VerificationDocument"]


class PrecisionRow(TypedDict):
    """The tensors of one dtype or number format.

    Attributes:
        tensors, elements: how many tensors there are, and how many numbers they hold.
        bits: per weight, with those of scales beside them.
    """

    tensors: int
    elements: int
    bits: float


class InspectionDocument(TypedDict):
    """What `submerge inspect --json` prints, and `Inspection.to_dict()` returns.

    Attributes:
        path: what was inspected.
        form: `file`, `sharded` or `pipeline`.
        variant: the model in words; null when it is none that submerge merges.
        layout: `diffusers`, `bfl`, `generic` or null; `prefix` stands before its names.
        architecture: widths and block counts; null where they are not known.
        problem: why the model cannot be merged, with a hint; null when it can.
        files: the size in bytes of each weight file.
        tensors, elements: how many tensors there are, and how many numbers they hold.
        dtypes: bytes of tensor data by element type, as the files spell them.
        precision: what the tensors hold, by dtype or number format.
        extras: tensors outside the transformer, counted by namespace.
        metadata: the text metadata of the first file.
        config: the config.json beside the weights, or null.
        pipeline: the pipeline folder the weights belong to, or null.
        warnings: what is odd but does not stop a merge.
    """

    format: Literal["submerge-inspection/1"]
    path: str
    form: str
    variant: str | None
    layout: str | None
    prefix: str
    architecture: dict[str, Any] | None
    problem: str | None
    files: dict[str, int]
    tensors: int
    elements: int
    dtypes: dict[str, int]
    precision: dict[str, PrecisionRow]
    extras: dict[str, int]
    metadata: dict[str, str]
    config: dict[str, Any] | None
    pipeline: str | None
    warnings: list[str]


class CheckRow(TypedDict):
    """One thing that was looked at.

    Attributes:
        name: of the check.
        passed: whether it is right.
        found: what was found, in words.
    """

    name: str
    passed: bool
    found: str


class VerificationDocument(TypedDict):
    """What `submerge verify --json` prints, and `Verification.to_dict()` returns.

    Attributes:
        path: the model.
        passed: whether every check passed.
        checks: what was looked at, in order.
        remarks: what is odd but stops nothing.
    """

    format: Literal["submerge-verification/1"]
    path: str
    passed: bool
    checks: list[CheckRow]
    remarks: list[str]


class DifferenceDocument(TypedDict):
    """What `submerge diff --json` prints, and `Difference.to_dict()` returns.

    Attributes:
        models: the two names and the paths they stand for, first and second.
        equal: whether every element of every unit both have is the same.
        notes: what only one has, what is compared rounded, whether they look like relatives.
        total: the sum of the rows.
        rows: one for each part of each stream of each block; `changed` counts the elements that
            differ, and the pair holds cosine and relative L2 of the second against the first.
    """

    format: Literal["submerge-difference/1"]
    models: dict[str, str]
    equal: bool
    notes: list[str]
    total: MergeFigures
    rows: list[MergeRow]
