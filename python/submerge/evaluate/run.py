"""The whole of an evaluation: open, paint, score, compare, answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from submerge.diff import diff
from submerge.errors import RecipeError, SubmergeError, listing, quoted
from submerge.evaluate.candidates import Candidate, candidates_of
from submerge.evaluate.evaluation import Evaluation
from submerge.evaluate.options import EvaluateOptions, EvaluateOptionsDict
from submerge.evaluate.painting import LazyImages, Painted, Picture, Session, check, run
from submerge.evaluate.prompts import Prompt, prompts_of
from submerge.evaluate.scorers.base import need
from submerge.evaluate.scorers.catalogue import scorers_of
from submerge.evaluate.scorers.safety import UNSAFE, blurred
from submerge.evaluate.signals import rows_of, signal_row
from submerge.evaluate.statistics import compare
from submerge.evaluate.verdicts import Facts, questions
from submerge.files import path_of
from submerge.pairs import unrelated
from submerge.profile import environment
from submerge.rows import summed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Unpack

    from PIL.Image import Image

    from submerge.documents.evaluation import Comparison, ImageRow, NotRun, Score, Signal, SweepRow
    from submerge.documents.painting import ModelRow
    from submerge.evaluate.candidates import Model
    from submerge.evaluate.scorers.base import Scorer

__all__ = ["EvaluateArguments", "evaluate_guidance"]


class EvaluateArguments(TypedDict, total=False):
    """Further keywords of `evaluate_guidance`.

    Attributes:
        options: see `EvaluateOptions`; `InferenceOptions` may be given beside them.
        output: a folder for images and `evaluation.json`. Images already there, painted by the
            same model with the same options, are kept.
        load: keywords of `load_model`, for every model that does not come loaded.
        notify: called with a line of text as the work goes on.
    """

    options: EvaluateOptions | EvaluateOptionsDict | None
    output: str | os.PathLike[str] | None
    load: Mapping[str, Any]
    notify: Callable[[str], object]


def evaluate_guidance(
    model: Model,
    prompts: str | os.PathLike[str] | Sequence[object] | None = None,
    ground_truth: Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None = None,
    *,
    parents: Sequence[Model] | Mapping[str, Model] = (),
    scorers: str | Scorer | Sequence[str | Scorer] = "auto",
    **how: Unpack[EvaluateArguments],
) -> Evaluation:
    """Judge a merge beside its parents: the same prompts, seeds and start latents for each.

    Args:
        model: the merge: a folder or file that `load_model` reads, a `MergedModel` (whose parents
            are then known), or a loaded model, which stays open.
        prompts: texts, mappings or `Prompt`s; a file of them; None is the battery that ships.
        ground_truth: reference images: a mapping from prompt ids, one for each prompt, or a folder
            with `<id>.png`. Images may be PIL images or paths.
        parents: what the merge is compared with, painted first; a mapping names them.
        scorers: see `submerge.evaluate.scorers_of`; scorers of pixels always run.
        **how: see `EvaluateArguments`.

    Raises:
        RecipeError: prompts, options, scorers or references are malformed.
        SubmergeError: a package is missing, or a model cannot be loaded; see `load_model`.
        OSError: a file cannot be read or written.
    """
    options = EvaluateOptions.of(how.get("options"))
    battery = prompts_of(prompts)
    references = _references(ground_truth, battery)
    scoring, not_run = scorers_of(scorers, references)
    if options.blur_unsafe and "unsafe" not in {scorer.name for scorer in scoring}:
        raise RecipeError(
            "options.blur_unsafe: no safety classifier runs, expected the scorer `unsafe`",
            hint="pip install 'submerge[evaluate]'",
        )
    candidates = candidates_of(model, parents, how.get("load", {}))
    folder = None if how.get("output") is None else path_of(how["output"], "output")
    session = Session(battery, options, folder, how.get("notify", _silent))
    check(candidates, session)
    for package in ("torch", "diffusers", "transformers", "PIL"):
        need(package, "submerge[evaluate]")
    painted = run(candidates, session)
    remarks = _remarks(candidates, session)
    evaluation = _judged(candidates, painted, session, (scoring, not_run, remarks))
    if folder is not None:
        evaluation.save(folder)
    return evaluation


def _silent(_: str) -> None:
    return None


def _remarks(candidates: Sequence[Candidate], session: Session) -> tuple[str, ...]:
    """Return what the weights of the parents say against merging them; reads each of them once."""
    paths = {one.name: one.parts.model.checkpoint.path for one in candidates[1:]}
    found: list[str] = []
    for one, other in combinations(paths, 2):
        session.notify(f"comparing the weights of {one} and {other}")
        with suppress(SubmergeError):  # of another family or depth: no merge came of the two
            pairs = summed(diff(paths[one], paths[other]).rows).pairs
            found += unrelated([pair._replace(first=one, second=other) for pair in pairs], paths)
    return tuple(found)


def _references(raw: Any, prompts: Sequence[Prompt]) -> dict[str, Image]:
    """Open the reference images, by prompt id."""
    if raw is None:
        return {}
    images = need("PIL.Image", "submerge[evaluate]")
    ids = [prompt.id for prompt in prompts]
    if isinstance(raw, Mapping):
        given = dict(raw)
    elif isinstance(raw, Sequence) and not isinstance(raw, str):
        if len(raw) != len(ids):
            raise RecipeError(
                f"ground_truth: expected an image for each of {len(ids)} prompts, got {len(raw)}"
            )
        given = dict(zip(ids, raw, strict=True))
    else:
        folder = Path(raw)
        given = {one: path for one in ids if (path := folder / f"{one}.png").is_file()}
        if not given:
            raise RecipeError(f"ground_truth: expected `<id>.png` in {quoted(str(folder))}")
    if unknown := [name for name in given if name not in ids]:
        raise RecipeError(f"ground_truth: no prompt has {listing(unknown, noun='id')}")
    return {
        name: one if isinstance(one, images.Image) else images.open(one).convert("RGB")
        for name, one in given.items()
        if one is not None
    }


def _judged(
    candidates: Sequence[Candidate],
    painted: Mapping[str, Painted],
    session: Session,
    more: tuple[list[Scorer], list[NotRun], tuple[str, ...]],
) -> Evaluation:
    scorers, not_run, remarks = more
    merge, *parents = [one.name for one in candidates]
    tables: dict[str, dict[str, dict[tuple[str, int], float]]] = {}
    for scorer in scorers:
        session.notify(f"scoring: {scorer.name}")
        tables[scorer.name] = {name: _scored(scorer, painted[name].pictures) for name in painted}
    comparisons = [
        _comparison(scorer, parent, tables[scorer.name][merge], tables[scorer.name][parent])
        for scorer in scorers
        for parent in parents
    ]
    scores = _score_rows(scorers, tables)
    answers = {name: painted[name].answers for name in (merge, *parents)}
    signals = [*rows_of(answers, merge), *_image_signals(painted)]
    facts = Facts(
        merge=merge,
        parents=parents,
        guided={name: answer.guided for name, answer in answers.items()},
        scores=scores,
        comparisons=[row for row in comparisons if row["pairs"]],
        signals=signals,
        # What is unsafe about prompts of one's own nobody has said: only tagged ones count.
        benign=frozenset(prompt.id for prompt in session.prompts if "benign" in prompt.tags),
        unsafe=UNSAFE,
        remarks=remarks,
    )
    first = painted[merge]
    sweep = _sweep_rows(painted, scorers)
    if session.options.blur_unsafe:
        _blur(painted, next(s for s in scorers if s.name == "unsafe"), session)
    return Evaluation(
        models=[_model_row(one) for one in candidates],
        prompts=[prompt.to_dict() for prompt in session.prompts],
        options=session.options.to_dict() | dict(first.settings),
        environment=environment(device=first.device, dtype=first.dtype),
        images=[_image_row(n, p, session.folder) for n in answers for p in painted[n].pictures],
        scores=scores,
        comparisons=facts.comparisons,
        signals=signals,
        sweep=sweep,
        questions=questions(facts),
        not_run=not_run,
        notes=remarks,
        pictures={(n, p.prompt.id, p.seed): p for n in answers for p in painted[n].pictures},
    )


def _scored(scorer: Scorer, pictures: Sequence[Picture]) -> dict[tuple[str, int], float]:
    """Return a model's scores where the scorer applies."""
    values = np.asarray(
        scorer.score(LazyImages(pictures), [picture.prompt for picture in pictures]), np.float64
    )
    if values.shape != (len(pictures),):
        raise SubmergeError(
            f"scorer {quoted(scorer.name)}: expected {len(pictures)} numbers, "
            f"got shape {values.shape}"
        )
    return {
        (picture.prompt.id, picture.seed): float(value)
        for picture, value in zip(pictures, values, strict=True)
        if not np.isnan(value)
    }


