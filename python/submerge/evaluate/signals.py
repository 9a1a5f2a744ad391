"""What the weights themselves say: signals that need no scorer and no downloaded weights.

All models are asked the same questions: the velocity they predict for the same latents, times,
texts and guidance, how that moves with guidance, and how much each block changes its stream.

The latents lie on the straight line that rectified flow is trained on (Liu et al. 2022),
`(1 - t) * x0 + t * noise`, with `x0` painted by the first model asked. Works on any pipeline of
diffusers with a `FluxTransformer2DModel`, offloaded or not.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from submerge.evaluate.scorers.base import need

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from submerge.documents.evaluation import Signal

    Floats = NDArray[np.float32]

__all__ = ["GUIDANCE", "TIMES", "Answers", "Probe", "agreement", "ask", "rows_of", "signal_row"]

# 1 is noise, 0 the image.
TIMES = (1.0, 0.75, 0.5, 0.25)
# The guidance that velocities are compared at, then those whose response is measured.
GUIDANCE = (3.5, 1.0, 7.0)
_RESPONSE_TIMES = (1.0, 0.5)


@dataclass(frozen=True, slots=True)
class Probe:
    """What every model is asked.

    Attributes:
        embeds: text embeddings, `[n, tokens, width]`.
        pooled: pooled text embeddings, `[n, width]`.
        noise: packed start latents, `[n, positions, channels]`.
        painted: packed latents of an image, the same shape.
        size: height and width in pixels.
    """

    embeds: Any
    pooled: Any
    noise: Any
    painted: Any
    size: tuple[int, int]

    @classmethod
    def of(
        cls, pipe: Any, text: tuple[Any, Any], seeds: Sequence[int], how: dict[str, Any]
    ) -> Probe:
        """Draw noise from the seeds and paint with `pipe`.

        Args:
            pipe: a FluxPipeline.
            text: embeddings and pooled embeddings, one row for each seed.
            seeds: a seed for each row.
            how: `height`, `width`, `steps` and `guidance`.
        """
        torch = need("torch", "submerge[evaluate]")
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        channels = pipe.transformer.config.in_channels // 4
        size = how["height"], how["width"]
        embeds, pooled = (part.detach().to("cpu", torch.float32) for part in text)
        noise, _ = pipe.prepare_latents(
            len(seeds), channels, *size, torch.float32, torch.device("cpu"), generators
        )
        dtype, device = pipe.transformer.dtype, pipe._execution_device  # noqa: SLF001 - no other name
        painted = pipe(
            prompt_embeds=embeds.to(device, dtype),
            pooled_prompt_embeds=pooled.to(device, dtype),
            latents=noise.to(device, dtype),
            height=size[0],
            width=size[1],
            num_inference_steps=how["steps"],
            guidance_scale=how["guidance"],
            output_type="latent",
        ).images
        return cls(embeds, pooled, noise, painted.detach().to("cpu", torch.float32), size)

    def at(self, time: float) -> Any:
        """Return the latents at a time from 1 (noise) to 0 (the image)."""
        return (1.0 - time) * self.painted + time * self.noise


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answered.

    Attributes:
        velocities: by time, float32 `[n, positions, channels]`.
        response: by guidance, the relative change of the velocity; all 0 without an embedder.
        blocks: by block, the relative change it makes to its stream.
        final: scale and shift of the last normalisation, float32 `[n, 2 x hidden]`.
        guided: whether the model has a guidance embedder.
        repeats: whether the same question twice got the same bits.
    """

    velocities: dict[float, Floats]
    response: dict[float, float]
    blocks: dict[str, float]
    final: Floats
    guided: bool
    repeats: bool

    @property
    def finite(self) -> bool:
        """Whether every velocity is finite."""
        return all(bool(np.isfinite(found).all()) for found in self.velocities.values())


def ask(pipe: Any, probe: Probe) -> Answers:
    """Ask a pipeline's transformer; costs `len(TIMES) + 1` forwards, and 4 more when guided."""
    base = GUIDANCE[0]
    with _watched(pipe.transformer) as (blocks, final):
        velocities = {TIMES[0]: _velocity(pipe, probe, TIMES[0], base)}
    velocities |= {time: _velocity(pipe, probe, time, base) for time in TIMES[1:]}
    again = _velocity(pipe, probe, TIMES[0], base)
    guided = bool(pipe.transformer.config.guidance_embeds)
    response = {
        scale: _response(pipe, probe, velocities, scale) if guided else 0.0
        for scale in GUIDANCE[1:]
    }
    return Answers(
        velocities,
        response,
        dict(blocks),
        final[0],
        guided,
        repeats=np.array_equal(again, velocities[TIMES[0]], equal_nan=True),
    )


