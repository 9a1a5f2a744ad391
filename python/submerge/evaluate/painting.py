"""Paint the same prompts with the same seeds by every model, and ask each the same questions.

One model is loaded at a time. Texts are encoded once for all models whose text encoders are the
same files; start latents are the same because seeds, dtype and size are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from submerge.evaluate.signals import Answers, Probe, ask
from submerge.inference import LoadedModel, check_loading, load_model, run_inference
from submerge.inference.embeddings import texts_identity
from submerge.progress import Estimate, time_in_words

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from submerge.evaluate.candidates import Candidate
    from submerge.evaluate.options import EvaluateOptions
    from submerge.evaluate.prompts import Prompt

__all__ = ["LazyImages", "Painted", "Picture", "Session", "check", "run"]

# Seconds between two words about what remains.
_EVERY = 30.0


@dataclass(eq=False)
class Picture:
    """One painted image: in memory, or in the file `path`."""

    prompt: Prompt
    seed: int
    seconds: float
    phases: Mapping[str, float]
    memory: Mapping[str, Mapping[str, int | None]]
    path: Path | None
    made: Any

    def open(self) -> Image:
        """Return the image, RGB."""
        if self.path is None:
            image: Image = self.made.image
            return image
        from PIL import Image as Images

        with Images.open(self.path) as file:
            return file.convert("RGB")


class LazyImages(Sequence["Image"]):
    """Images opened when they are looked at: those of a whole battery may not fit in memory."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> LazyImages: ...
    def __getitem__(self, index: int | slice) -> Image | LazyImages:
        if isinstance(index, slice):
            return LazyImages(self._pictures[index])
        return self._pictures[index].open()


@dataclass(frozen=True)
class Painted:
    """What one model painted and answered.

    Attributes:
        pictures: every prompt with every seed.
        sweep: by steps and guidance, the probes' prompts with the first seed.
        answers: what its transformer answered.
        repeats: whether the same seed painted the same pixels twice.
        device: where it ran, and `dtype` what it computed in.
        settings: the options it was painted with.
    """

    pictures: list[Picture]
    sweep: dict[tuple[int, float], list[Picture]]
    answers: Answers
    repeats: bool
    device: str
    dtype: str
    settings: Mapping[str, Any]


