"""What judging costs over painting: `evaluate_guidance` against plain diffusers, same images.

    python benches/evaluate.py [--prompts 8] [--rounds 3] [--steps 8]

Three tiny pipelines (a parent without guidance, one with it, their merge), 8 prompts with 2 seeds
each, 64 x 64 pixels, float32 on the CPU. Both sides load each model once and paint the same 48
images, which are compared; evaluating paints further ones for its signals and scores everything.
Seconds are of the processor (user and system), rounds alternate, imports are excluded. The scorers
whose weights come in packages are timed apart, for an image each: they cost the same whatever the
model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch
from diffusers import FluxPipeline

import submerge
from factory import KREA, SCHNELL, save_folder
from oracles.pipelines import save_pipeline
from submerge.evaluate import battery, evaluate_guidance, scorers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from submerge.evaluate import Evaluation, Prompt

SEEDS = (0, 1)
TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    prompts = battery()[: asked.prompts]
    with tempfile.TemporaryDirectory() as folder:
        models = tiny_models(Path(folder))
        plain, judged = [], []
        for _ in range(asked.rounds):
            seconds, images = timed(lambda: painted(models, prompts, asked.steps))
            plain.append(seconds)
            seconds, found = timed(lambda: evaluated(models, prompts, asked.steps))
            judged.append(seconds)
            assert_same(images, found)
        told(asked, plain, judged, found)


def tiny_models(folder: Path) -> dict[str, Path]:
    """Write the parents and merge them."""
    parents = {
        name: save_pipeline(
            folder / name, save_folder(folder / f"{name}-transformer", flux), dynamic=flux.guidance
        )
        for name, flux in (("schnell", SCHNELL), ("krea", KREA))
    }
    recipe = {"models": parents, "alpha": 0.5, "output": {"pipeline_from": "krea"}}
    submerge.merge(recipe, folder / "merged")
    return {**parents, "merged": folder / "merged"}


def painted(models: Mapping[str, Path], prompts: Sequence[Prompt], steps: int) -> dict[Any, Any]:
    """Paint with diffusers alone, a call for each prompt and seed as its examples do."""
    images = {}
    for name, path in models.items():
        pipe = FluxPipeline.from_pretrained(path, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        for prompt in prompts:
            for seed in SEEDS:
                made = pipe(
                    prompt.text,
                    width=64,
                    height=64,
                    num_inference_steps=steps,
                    guidance_scale=3.5,
                    max_sequence_length=TOKENS,
                    generator=torch.Generator().manual_seed(seed),
                )
                images[name, prompt.id, seed] = made.images[0]
    return images


def evaluated(models: Mapping[str, Path], prompts: Sequence[Prompt], steps: int) -> Evaluation:
    return evaluate_guidance(
        models["merged"],
        prompts,
        parents={name: models[name] for name in ("schnell", "krea")},
        scorers=(),
        options={
            "width": 64,
            "height": 64,
            "steps": steps,
            "guidance": 3.5,
            "max_sequence_length": TOKENS,
            "seeds": SEEDS,
        },
        load={"device": "cpu", "dtype": "f32"},
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor's seconds and what was made."""
    begun = time.process_time()
    made = work()
    return time.process_time() - begun, made


def assert_same(images: Mapping[Any, Any], found: Evaluation) -> None:
    for key, image in images.items():
        assert np.array_equal(np.asarray(image), np.asarray(found.pictures[key].open())), key


def told(
    asked: argparse.Namespace, plain: list[float], judged: list[float], found: Evaluation
) -> None:
    count = len(found.images)
    ratios = [mine / theirs for mine, theirs in zip(judged, plain, strict=True)]
    print(f"{count} images of {asked.steps} steps, {asked.rounds} rounds, seconds of CPU (median)")
    print(f"diffusers alone    {statistics.median(plain):6.2f}")
    print(f"evaluate_guidance  {statistics.median(judged):6.2f}")
    print(f"ratio              {statistics.median(ratios):6.2f}  (each: {ratios_in_words(ratios)})")
    images = [picture.open() for picture in list(found.pictures.values())[:6]]
    for scorer in scorers_of("auto", {})[0]:
        if scorer.name in ("text accuracy", "unsafe"):
            prompts = [prompt for prompt in battery() if prompt.writes][: len(images)]
            scorer.score(images[:1], prompts[:1])  # reads the weights
            seconds, _ = timed(lambda: scorer.score(images, prompts))  # noqa: B023 - at once
            print(f"{scorer.name:<18} {seconds / len(images):6.2f}  an image, besides")


def ratios_in_words(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


if __name__ == "__main__":
    main()
