"""Paint images: texts first, then batch by batch, each image written as soon as it is done."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

from submerge.errors import Cancelled, RecipeError, counted
from submerge.files import path_of
from submerge.given import shown
from submerge.inference.adapters import adapted
from submerge.inference.failures import explained
from submerge.inference.images import GeneratedImage, InferenceResult
from submerge.inference.jobs import already, jobs_of
from submerge.inference.loading import LoadedModel, load_model
from submerge.inference.options import InferenceOptions, InferenceOptionsDict
from submerge.inference.planner import PHASES
from submerge.inference.quiet import quiet
from submerge.profile import span
from submerge.profile.watch import Watch, larger

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from submerge.inference.jobs import Job
    from submerge.inference.request import Paintable

__all__ = ["InferenceResult", "run_inference"]


@dataclass
class _Spent:
    """What a part of a phase took: seconds, and the most bytes held by kind."""

    seconds: float = 0.0
    memory: dict[str, int | None] = field(default_factory=dict)


@dataclass
class _Run:
    """What the phases of one run share."""

    model: LoadedModel
    options: InferenceOptions
    callback: Callable[[int, int], object] | None
    images: int = 0
    total: int = 0
    done: int = 0
    raised: Exception | None = None
    watch: Watch = field(default_factory=Watch)
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    memory: dict[str, dict[str, int | None]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, **details: int) -> Iterator[_Spent]:
        """Take the time and the memory of a part of a phase."""
        spent, begun = _Spent(), time.perf_counter()
        with span(name, **details), self.watch.peak() as spent.memory:
            yield spent
        spent.seconds = time.perf_counter() - begun
        self.phases[name] += spent.seconds
        self.memory[name] = larger(self.memory.get(name, {}), spent.memory)

    def step(self, steps: int = 1) -> None:
        """Report progress.

        Raises:
            Cancelled: the callback returned False.
        """
        self.done += steps
        if self.callback is None:
            return
        try:
            goes_on = self.callback(self.done, self.total) is not False
        except Exception as error:
            self.raised = error
            raise
        if not goes_on:
            raise Cancelled(
                f"painting: stopped by the callback after step {self.done} of {self.total}",
                hint="images already written stay; the same call with the same output goes on",
            )


def run_inference(
    model: LoadedModel | Paintable,
    prompts: str | Sequence[str],
    options: InferenceOptions | InferenceOptionsDict | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    callback: Callable[[int, int], object] | None = None,
) -> InferenceResult:
    """Paint every prompt with every seed.

    The same model, prompt, seed and options give the same image: each image has a generator of its
    own, on the CPU, whatever the device and the batch.

    Args:
        model: a loaded model, or what `load_model` opens.
        prompts: one text or several.
        options: see `InferenceOptions`.
        output: a folder to write `0000-0.png` (prompt and seed) into, each file whole and as soon
            as it is painted. Images already there with the same metadata are not painted again.
        callback: called as `callback(done_steps, total_steps)` after every denoising step;
            returning False stops.

    Raises:
        RecipeError: an option or prompt is malformed or does not fit the model.
        Cancelled: the callback returned False; images already written stay.
        SubmergeError: as `load_model`, for a model that is not loaded yet.
        OSError: an image cannot be written.
    """
    asked = InferenceOptions.of(options)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise RecipeError(f"prompts[{index}]: expected a text, got {shown(text)}")
    folder = None if output is None else path_of(output, "output")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, LoadedModel):
        opened: Any = nullcontext(model)
    else:
        sides = {"width": asked.width, "height": asked.height, "batch": asked.batch}
        opened = load_model(model, **{k: v for k, v in sides.items() if v is not None})  # type: ignore[arg-type]
    with opened as loaded:
        run = _Run(loaded, asked.filled(loaded.defaults), callback)
        with run.watch:
            return _painted(run, texts, folder, () if asked.steps else (loaded.defaults.why,))


def _painted(
    run: _Run, prompts: Sequence[str], folder: Path | None, notes: tuple[str, ...]
) -> InferenceResult:
    options: Any = run.options
    run.model.parts.check_size(options.width, options.height, "options.")
    jobs = jobs_of(run.model, run.model.parts, options, prompts, folder)
    ineffective = _ineffective(run)
    found = {job.place: image for job in jobs if (image := already(job)) is not None}
    todo = [job for job in jobs if job.place not in found]
    run.images = len(todo)
    run.total = run.options.steps * len(todo)  # type: ignore[operator]
    batches = [todo[i : i + run.options.batch] for i in range(0, len(todo), run.options.batch)]
    asked = run.options
    with explained(
        f"{run.model.name}: cannot be painted with",
        f"{asked.width} x {asked.height} pixels, {asked.batch} at a time on {run.model.device}",
        hint="check `more` and the adapters; without them this is a defect worth reporting",
        own=lambda error: error is run.raised,
    ):
        cut = _texts(run, todo)
        if todo:
            with adapted(run.model, run.options) as (keywords, idle):
                ineffective += idle
                for batch in batches:
                    found |= _batch(run, batch, keywords)
    for job in todo:
        text = [note for index, note in cut.items() if index == job.prompt_index]
        found[job.place].notes += tuple(text)
    return InferenceResult(
        images=[found[job.place] for job in jobs],
        model=run.model.name,
        phases=run.phases,
        memory=run.memory,
        notes=(
            *run.model.notes,
            *run.model.recomputed,
            *notes,
            *ineffective,
            *cut.values(),
            *(note for job in jobs for note in found[job.place].notes if note not in cut.values()),
        ),
        resumed=len(jobs) - len(todo),
    )


def _ineffective(run: _Run) -> tuple[str, ...]:
    """Say which options change nothing, before anything is painted."""
    guidance = run.options.guidance
    if guidance and not run.model.guided:
        return (
            (
                f"guidance {guidance}: has no effect, the model has no guidance embedder; "
                "`true_cfg` works with every model"
            ),
        )
    return ()


def _texts(run: _Run, jobs: Sequence[Job]) -> dict[int, str]:
    """Encode every text that will be needed; return what was cut, by prompt."""
    tokens: Any = run.options.max_sequence_length
    cut: dict[int, str] = {}
    prompts = {job.prompt: job.prompt_index for job in jobs}
    negative = run.options.negative_prompt
    for prompt, index in prompts.items():
        with run.phase("text", prompt=index):
            run.model.encode(prompt, tokens)
        with quiet():
            length = len(run.model.pipe.tokenizer_2(prompt).input_ids)
        if length > tokens:
            cut[index] = f"prompt {index}: {counted(length, 'token')}, cut to {tokens}"
    if negative is not None and jobs:
        with run.phase("text", prompt=-1):
            run.model.encode(negative, tokens)
    return cut


def _batch(
    run: _Run, jobs: Sequence[Job], keywords: Mapping[str, Any]
) -> dict[int, GeneratedImage]:
    """Paint some images together, decode and write them one by one."""
    with run.phase("denoise", prompts=len(jobs)) as denoise, run.model.phase("denoise"):
        latents = _denoise(run, jobs, keywords)
    images = {}
    for job, latent in zip(jobs, latents, strict=True):
        with run.phase("decode", prompt=job.prompt_index) as decode, run.model.phase("decode"):
            picture, notes = _decode(run, latent[None])
        phases = {
            "text": run.phases["text"] / run.images,
            "denoise": denoise.seconds / len(jobs),
            "decode": decode.seconds,
        }
        image = GeneratedImage(
            picture,
            job.prompt,
            job.prompt_index,
            job.seed,
            job.metadata["options"],
            job.metadata,
            seconds=sum(phases.values()),
            phases=phases,
            memory={**run.memory, "denoise": denoise.memory, "decode": decode.memory},
            notes=tuple(f"prompt {job.prompt_index}, seed {job.seed}: {note}" for note in notes),
        )
        if job.path is not None:
            image.save(job.path)
        images[job.place] = image
    return images


def _denoise(run: _Run, jobs: Sequence[Job], keywords: Mapping[str, Any]) -> Any:
    """Return the final latents of some images, packed: [images, patches, channels]."""
    import torch

    options: Any = run.options
    device = run.model.device

    def texts(prompts: Sequence[str]) -> tuple[Any, Any]:
        pairs = [run.model.encode(text, options.max_sequence_length) for text in prompts]
        embeds, pooled = (torch.cat(column).to(device) for column in zip(*pairs, strict=True))
        return embeds, pooled

    call: dict[str, Any] = dict(keywords)
    call["prompt_embeds"], call["pooled_prompt_embeds"] = texts([job.prompt for job in jobs])
    if options.negative_prompt is not None:
        negative = texts([options.negative_prompt] * len(jobs))
        call["negative_prompt_embeds"], call["negative_pooled_prompt_embeds"] = negative
    generators = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
    base, embeds = run.model.pipe, call["prompt_embeds"]
    # Drawn before an adapter's pipeline draws from the same generators.
    noise, _ = base.prepare_latents(
        len(jobs),
        base.transformer.config.in_channels // 4,
        options.height,
        options.width,
        embeds.dtype,
        device,
        generators,
    )
    pipe = call.pop("pipe", base)

    def stepped(_: Any, __: int, ___: Any, kept: dict[str, Any]) -> dict[str, Any]:
        run.step(len(jobs))
        return kept

    with _shifted(pipe, options.shift):
        made = pipe(
            width=options.width,
            height=options.height,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            true_cfg_scale=options.true_cfg,
            generator=generators,
            latents=noise,
            output_type="latent",
            callback_on_step_end=stepped,
            **call,
        )
    return made.images


@contextmanager
def _shifted(pipe: Any, shift: float | None) -> Iterator[None]:
    """Have the scheduler shift timesteps by a fixed factor, where one is given."""
    kept = pipe.scheduler
    if shift is not None:
        static = {"shift": shift, "use_dynamic_shifting": False}
        pipe.scheduler = type(kept).from_config(kept.config, **static)
    try:
        yield
    finally:
        pipe.scheduler = kept


def _decode(run: _Run, latents: Any) -> tuple[Any, list[str]]:
    """Return the picture of one image's packed latents, as the pipeline decodes it, and remarks."""
    import torch

    pipe, options = run.model.pipe, run.options
    with torch.no_grad():
        unpacked = pipe._unpack_latents(  # noqa: SLF001 - diffusers has no public name for it
            latents, options.height, options.width, pipe.vae_scale_factor
        )
        scaled = unpacked / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
        pixels = pipe.vae.decode(scaled.to(run.model.device), return_dict=False)[0]
        finite = bool(torch.isfinite(latents).all() and torch.isfinite(pixels).all())
        with catch_warnings():
            simplefilter("ignore", RuntimeWarning)  # numbers that are none, told below
            picture = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    notes = [] if finite else ["numbers that are not finite were computed"]
    if all(low == high for low, high in picture.getextrema()):
        notes.append("one colour all over")
    return picture, notes