@dataclass
class Session:
    """What is painted, where to, and what is shared on the way.

    Attributes:
        prompts: the battery.
        options: how models are compared.
        folder: where images go, or None to keep them in memory.
        notify: told what is being done, a line at a time, and what remains every now and then.
    """

    prompts: Sequence[Prompt]
    options: EvaluateOptions
    folder: Path | None
    notify: Callable[[str], object]
    probe: Probe | None = None
    texts: dict[str, dict[Any, Any]] = field(default_factory=dict)

    @property
    def probes(self) -> list[Prompt]:
        """The prompts that signals and the sweep look at: evenly spaced, with words to paint."""
        worded = [prompt for prompt in self.prompts if prompt.text.strip()] or self.prompts
        wanted = self.options.probes_of(len(worded))
        return [worded[i * len(worded) // wanted] for i in range(wanted)]


def check(candidates: Sequence[Candidate], session: Session) -> None:
    """Refuse models that cannot be loaded, before the first one is; raises as `load_model`."""
    for one in candidates:
        if not isinstance(one.source, LoadedModel):
            check_loading(one.source, **_loading(one, session))


def run(candidates: Sequence[Candidate], session: Session) -> dict[str, Painted]:
    """Paint with one model after the other, the merge last, and return what each painted."""
    common = next(one for one in candidates if one.role == "merge").defaults
    # The shortest text that one of them reads: embeddings are the same for all.
    common["max_sequence_length"] = min(one.defaults["max_sequence_length"] for one in candidates)
    native = session.options.settings == "native"
    how = {
        one.name: (one.defaults if native else common) | dict(session.options.painting)
        for one in candidates
    }
    remaining = Remaining(sum(_steps(session, settings) for settings in how.values()), session)
    painted = {}
    for one in sorted(candidates, key=lambda one: one.role == "merge"):
        session.notify(f"{one.name}: loading")
        with _opened(one, session) as model, _same_texts(model, session):
            painted[one.name] = _paint(model, one, how[one.name], (session, remaining))
    return painted


def _steps(session: Session, settings: Mapping[str, Any]) -> int:
    """Return about how many steps one model paints: the battery, the sweep, one image again."""
    options = session.options
    images = len(session.prompts) * len(options.seeds)
    other = [steps for steps in options.sweep_steps if steps != settings["steps"]]
    scales = 1 + len(options.sweep_guidance)
    return int(images * settings["steps"] + len(session.probes) * sum(other) * scales)


class Remaining:
    """Says now and then how far the painting is, and how long the rest will take."""

    def __init__(self, total: int, session: Session) -> None:
        """Begin to count, of `total` steps over all models."""
        self._total, self._before = max(1, total), 0
        self._estimate = Estimate()
        self._session = session
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take the progress of one run of `total` steps."""
        now = self._before + done
        if done == total:
            self._before = now
        left = self._estimate.left(now, max(now, self._total))
        if left is not None and time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            share = min(1.0, now / self._total)
            self._session.notify(f"{share:.0%} painted, about {time_in_words(left)} left")


@contextmanager
def _opened(one: Candidate, session: Session) -> Iterator[LoadedModel]:
    """Load a model for the time it paints; one that came loaded stays so."""
    if isinstance(one.source, LoadedModel):
        yield one.source
        return
    with load_model(one.source, **_loading(one, session)) as model:
        yield model


def _loading(one: Candidate, session: Session) -> dict[str, Any]:
    """Return the keywords by which a model is loaded for what is to be painted."""
    painting = session.options.painting
    sides = {side: painting[side] for side in ("width", "height", "batch") if side in painting}
    return {**one.load, **sides}


@contextmanager
def _same_texts(model: LoadedModel, session: Session) -> Iterator[None]:
    """Lend the model what others with the same text encoders have encoded, and keep its own."""
    identity = f"{texts_identity(model.parts.companions)} {model.plan.dtype}"
    model.texts.update(session.texts.get(identity, {}))
    try:
        yield
    finally:
        session.texts[identity] = dict(model.texts)


def _paint(
    model: LoadedModel,
    one: Candidate,
    settings: Mapping[str, Any],
    about: tuple[Session, Remaining],
) -> Painted:
    session, remaining = about
    folder = None if session.folder is None else session.folder / "images" / one.name
    seeds = session.options.seeds
    session.notify(
        f"{one.name}: painting {len(session.prompts)} prompts with {len(seeds)} seeds each"
    )
    pictures = _pictures(model, session.prompts, {**settings, "seeds": seeds}, (folder, remaining))
    session.notify(f"{one.name}: asking for signals")
    sweep = _sweep(model, settings, about, (folder, pictures))
    first = {**settings, "seeds": seeds[:1], "steps": min(session.options.sweep_steps)}
    again = _pictures(model, session.probes[:1], first, (None, remaining))[0]
    known = sweep[first["steps"], settings["guidance"]][0]
    texts = [model.encode(p.text, settings["max_sequence_length"]) for p in session.probes]
    with model.phase("denoise") as pipe:
        if session.probe is None:
            session.probe = Probe.of(pipe, _stacked(texts), [seeds[0]] * len(texts), first)
        answers = ask(pipe, session.probe)
    return Painted(
        pictures,
        sweep,
        answers,
        repeats=again.open().tobytes() == known.open().tobytes(),
        device=str(model.device),
        dtype=model.plan.dtype,
        settings=settings,
    )


def _stacked(texts: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    import torch

    embeds, pooled = zip(*texts, strict=True)
    return torch.cat(embeds), torch.cat(pooled)


def _sweep(
    model: LoadedModel,
    settings: Mapping[str, Any],
    about: tuple[Session, Remaining],
    painted: tuple[Path | None, Sequence[Picture]],
) -> dict[tuple[int, float], list[Picture]]:
    """Paint the probes at each count of steps and each guidance; reuse what is painted already."""
    (session, remaining), (folder, pictures) = about, painted
    seed, probes = session.options.seeds[0], session.probes
    scales = [settings["guidance"], *(session.options.sweep_guidance if model.guided else ())]
    made = {}
    for steps in session.options.sweep_steps:
        for scale in dict.fromkeys(scales):
            if (steps, scale) == (settings["steps"], settings["guidance"]):
                ids = {probe.id for probe in probes}
                found = [p for p in pictures if p.seed == seed and p.prompt.id in ids]
            else:
                how = {**settings, "steps": steps, "guidance": scale, "seeds": (seed,)}
                place = None if folder is None else folder / f"steps-{steps}-guidance-{scale:g}"
                found = _pictures(model, probes, how, (place, remaining))
            made[steps, scale] = found
    return made


def _pictures(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    how: Any,
    where: tuple[Path | None, Remaining],
) -> list[Picture]:
    folder, remaining = where
    texts = [prompt.text for prompt in prompts]
    made = run_inference(model, texts, how, output=folder, callback=remaining)
    return [
        Picture(
            prompts[image.prompt_index],
            image.seed,
            image.seconds,
            dict(image.phases),
            dict(image.memory),
            image.path,
            # An image that lies in a file is opened again when it is looked at.
            image if image.path is None else None,
        )
        for image in made
    ]