def _response(pipe: Any, probe: Probe, base: dict[float, Floats], scale: float) -> float:
    """Mean over times of |v(scale) - v(base)| / |v(base)|."""
    moves = []
    for time in _RESPONSE_TIMES:
        moved = _velocity(pipe, probe, time, scale)
        moves.append(_norm(moved - base[time]) / _norm(base[time]))
    return float(np.mean(moves))


def _velocity(pipe: Any, probe: Probe, time: float, guidance: float) -> Floats:
    torch = need("torch", "submerge[evaluate]")
    transformer, device = pipe.transformer, pipe._execution_device  # noqa: SLF001 - no other name
    dtype, count = transformer.dtype, len(probe.noise)
    height, width = (2 * (side // (2 * pipe.vae_scale_factor)) for side in probe.size)
    guided = transformer.config.guidance_embeds
    with torch.inference_mode():
        found = transformer(
            hidden_states=probe.at(time).to(device, dtype),
            timestep=torch.full([count], time, device=device, dtype=dtype),
            guidance=torch.full([count], guidance, device=device) if guided else None,
            pooled_projections=probe.pooled.to(device, dtype),
            encoder_hidden_states=probe.embeds.to(device, dtype),
            txt_ids=torch.zeros(probe.embeds.shape[1], 3, device=device, dtype=dtype),
            img_ids=pipe._prepare_latent_image_ids(  # noqa: SLF001 - no other name
                count, height // 2, width // 2, device, dtype
            ),
            return_dict=False,
        )[0]
    velocity: Floats = found.to("cpu", torch.float32).numpy()
    return velocity


@contextmanager
def _watched(transformer: Any) -> Iterator[tuple[dict[str, float], list[Floats]]]:
    """Give what fills while the model runs: each block's relative change, the last modulation."""
    found: dict[str, float] = {}
    final: list[Floats] = []

    def watch(name: str) -> Any:
        def hook(_: Any, args: Any, given: Any, out: Any) -> None:
            before = given.get("hidden_states", args[0] if args else None)
            after = out[1] if isinstance(out, tuple) else out
            if before is not None and before.shape == after.shape:
                change = (after.float() - before.float()).norm() / before.float().norm()
                found[name] = float(change)

        return hook

    stacks = {"double": transformer.transformer_blocks}
    stacks["single"] = transformer.single_transformer_blocks
    handles = [
        block.register_forward_hook(watch(f"{stack}.{i}"), with_kwargs=True)
        for stack, blocks in stacks.items()
        for i, block in enumerate(blocks)
    ]
    handles.append(
        transformer.norm_out.linear.register_forward_hook(
            lambda _, __, out: final.append(out.detach().to("cpu").float().numpy())
        )
    )
    try:
        yield found, final
    finally:
        for handle in handles:
            handle.remove()


def agreement(one: Floats, other: Floats) -> tuple[float, float]:
    """Return cosine and norm ratio (one over other) of two velocities; NaN if either is 0."""
    norms = _norm(one), _norm(other)
    if not all(norms) or not all(np.isfinite(norms)):
        return float("nan"), float("nan")
    inner = float((one.astype(np.float64) * other.astype(np.float64)).sum())
    return inner / (norms[0] * norms[1]), norms[0] / norms[1]


def _norm(values: Floats) -> float:
    return float(np.sqrt((values.astype(np.float64) ** 2).sum()))


def rows_of(answers: dict[str, Answers], merge: str) -> list[Signal]:
    """Return the signals of all models, each pair compared once and `merge` first."""
    rows: list[Signal] = []
    names = [merge, *(name for name in answers if name != merge)]
    for at, name in enumerate(names):
        mine = answers[name]
        for other in names[at + 1 :]:
            for time, velocity in mine.velocities.items():
                cosine, ratio = agreement(velocity, answers[other].velocities[time])
                rows.append(signal_row("velocity cosine", name, time, cosine, other))
                rows.append(signal_row("velocity norm ratio", name, time, ratio, other))
            theirs = answers[other].final
            swapped = np.concatenate(np.split(theirs, 2, axis=1)[::-1], axis=1)
            for x, final in (("as it stands", theirs), ("halves swapped", swapped)):
                cosine, _ = agreement(mine.final, final)
                rows.append(signal_row("final modulation cosine", name, x, cosine, other))
        rows += [
            signal_row("guidance response", name, g, move) for g, move in mine.response.items()
        ]
        rows += [
            signal_row("block contribution", name, x, value) for x, value in mine.blocks.items()
        ]
        rows.append(signal_row("velocity finite", name, None, float(mine.finite)))
        rows.append(signal_row("velocity repeats", name, None, float(mine.repeats)))
    return rows


def signal_row(
    signal: str, model: str, x: float | str | None, value: float, against: str | None = None
) -> Signal:
    """Return one figure of a model, perhaps against another, along `x` or alone."""
    return {"signal": signal, "model": model, "against": against, "x": x, "value": value}
