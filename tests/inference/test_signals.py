"""What the weights say: signals of sound and of broken merges, on related parents."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from submerge.evaluate.signals import TIMES, Answers, Probe, agreement, ask, rows_of
from submerge.evaluate.verdicts import Facts, questions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOW = {"height": 64, "width": 64, "steps": 2, "guidance": 3.5}
PARENTS = ["schnell", "krea"]


@pytest.fixture(scope="module")
def pipes(pipelines: dict[str, Path]) -> dict[str, Any]:
    """The tiny pipelines, krea moved close to schnell as relatives are, and merged between."""
    found = {}
    for name, path in pipelines.items():
        found[name] = FluxPipeline.from_pretrained(path, dtype=torch.float32)
        found[name].set_progress_bar_config(disable=True)
    schnell, krea, merged = (found[n].transformer.state_dict() for n in (*PARENTS, "merged"))
    for name, tensor in schnell.items():
        krea[name].copy_(tensor + 0.2 * (krea[name] - tensor))
        merged[name].copy_((tensor + krea[name]) / 2)
    return found


@pytest.fixture(scope="module")
def probe(pipes: dict[str, Any]) -> Probe:
    texts = pipes["schnell"].encode_prompt(["a fox", "a house"], None, max_sequence_length=16)
    return Probe.of(pipes["schnell"], texts[:2], [0, 1], HOW)


@pytest.fixture(scope="module")
def parents(pipes: dict[str, Any], probe: Probe) -> dict[str, Answers]:
    return {name: ask(pipes[name], probe) for name in PARENTS}


def changed(pipe: Any, change: Callable[[Any], object]) -> Any:
    """The pipeline with a changed copy of its transformer."""
    other = copy.copy(pipe)
    other.transformer = copy.deepcopy(pipe.transformer)
    with torch.no_grad():
        change(other.transformer)
    return other


def judged(answers: dict[str, Answers]) -> dict[str, tuple[str, str]]:
    """Verdict and evidence by question."""
    facts = Facts(
        merge="merged",
        parents=PARENTS,
        guided={name: answer.guided for name, answer in answers.items()},
        scores=[],
        comparisons=[],
        signals=rows_of(answers, "merged"),
        benign=frozenset(),
        unsafe=0.8,
    )
    return {q.question: (q.verdict, q.evidence) for q in questions(facts)}


def test_velocities_are_those_of_the_transformer(pipes: dict[str, Any], probe: Probe) -> None:
    pipe = pipes["krea"]
    answers = ask(pipe, probe)
    seen: dict[str, Any] = {}

    def watch(_: Any, __: Any, given: dict[str, Any], out: Any) -> None:
        seen.setdefault("in", given["hidden_states"])
        seen.setdefault("out", out[0])

    handle = pipe.transformer.register_forward_hook(watch, with_kwargs=True)
    pipe(
        prompt_embeds=probe.embeds,
        pooled_prompt_embeds=probe.pooled,
        latents=probe.noise,
        num_inference_steps=1,
        guidance_scale=3.5,
        height=64,
        width=64,
        output_type="latent",
    )
    handle.remove()
    # The first step of the pipeline itself asks the same question.
    assert torch.equal(seen["in"], probe.noise)
    np.testing.assert_array_equal(answers.velocities[1.0], seen["out"].numpy())


def test_noise_is_that_of_the_pipeline_with_the_seed(pipes: dict[str, Any], probe: Probe) -> None:
    made, _ = pipes["krea"].prepare_latents(
        1, 16, 64, 64, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(1)
    )
    assert torch.equal(probe.noise[1:], made)
    assert torch.equal(probe.at(1.0), probe.noise)
    assert torch.equal(probe.at(0.0), probe.painted)
    torch.testing.assert_close(probe.at(0.25), 0.75 * probe.painted + 0.25 * probe.noise)


def test_a_model_agrees_with_itself(parents: dict[str, Answers]) -> None:
    for time in TIMES:
        velocity = parents["krea"].velocities[time]
        cosine, ratio = agreement(velocity, velocity)
        assert cosine == pytest.approx(1.0, abs=1e-6)
        assert ratio == 1.0
        assert agreement(2 * velocity, velocity)[1] == pytest.approx(2.0)
        assert agreement(-velocity, velocity)[0] == pytest.approx(-1.0)
    assert np.isnan(agreement(velocity, 0 * velocity)).all()


def test_guidance_moves_only_models_that_take_it(parents: dict[str, Answers]) -> None:
    assert set(parents["schnell"].response.values()) == {0.0}
    assert min(parents["krea"].response.values()) > 0.01
    assert all(answers.repeats and answers.finite for answers in parents.values())


def test_what_a_block_adds_is_measured(pipes: dict[str, Any], probe: Probe) -> None:
    block = pipes["krea"].transformer.single_transformer_blocks[1]
    seen: dict[str, Any] = {}

    def watch(_: Any, __: Any, given: dict[str, Any], out: Any) -> None:
        before, after = given["hidden_states"].double(), out[1].double()
        seen.setdefault("share", float((after - before).norm() / before.norm()))

    handle = block.register_forward_hook(watch, with_kwargs=True)
    answers = ask(pipes["krea"], probe)
    handle.remove()
    assert list(answers.blocks) == ["double.0", "double.1", "single.0", "single.1"]
    assert answers.blocks["single.1"] == pytest.approx(seen["share"], rel=1e-4)
    assert not block._forward_hooks


def test_a_sound_merge(pipes: dict[str, Any], probe: Probe, parents: dict[str, Answers]) -> None:
    answers = {"merged": ask(pipes["merged"], probe), **parents}
    found = judged(answers)
    assert found["Is it sound?"][0] == "good", found
    assert found["Does it follow guidance?"][0] == "good", found
    cosines = [
        row["value"] for row in rows_of(answers, "merged") if row["signal"] == "velocity cosine"
    ]
    assert len(cosines) == 3 * len(TIMES)


def noise(transformer: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in transformer.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * weight.std())


def swapped_halves(transformer: Any) -> None:
    for weight in transformer.norm_out.linear.parameters():
        weight.copy_(torch.cat(weight.chunk(2)[::-1]))


def zeroed_block(transformer: Any) -> None:
    for weight in transformer.single_transformer_blocks[1].parameters():
        weight.zero_()


def noisy_block(transformer: Any) -> None:
    for weight in transformer.transformer_blocks[1].parameters():
        weight.normal_()


def not_a_number(transformer: Any) -> None:
    transformer.proj_out.weight[3, 3] = torch.nan


def doubled(transformer: Any) -> None:
    transformer.proj_out.weight.mul_(3.0)
    transformer.proj_out.bias.mul_(3.0)


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (noise, "cosine"),
        (swapped_halves, "seem swapped"),
        (zeroed_block, "Single.1 changes its stream by 0"),
        (noisy_block, "Double.1 changes its stream by"),
        (not_a_number, "not finite"),
        (doubled, "times as long"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_merge_is_found_broken(
    change: Callable[[Any], None],
    evidence: str,
    pipes: dict[str, Any],
    probe: Probe,
    parents: dict[str, Answers],
) -> None:
    broken = ask(changed(pipes["merged"], change), probe)
    verdict, words = judged({"merged": broken, **parents})["Is it sound?"]
    assert verdict == "bad"
    assert evidence in words


def test_guidance_that_was_lost_is_missed(
    pipes: dict[str, Any], probe: Probe, parents: dict[str, Answers]
) -> None:
    def zeroed(transformer: Any) -> None:
        for weight in transformer.time_text_embed.guidance_embedder.parameters():
            weight.zero_()

    lost = ask(changed(pipes["merged"], zeroed), probe)
    assert judged({"merged": lost, **parents})["Does it follow guidance?"][0] == "bad"
    # As one without the embedder does.
    verdict, words = judged({"merged": parents["schnell"], **parents})["Does it follow guidance?"]
    assert verdict == "bad"
    assert "no guidance embedder" in words