def _comparison(
    scorer: Scorer,
    parent: str,
    mine: dict[tuple[str, int], float],
    theirs: dict[tuple[str, int], float],
) -> Comparison:
    found = compare(mine, theirs, better=scorer.better)
    return {
        "scorer": scorer.name,
        "parent": parent,
        "mean_difference": found.difference.mean,
        "low": found.difference.low,
        "high": found.difference.high,
        "pairs": found.pairs,
        "win_rate": found.win_rate,
    }


def _score_rows(scorers: Sequence[Scorer], tables: Mapping[str, Any]) -> list[Score]:
    return [
        {
            "scorer": scorer.name,
            "unit": scorer.unit,
            "better": scorer.better,
            "model": name,
            "prompt": prompt,
            "seed": seed,
            "value": value,
        }
        for scorer in scorers
        for name, values in tables[scorer.name].items()
        for (prompt, seed), value in values.items()
    ]


def _image_signals(painted: Mapping[str, Painted]) -> list[Signal]:
    """Few-step consistency, and whether seeds decide images."""
    rows = []
    for name, found in painted.items():
        scale = found.settings["guidance"]
        steps = [count for count, guidance in found.sweep if guidance == scale]
        best = found.sweep[max(steps), scale]
        for count in sorted(steps)[:-1]:
            pairs = zip(found.sweep[count, scale], best, strict=True)
            value = float(np.mean([_distance(one.open(), other.open()) for one, other in pairs]))
            # Not a number where the most steps paint one flat colour: nothing to be far from.
            if not np.isnan(value):
                rows.append(signal_row("few-step distance", name, count, value))
        rows.append(signal_row("image repeats", name, None, float(found.repeats)))
        share = _seeds_differ(found.pictures)
        rows += [] if share is None else [signal_row("seeds differ", name, None, share)]
    return rows


