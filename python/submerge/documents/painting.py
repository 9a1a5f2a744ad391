"""The documents about painting: an image's own, an evaluation, a measurement, a repetition."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from submerge.documents.form import Figure  # noqa: TC001 - the types are read at run time

__all__ = [
    "Better",
    "Comparison",
    "EmbeddingsDocument",
    "EvaluationDocument",
    "ImageDocument",
    "ImageRow",
    "MeasureDocument",
    "Memory",
    "ModelRow",
    "NotRun",
    "PromptRow",
    "QuestionRow",
    "ReproducedImage",
    "ReproductionDocument",
    "Score",
    "Signal",
    "SweepRow",
    "Verdict",
]

Role = Literal["merge", "parent"]
Better = Literal["higher", "lower", "none"]
Verdict = Literal["good", "mixed", "bad", "unknown"]


class Memory(TypedDict):
    """Memory in bytes; null where the system does not tell.

    Attributes:
        rss: resident memory.
        anonymous: of it what the program allocated.
        file: of it pages of mapped files.
        vram: device memory in tensors.
        vram_reserved: device memory held.
    """

    rss: int | None
    anonymous: int | None
    file: int | None
    vram: int | None
    vram_reserved: int | None


class PaintedModel(TypedDict):
    """The model that painted an image.

    Attributes:
        name: what it is called.
        fingerprint: a digest of its names, shapes and recipe.
        recipe: of a merge, the digest of its recipe.
        dtype: what it computed in.
        quantization: how its layers were stored; null: as they are.
    """

    name: str
    fingerprint: str
    recipe: Any
    dtype: str
    quantization: NotRequired[str | None]


class ImageDocument(TypedDict):
    """What decides an image: the chunk `submerge` of its PNG.

    Attributes:
        version: of submerge.
        model: what painted it.
        prompt: its text.
        seed: of its start noise.
        options: what it was painted with, defaults filled in.
    """

    format: Literal["submerge-image/1"]
    version: str
    model: PaintedModel
    prompt: str
    seed: int
    options: dict[str, Any]


class EmbeddingsDocument(TypedDict):
    """What decides the embeddings of a prompt: the metadata `key` of a kept file.

    Attributes:
        encoders: a digest of encoders and tokenizers.
        dtype: what was computed in.
        device: the kind of device that encoded.
        torch, transformers: their versions.
        prompt: the text.
        tokens: how many tokens it was read as.
    """

    format: Literal["submerge-embeddings/1"]
    encoders: str
    dtype: str
    device: str
    torch: str | None
    transformers: str | None
    prompt: str
    tokens: int


class ModelRow(TypedDict):
    """A model that was evaluated: its name, path and role."""

    name: str
    path: str
    role: Role


class PromptRow(TypedDict):
    """A prompt: its id, text and tags."""

    id: str
    text: str
    tags: list[str]


class ImageRow(TypedDict):
    """One painted image.

    Attributes:
        model, prompt, seed: whose image it is.
        path: relative to the folder of the evaluation; null: it lies in no file.
        sha256: of the file.
        seconds: how long it took; 0 for one that was there already.
        phases: seconds of each phase.
        memory: the most of each kind of memory, by phase.
    """

    model: str
    prompt: str
    seed: int
    path: str | None
    sha256: str | None
    seconds: float
    phases: dict[str, float]
    memory: dict[str, dict[str, int | None]]


class Score(TypedDict):
    """One image's score.

    Attributes:
        scorer, unit, better: what was scored, in what unit, which direction is the better one.
        model, prompt, seed: which image.
        value: the score.
    """

    scorer: str
    unit: str
    better: Better
    model: str
    prompt: str
    seed: int
    value: Figure


class Comparison(TypedDict):
    """The merge less a parent, over the prompts and seeds both have.

    Attributes:
        scorer, parent: by what score, and against whom.
        mean_difference: the mean over prompts.
        low, high: the 95 % bootstrap interval.
        pairs: prompts with seeds.
        win_rate: share of the pairs in which the merge is better.
    """

    scorer: str
    parent: str
    mean_difference: Figure
    low: Figure
    high: Figure
    pairs: int
    win_rate: Figure


class Signal(TypedDict):
    """A figure of a model, perhaps against another one, along `x` or alone."""

    signal: str
    model: str
    against: str | None
    x: float | str | None
    value: Figure


class SweepRow(TypedDict):
    """A mean score over the probes, at other steps or guidance."""

    model: str
    steps: int
    guidance: float
    scorer: str
    value: Figure


class QuestionRow(TypedDict):
    """A question with its verdict, and the evidence in sentences."""

    question: str
    verdict: Verdict
    evidence: str


class NotRun(TypedDict):
    """A check that was not run, and why."""

    what: str
    why: str


class EvaluationDocument(TypedDict):
    """What `submerge test` writes as `evaluation.json`.

    Attributes:
        models: the merge first.
        prompts: what was painted.
        options: what the evaluation was told to do, defaults filled in.
        environment: versions, hardware and settings.
        images: one for each model, prompt and seed.
        scores: one for each image and scorer that applies.
        comparisons: the merge beside each parent.
        signals: what the weights themselves say.
        sweep: at other steps and guidance.
        questions: with their verdicts.
        not_run: what was not checked.
        notes: what is known of the weights that speaks against merging them.
    """

    format: Literal["submerge-evaluation/1"]
    models: list[ModelRow]
    prompts: list[PromptRow]
    options: dict[str, Any]
    environment: dict[str, Any]
    images: list[ImageRow]
    scores: list[Score]
    comparisons: list[Comparison]
    signals: list[Signal]
    sweep: list[SweepRow]
    questions: list[QuestionRow]
    not_run: list[NotRun]
    notes: NotRequired[list[str]]


class WorkloadRow(TypedDict):
    """What was painted and timed."""

    name: str
    images: int
    prompt: str
    options: dict[str, Any]


class MeasuredModel(TypedDict):
    """A model that was measured.

    Attributes:
        plan: how it was loaded, in words.
        rounds: processes that were measured.
        import_seconds, load_seconds: medians over them.
        peak: of the whole process, imports and loading included.
    """

    name: str
    path: str
    role: Role
    plan: str
    rounds: int
    import_seconds: float
    load_seconds: float
    peak: Memory


class MeasuredResult(TypedDict):
    """The figures of one model at one workload.

    Attributes:
        images: how many were timed.
        batch: how many at once.
        options: what they were painted with.
        first_seconds: the warm-up, in no other time.
        seconds, least_seconds, most_seconds: each image's share of its batch.
        cpu_seconds: of the process.
        phases: means by phase; `phase_peaks` the most memory.
        images_per_minute: from the mean.
        peak, average: memory.
    """

    model: str
    workload: str
    images: int
    batch: int
    options: dict[str, Any]
    first_seconds: float
    seconds: float
    least_seconds: float
    most_seconds: float
    cpu_seconds: float
    phases: dict[str, float]
    phase_peaks: dict[str, Memory]
    images_per_minute: float
    peak: Memory
    average: Memory


class Sample(Memory):
    """The memory at one moment; `seconds` since the process began."""

    seconds: float


class TimelineSpan(TypedDict):
    """What was done when: start and length in seconds, and how deep it lies."""

    name: str
    start: float
    seconds: float
    thread: int
    depth: int
    details: dict[str, Any]


class TimelineRow(TypedDict):
    """One process over time; `interval` is the seconds between samples."""

    model: str
    round: int
    process: int
    interval: float
    samples: list[Sample]
    spans: list[TimelineSpan]


class MeasureDocument(TypedDict):
    """What `submerge measure` writes. Times in seconds, memory in bytes.

    Attributes:
        environment: versions, hardware and settings.
        workloads: what was painted.
        models: what was measured.
        results: one for each model and workload.
        timelines: one for each process.
    """

    format: Literal["submerge-measure/1"]
    environment: dict[str, Any]
    workloads: list[WorkloadRow]
    models: list[MeasuredModel]
    results: list[MeasuredResult]
    timelines: list[TimelineRow]


class ReproducedImage(TypedDict):
    """How an image painted again differs.

    Attributes:
        path, model, prompt, seed: which image.
        pixels: how many there are.
        different: how many differ; null for another size.
        max, mean: the largest difference of a channel and the mean of all, of 255.
    """

    path: str
    model: str
    prompt: str
    seed: int
    pixels: int
    different: int | None
    max: int | None
    mean: float | None


# What a fact was, and what it is now; the second name is no name for a field of a class.
Change = TypedDict("Change", {"was": Any, "is": Any})


class ReproductionDocument(TypedDict):
    """What `submerge reproduce --json` prints.

    Attributes:
        identical: whether every pixel is as it was.
        images: one for each image painted again.
        changed: what is not as it was.
    """

    format: Literal["submerge-reproduction/1"]
    identical: bool
    images: list[ReproducedImage]
    changed: dict[str, Change]
