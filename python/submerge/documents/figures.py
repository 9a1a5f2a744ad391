"""The documents about models: the report of a merge, and an analysis of two."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

__all__ = ["AnalysisDocument", "AnalysisRow", "MergeDocument", "MergeFigures", "MergeRow", "Spot"]


class Spot(TypedDict):
    """Elements of one unit that are infinite or NaN, or too large for the output's dtype.

    Attributes:
        model: the input they are in; empty for the output.
        unit: the unit's canonical name.
        elements: how many.
        first: flat index of the first in the unit.
        row: the row it lies in.
    """

    model: str
    unit: str
    elements: int
    first: int
    row: int


class Run(TypedDict):
    """How a run went.

    Attributes:
        seconds: wall time inside the core; `phases` splits it.
        bytes_read: bytes of tensor data read.
        bytes_written: bytes written, headers included.
        working_bytes: memory reserved for buffers.
        peak_rss: peak resident memory of the whole process in bytes.
        threads: worker threads used.
        chunk: elements computed at a time.
        io: how files were read.
        isa: the instruction set the kernels used.
        statistics_computed: units whose statistics were computed before they were made.
        statistics_reused: units whose statistics were in the statistics cache.
        statistics_cache: `on`, `off`, or why it was not used.
        bytes_per_second: bytes read and written for each second.
    """

    seconds: float
    phases: dict[str, float]
    bytes_read: int
    bytes_written: int
    working_bytes: int
    peak_rss: int
    threads: int
    chunk: int
    io: str
    isa: str
    statistics_computed: NotRequired[int]
    statistics_reused: NotRequired[int]
    statistics_cache: NotRequired[str]
    bytes_per_second: NotRequired[float]


class Parent(TypedDict):
    """One model of a merge.

    Attributes:
        name: what the recipe calls it.
        label: hub id or base name; never a machine path.
        variant: what it was identified as.
        license: SPDX id or licence name, with the evidence for it.
        contributes: whether any byte of the output comes from it.
        precision: what its numbers are stored in, if it is quantised, else empty.
    """

    name: str
    label: str
    variant: str
    license: str
    contributes: bool
    precision: NotRequired[str]


class Applied(TypedDict):
    """One adapter of a merge.

    Attributes:
        name: what formulas call it.
        label: hub id or base name; never a machine path.
        kind: what it is, in words.
        onto: the model it was added to; null for the result.
        license: SPDX id or licence name, with the evidence for it.
        contributes: whether it changed any byte of the output.
    """

    name: str
    label: str
    kind: str
    onto: str | None
    license: str
    contributes: bool


class Unused(TypedDict):
    """Input tensors with no place of their own in the output.

    Attributes:
        model: whose tensors.
        tensors: their names; a tensor used in part is named with the rows that are not.
        reason: why.
    """

    model: str
    tensors: list[str]
    reason: str


class Pair(TypedDict):
    """Two models over some units.

    Attributes:
        first: the model the other is measured against.
        second: the other model.
        cosine: of the two; null when either is zero.
        relative_l2: `|second - first| / |first|`; null when the first is zero.
    """

    first: str
    second: str
    cosine: float | None
    relative_l2: float | None


class MergeFigures(TypedDict):
    """What became of some units.

    Attributes:
        formulas: how its units were made, in words, each once.
        elements: elements of the output.
        changed: elements whose value differs from the first operand's.
        nonfinite: infinite and NaN elements of the inputs.
        nonfinite_out: the same, of the output.
        pairs: each further model against the first.
        shares: the weight of each model, averaged over the elements.
        error: `|written - value| / |value|` of what is in few bits; null of all else.
        sqnr: the same as a ratio of signal to noise, in decibels.
    """

    formulas: list[str]
    elements: int
    changed: int
    nonfinite: int
    nonfinite_out: int
    pairs: list[Pair]
    shares: dict[str, float]
    error: NotRequired[float | None]
    sqnr: NotRequired[float | None]


class MergeRow(MergeFigures):
    """What became of one part of one stream of one block.

    Attributes:
        block: `double.7`, `single.37`, or the part's name outside the blocks.
        stream: `img` or `txt` in a double block; else empty.
        part: `attn.q`, `mlp`, `mod`, ...
    """

    block: str
    stream: NotRequired[str]
    part: str


class Rounding(TypedDict):
    """The energy that rounding took from what the formulas changed.

    Attributes:
        lost: `|written - value|^2`.
        change: `|value - first operand|^2`.
        worst: the unit where the share of the two is largest, and `worst_share`.
        share: `lost / change`; null where nothing changed.
    """

    lost: float
    change: float
    worst: str
    worst_share: float
    share: float | None


class Quantisation(TypedDict):
    """What writing in few bits lost of the whole output.

    Attributes:
        formats: the number formats of the units that were measured.
        error: `|written - value| / |value|`.
        sqnr: the same as a ratio of signal to noise, in decibels; null without noise.
        worst: the unit where the error is largest, and `worst_error`.
    """

    formats: list[str]
    error: float
    sqnr: float | None
    worst: str
    worst_error: float


class MergeFindings(TypedDict):
    """What was found in the numbers of a merge.

    Attributes:
        nonfinite: where the inputs hold infinite or NaN elements.
        overflow: where the output's dtype could not hold a result of finite inputs.
        rounding: what rounding lost; null where nothing was computed.
        quantisation: what writing in few bits lost; null where nothing was written so.
        equal: the units that came out as one model has them, by model.
        whole: the models that the whole result is equal to.
        vanished: the units of which rounding left little or nothing.
        notes: what was unusual about units, and the units.
    """

    nonfinite: list[Spot]
    overflow: list[Spot]
    rounding: Rounding | None
    quantisation: NotRequired[Quantisation | None]
    equal: dict[str, list[str]]
    whole: list[str]
    vanished: list[str]
    notes: dict[str, list[str]]


class InheritedRounding(TypedDict):
    """What the numbers of a quantised parent had lost before the merge, estimated from its scales.

    Attributes:
        model: what the recipe calls it.
        relative: length of the errors, as a share of that of the quantised numbers.
        blocks: the same for each block.
    """

    model: str
    relative: float
    blocks: dict[str, float]


class MergeDocument(TypedDict):
    """What `submerge merge --json` and `convert --json` print, and `Report.to_dict()` returns.

    Attributes:
        path: the file or folder written.
        files: the weight files, and the size of each in bytes.
        title: in card and metadata.
        layout: of the output, in words.
        dtype: of the output's numbers.
        guidance: what became of guidance, in words.
        license: of the output, with the parent it comes from.
        parents: the models.
        notes: what a reader should know: of the plan, then of the result.
        unused: input tensors that were not used.
        recipe: as it was given.
        rows: one for each part of each block.
        findings: what was found in the numbers.
        inherited: what quantised parents had lost before; only there if one is.
        run: time, memory and speed.
        versions: of submerge, its numerics, Python and the system.
    """

    format: Literal["submerge-merge/1"]
    path: str
    files: dict[str, int]
    title: str
    layout: str
    dtype: str
    guidance: str
    license: str
    parents: list[Parent]
    adapters: NotRequired[list[Applied]]
    notes: list[str]
    unused: list[Unused]
    recipe: dict[str, Any]
    rows: list[MergeRow]
    findings: MergeFindings
    inherited: NotRequired[list[InheritedRounding]]
    run: Run
    versions: dict[str, Any]


class AnalysisFigures(TypedDict):
    """Two models a and b, over some units; docs/analyze.md says what each figure is.

    Attributes:
        units, identical_units, elements: units both models have, those equal throughout, elements.
        cosine, norm_ratio, norm_a, norm_b: of a and b.
        delta_norm, relative_delta: `|b - a|`, and as a share of `|a|`.
        identical, below_rounding: shares of the elements.
        effective_rank, rank_share: of b - a.
        nonfinite: infinite and NaN elements.
        delta_cosine, delta_norm_a, delta_norm_b: of a - base and b - base.
        sign_conflict, sign_conflict_weighted: of elements both changed.
        effective_rank_a, effective_rank_b: of a - base and b - base.
    """

    units: int
    identical_units: int
    elements: int
    cosine: float | None
    norm_ratio: float | None
    norm_a: float
    norm_b: float
    delta_norm: float
    relative_delta: float | None
    identical: float | None
    below_rounding: float | None
    effective_rank: float | None
    rank_share: float | None
    nonfinite: int
    delta_cosine: NotRequired[float | None]
    delta_norm_a: NotRequired[float]
    delta_norm_b: NotRequired[float]
    sign_conflict: NotRequired[float | None]
    sign_conflict_weighted: NotRequired[float | None]
    effective_rank_a: NotRequired[float | None]
    effective_rank_b: NotRequired[float | None]


class AnalysisRow(AnalysisFigures):
    """The figures of one part of one block.

    Attributes:
        block: `double.7`, or the part's name outside the blocks.
        stream: `img` or `txt` in a double block; else empty.
        part: `attn.q`, `mod`, ...
        sums: what the figures are made of; sums of rows add up.
    """

    block: str
    stream: NotRequired[str]
    part: str
    sums: dict[str, float]


class AnalysisDocument(TypedDict):
    """What `submerge analyze --json` and `Analysis.save` write.

    Attributes:
        submerge: the version that made it.
        models: the names, by role: `a`, `b` and perhaps `base`.
        paths: where they were read, by role.
        alpha: the share of b in the merge that `below_rounding` asks about.
        dtype: what that merge would be rounded to; null: the dtypes of a.
        layout: what the models were taken for, as in a recipe.
        guided: the roles of the models with a guidance embedder.
        blocks: one row for each part of each block, in execution order.
        totals: the figures of the whole.
        nonfinite: where elements are infinite or NaN, unit by unit.
        notes: what could not be compared, and why.
        run: time, memory and speed; null if the analysis was read from a file.
    """

    format: Literal["submerge-analysis/1"]
    submerge: str
    models: dict[str, str]
    paths: dict[str, str]
    alpha: float
    dtype: str | None
    layout: str
    guided: list[str]
    blocks: list[AnalysisRow]
    totals: AnalysisFigures
    nonfinite: list[Spot]
    notes: list[str]
    run: Run | None