def _distance(one: Image, other: Image) -> float:
    """RMS difference of two images in units of the second's own deviation."""
    first, second = (np.asarray(image, dtype=np.float64) for image in (one, other))
    spread = float(second.std())
    if spread == 0.0:
        return float("nan")
    return float(np.sqrt(((first - second) ** 2).mean())) / spread


def _seeds_differ(pictures: Sequence[Picture]) -> float | None:
    """Share of pairs of one prompt's images that differ in any pixel."""
    digests: dict[str, list[bytes]] = {}
    for picture in pictures:
        pixels = picture.open().tobytes()
        digests.setdefault(picture.prompt.id, []).append(hashlib.sha256(pixels).digest())
    pairs = [one != other for found in digests.values() for one, other in combinations(found, 2)]
    return float(np.mean(pairs)) if pairs else None


def _sweep_rows(painted: Mapping[str, Painted], scorers: Sequence[Scorer]) -> list[SweepRow]:
    rows: list[SweepRow] = []
    for name, found in painted.items():
        for (steps, guidance), pictures in found.sweep.items():
            for scorer in scorers:
                values = _scored(scorer, pictures).values()
                if values:
                    mean = float(np.mean(list(values)))
                    rows.append(
                        {
                            "model": name,
                            "steps": steps,
                            "guidance": guidance,
                            "scorer": scorer.name,
                            "value": mean,
                        }
                    )
    return rows


def _blur(painted: Mapping[str, Painted], scorer: Scorer, session: Session) -> None:
    """Blur what the classifier flags, in memory and in files; nothing looks at it after this."""
    for name, found in painted.items():
        for picture in {
            id(p): p for p in [*found.pictures, *chain(*found.sweep.values())]
        }.values():
            image = picture.open()
            if scorer.score([image], [picture.prompt])[0] < UNSAFE:
                continue
            session.notify(f"{name}: blurred {picture.prompt.id}, seed {picture.seed}")
            if picture.path is None:
                picture.made.image = blurred(image)
            else:
                blurred(image).save(picture.path)


def _model_row(one: Candidate) -> ModelRow:
    path = str(one.parts.model.checkpoint.path)
    return {"name": one.name, "path": path, "role": one.role}


def _image_row(name: str, picture: Picture, folder: Path | None) -> ImageRow:
    path = picture.path
    return {
        "model": name,
        "prompt": picture.prompt.id,
        "seed": picture.seed,
        "path": None if path is None or folder is None else path.relative_to(folder).as_posix(),
        "sha256": None if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
        "seconds": picture.seconds,
        "phases": dict(picture.phases),
        "memory": {phase: dict(most) for phase, most in picture.memory.items()},
    }
