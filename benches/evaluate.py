"""What judging costs over painting: `evaluate_guidance` against plain diffusers, same images.

    python benches/evaluate.py [--prompts 8] [--rounds 3] [--steps 8]

Three tiny pipelines (a parent without guidance, one with it, their merge), 8 prompts with 2 seeds
each, 64 x 64 pixels, float32 on the CPU. Both sides load each model once. Diffusers alone paints
the 48 images of the battery, which are compared with those of the evaluation, and then, on its own
clock, those the evaluation paints for its sweep over steps. Seconds are of the processor (user and
system), rounds alternate, imports are excluded. The scorers whose weights come in packages are
timed apart, for an image each: they cost the same whatever the model.
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
from submerge.evaluate import EvaluateOptions, battery, evaluate_guidance, scorers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        rounds = []
        for _ in range(asked.rounds):
            plain, more, images = painted(models, prompts, asked.steps)
            begun = time.process_time()
            found = evaluated(models, prompts, asked.steps)
            rounds.append((plain, plain + more, time.process_time() - begun))
            assert_same(images, found)
        told(asked, rounds, found)


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


def painted(
    models: Mapping[str, Path], prompts: Sequence[Prompt], steps: int
) -> tuple[float, float, dict[Any, Any]]:
    """Paint with diffusers alone, a call for each prompt and seed as its examples do.

    Returns the seconds of the battery, those of the sweep's images, and the battery's images.
    """
    images = {}
    battery_seconds = sweep_seconds = 0.0
    for name, path in models.items():
        begun = time.process_time()
        pipe = FluxPipeline.from_pretrained(path, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        for prompt in prompts:
            for seed in SEEDS:
                images[name, prompt.id, seed] = one(pipe, prompt.text, steps, seed)
        between = time.process_time()
        for count in EvaluateOptions().sweep_steps:
            if count != steps:
                one(pipe, prompts[0].text, count, SEEDS[0])
        battery_seconds += between - begun
        sweep_seconds += time.process_time() - between
    return battery_seconds, sweep_seconds, images


def one(pipe: Any, text: str, steps: int, seed: int) -> Any:
    return pipe(
        text,
        width=64,
        height=64,
        num_inference_steps=steps,
        guidance_scale=3.5,
        max_sequence_length=TOKENS,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]


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


def assert_same(images: Mapping[Any, Any], found: Evaluation) -> None:
    for key, image in images.items():
        assert np.array_equal(np.asarray(image), np.asarray(found.pictures[key].open())), key


def told(
    asked: argparse.Namespace, rounds: list[tuple[float, float, float]], found: Evaluation
) -> None:
    battery_alone, all_alone, judged = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    print(f"{len(found.images)} images of {asked.steps} steps; seconds of CPU, median of rounds")
    print(f"evaluate_guidance             {judged:6.2f}")
    for name, seconds, at in (("battery", battery_alone, 0), ("battery and sweep", all_alone, 1)):
        ratios = [row[2] / row[at] for row in rounds]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        ratio = statistics.median(ratios)
        print(f"diffusers, {name:<18} {seconds:6.2f}  ratio {ratio:.2f} ({each})")
    images = [picture.open() for picture in list(found.pictures.values())[:6]]
    prompts = [prompt for prompt in battery() if prompt.writes][: len(images)]
    for scorer in scorers_of("auto", {})[0]:
        if scorer.name in ("text accuracy", "unsafe"):
            scorer.score(images[:1], prompts[:1])  # reads the weights
            begun = time.process_time()
            scorer.score(images, prompts)
            seconds = (time.process_time() - begun) / len(images)
            print(f"{scorer.name:<29} {seconds:6.2f}  an image, besides")


if __name__ == "__main__":
    main()
