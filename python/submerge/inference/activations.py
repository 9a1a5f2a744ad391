"""What painting holds beside the weights, phase by phase.

Counted, not guessed: `benches/activations.py` runs diffusers' own modules at full width on tensors
without numbers and adds up the storages their operations make. A test holds these formulas within
3 % of that count. With `s` bytes a number, `n` tokens of text and image, `t` of text:

- transformer, `batch n hidden c + n head_dim 8 + batch t text s`: a single block turns queries
  and
  keys in float32 beside its input, its norm, q, k, v and the four widths of its mlp; `c` is 34 in
  16 bits and 60 in 32. The tables of the angles are float32. What a block needs is gone when the
  next begins, so depth does not count.
- T5, the larger of `s (4 t (text + inner) + heads t^2)` in its mlp and `s (7 t text + 2 heads t^2)`
  in its attention.
- VAE, three pictures of the widest level: what a resnet gets, its norm, its activation.

Attention is taken to be fused, as torch computes it on CPUs, CUDA, ROCm and XPU. On MPS torch
writes out the scores, twice at a time, one of them their softmax.

The process takes more than the count. On the CPU, convolutions reorder their pictures, and glibc
keeps some of what is freed: resident memory grew by 1.2 times the count and some 150 MB, at most by
as much again where the count is small. With `MALLOC_MMAP_THRESHOLD_=65536`, which has glibc
give back at once, it was 1.0 to 1.1 times the count for text and denoising, 1.3 for decoding. On
accelerators there are cuDNN's workspaces and the allocator's gaps: FLUX.1-dev took 1.1 GiB
denoising and 4.7 GiB decoding beside its weights at 1024 x 1024 in bf16 (the dataset
derekl35/diffusers-quantization-benchmarks), which is 2.4 and 3.1 times the
count.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TILE", "Shapes", "Work", "activations", "counted"]

# Pixels along the side of a tile the VAE decodes at a time, where it decodes in tiles.
TILE = 512


@dataclass(frozen=True, slots=True)
class Work:
    """What is painted at a time: pixels, images together, text tokens."""

    width: int = 1024
    height: int = 1024
    batch: int = 1
    tokens: int = 512


@dataclass(frozen=True, slots=True)
class Shapes:
    """What sizes the tensors between the layers; by default those of FLUX.1.

    Attributes:
        hidden: width of the transformer.
        head_dim: width of one of its heads.
        text: width of T5, whose embeddings the transformer reads.
        text_inner: width inside T5's mlp.
        text_heads: heads of T5.
        vae: channels of the VAE by level, at full resolution first.
        itemsize: bytes of a number.
    """

    hidden: int = 3072
    head_dim: int = 128
    text: int = 4096
    text_inner: int = 10240
    text_heads: int = 64
    vae: tuple[int, ...] = (128, 256, 512, 512)
    itemsize: int = 2


# What an accelerator takes for each byte counted, by phase.
_ON_DEVICE = {"text": 2.4, "denoise": 2.4, "decode": 3.1}
# What a CPU takes, and the most that its allocator keeps besides.
_ON_CPU, _KEPT = 1.2, 150_000_000
_IMAGE_CHANNELS = 3


def activations(
    shapes: Shapes, work: Work, *, tiles: bool, device: str = "cpu", unpacked: int = 0
) -> dict[str, int]:
    """Return the bytes that each phase takes beside the weights.

    Args:
        shapes: what sizes the tensors.
        work: what is painted at a time.
        tiles: whether the VAE decodes in tiles.
        device: its kind, `cpu` or `cuda`.
        unpacked: bytes of a layer's weights in the dtype it computes in, where it is stored in
            another.
    """
    bytes_of = counted(shapes, work, tiles=tiles, fused=device != "mps")
    bytes_of["denoise"] += unpacked
    if device == "cpu":
        return {phase: int(_ON_CPU * n) + min(n, _KEPT) for phase, n in bytes_of.items()}
    return {phase: int(_ON_DEVICE[phase] * n) for phase, n in bytes_of.items()}


def counted(shapes: Shapes, work: Work, *, tiles: bool, fused: bool = True) -> dict[str, int]:
    """Return the bytes of the tensors that each phase holds at once, weights apart.

    Args:
        shapes: what sizes the tensors.
        work: what is painted at a time.
        tiles: whether the VAE decodes in tiles.
        fused: whether attention is computed without writing out its scores.
    """
    return {
        "text": _text(shapes, work.tokens, fused=fused),
        "denoise": _denoise(shapes, work, fused=fused),
        "decode": _decode(shapes, work, tiles=tiles, fused=fused),
    }


def _text(shapes: Shapes, tokens: int, *, fused: bool) -> int:
    scores = shapes.text_heads * tokens * tokens
    mlp = 4 * tokens * (shapes.text + shapes.text_inner) + scores
    attention = 7 * tokens * shapes.text + (2 if fused else 4) * scores
    return shapes.itemsize * max(mlp, attention)


def _denoise(shapes: Shapes, work: Work, *, fused: bool) -> int:
    patches = work.width * work.height // 256
    tokens = patches + work.tokens
    wide = 34 if shapes.itemsize == 2 else 60
    between = work.batch * tokens * shapes.hidden * wide
    given = work.batch * work.tokens * shapes.text * shapes.itemsize
    heads = shapes.hidden // shapes.head_dim
    scores = 0 if fused else 2 * work.batch * heads * tokens * tokens * shapes.itemsize
    return between + given + tokens * shapes.head_dim * 8 + scores


def _decode(shapes: Shapes, work: Work, *, tiles: bool, fused: bool) -> int:
    pixels = work.width * work.height
    seen = min(pixels, TILE * TILE) if tiles else pixels
    # A level's first resnet gets the channels of the level below, brought to its resolution.
    below = (*shapes.vae[1:], shapes.vae[-1])
    widest = max(channels / 4**level for level, channels in enumerate(below))
    # Attention where the picture is smallest, one head over all its places.
    places = seen // 4 ** (len(shapes.vae) - 1)
    scores = 0 if fused else 2 * places * places
    # What is put together from tiles lies beside the tile that is decoded.
    whole = _IMAGE_CHANNELS * pixels if tiles else 0
    return int(shapes.itemsize * (max(3 * widest * seen, scores) + whole))
