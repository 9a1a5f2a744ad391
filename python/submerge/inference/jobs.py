"""The images a run has to paint: what decides each, and those that a run before has painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.errors import CheckpointError
from submerge.inference.images import GeneratedImage, read_metadata
from submerge.run import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from submerge.documents import ImageDocument
    from submerge.documents.painting import PaintedModel
    from submerge.inference.loading import LoadedModel
    from submerge.inference.options import InferenceOptions
    from submerge.inference.parts import Parts

__all__ = ["Job", "already", "is_painted", "jobs_of"]


class Job(NamedTuple):
    """An image to paint; `place` is where it stands in the result."""

    place: int
    prompt_index: int
    prompt: str
    seed: int
    metadata: ImageDocument
    path: Path | None


def jobs_of(
    model: LoadedModel,
    parts: Parts,
    options: InferenceOptions,
    prompts: Sequence[str],
    folder: Path | None,
) -> list[Job]:
    """Return the images of every prompt with every seed.

    Args:
        model: what paints them.
        parts: of it, or what it would have if it were merged anew.
        options: with every default filled in.
        prompts: their texts.
        folder: where they are written, or None.
    """
    painted = _painted_model(model, parts)
    jobs: list[Job] = []
    for prompt_index, prompt in enumerate(prompts):
        for seed in options.all_seeds:
            metadata: ImageDocument = {
                "format": "submerge-image/1",
                "version": __version__,
                "model": painted,
                "prompt": prompt,
                "seed": seed,
                "options": options.to_dict(),
            }
            path = None if folder is None else folder / f"{prompt_index:04d}-{seed}.png"
            jobs.append(Job(len(jobs), prompt_index, prompt, seed, metadata, path))
    return jobs


def _painted_model(model: LoadedModel, parts: Parts) -> PaintedModel:
    found: PaintedModel = {
        "name": model.name,
        "fingerprint": model.fingerprint if parts is model.parts else parts.fingerprint(),
        "recipe": parts.recipe,
        "dtype": model.plan.dtype,
        "quantization": model.plan.chosen.quantization,
    }
    if parts.adapters:
        found["adapters"] = [
            {"name": fused.name, "scale": fused.source.scale.plain(), "compat": fused.source.compat}
            for fused in parts.adapters
        ]
    return found


def is_painted(job: Job) -> bool:
    """Tell whether a run before this one has written the image of a job."""
    if job.path is None or not job.path.exists():
        return False
    try:
        return read_metadata(job.path) == job.metadata
    except (CheckpointError, OSError):
        return False  # another program's, or damaged: painted again


def already(job: Job) -> GeneratedImage | None:
    """Return the image a run before this one has written for the job."""
    if job.path is None or not is_painted(job):
        return None
    from PIL import Image

    try:
        with Image.open(job.path) as file:
            image = file.convert("RGB")
    except OSError:
        return None
    return GeneratedImage(
        image,
        job.prompt,
        job.prompt_index,
        job.seed,
        job.metadata["options"],
        job.metadata,
        path=job.path,
    )
