"""Merge methods in numpy, one unit at a time, from their papers: no code of submerge in sight.

Angles and norms are in f64 on whole vectors. What works on single elements is in f32, operation by
operation in the documented order, so that it can be compared bit for bit. `rows` of a matrix are
vectors of their own where a formula is applied row by row.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

Vector = np.ndarray[Any, np.dtype[Any]]
F32 = np.float32


def norm(x: Vector) -> float:
    return float(np.sqrt(np.sum(x * x)))


def angle(a: Vector, b: Vector) -> float:
    return float(np.arccos(np.clip(np.dot(a, b) / (norm(a) * norm(b)), -1.0, 1.0)))


def by_rows(formula: Callable[..., Vector], *operands: Vector, **arguments: Any) -> Vector:
    """Apply a formula of vectors to each row."""
    width = operands[0].shape[-1] if operands[0].ndim > 1 else 1
    split = [x.reshape(-1, width) for x in operands]
    rows = [formula(*row, **arguments) for row in zip(*split, strict=True)]
    return np.stack(rows).reshape(operands[0].shape)


# Angles and norms, f64.


def line_of(a: Vector, b: Vector, t: float) -> Vector:
    return np.asarray((1 - t) * a + t * b)


def slerp(a: Vector, b: Vector, t: float, line: float = 0.9995) -> Vector:
    theta = angle(a, b) if norm(a) > 1e-8 and norm(b) > 1e-8 else np.pi / 2
    if abs(np.cos(theta)) > line:
        return line_of(a, b, t)
    return np.asarray((np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta))


def nuslerp(*vectors: Vector, t: float) -> Vector:
    """Two vectors, or a base and two."""
    if len(vectors) == 3:
        base, a, b = vectors
        return base + nuslerp(a - base, b - base, t=t)
    a, b = vectors
    theta = angle(a, b)
    if np.sin(theta) <= 1e-8:
        return line_of(a, b, t)
    return np.asarray((np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta))


def norm_lerp(a: Vector, b: Vector, t: float) -> Vector:
    line = (1 - t) * a + t * b
    return np.asarray(line * abs((1 - t) * norm(a) + t * norm(b)) / norm(line))


def multislerp(*vectors: Vector, weights: list[float], eps: float = 1e-8) -> Vector:
    w = np.array(weights) / sum(weights)
    mean = sum(wi * x / (norm(x) + eps) for wi, x in zip(w, vectors, strict=True))
    length = sum(wi * norm(x) for wi, x in zip(w, vectors, strict=True))
    return np.asarray(mean / norm(mean) * length)


def karcher(*vectors: Vector, max_iter: int = 100, tol: float = 1e-9) -> Vector:
    units = [x / norm(x) for x in vectors]
    u: Vector = np.mean(units, axis=0)
    u = u / norm(u)
    for _ in range(max_iter):
        step = np.zeros_like(u)
        for ui in units:
            theta = float(np.arccos(np.clip(np.dot(u, ui), -1, 1)))
            if theta >= tol:
                step += theta / np.sin(theta) * (ui - np.cos(theta) * u) / len(units)
        if norm(step) < tol:
            break
        u = np.cos(norm(step)) * u + np.sin(norm(step)) * step / norm(step)
        u = u / norm(u)
    return np.asarray(u * np.mean([norm(x) for x in vectors]))


def geometric_median(*vectors: Vector, max_iter: int = 100, eps: float = 1e-6) -> Vector:
    m = sum(vectors) / len(vectors)
    for _ in range(max_iter):
        pull = [1 / max(norm(x - m), eps) for x in vectors]
        m = sum(g * x for g, x in zip(pull, vectors, strict=True)) / sum(pull)
    return np.asarray(m)


def model_stock(base: Vector, *vectors: Vector) -> Vector:
    deltas = [x - base for x in vectors]
    n = len(deltas)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    cosines = [
        np.dot(deltas[i], deltas[j]) / max(norm(deltas[i]) * norm(deltas[j]), 1e-6)
        for i, j in pairs
    ]
    c = float(np.mean(cosines))
    t = n * c / (1 + (n - 1) * c)
    return np.asarray(t * sum(vectors) / n + (1 - t) * base)


def orthogonal(base: Vector, a: Vector, b: Vector, alpha: float) -> Vector:
    da, db = a - base, b - base
    return np.asarray(a + alpha * (db - da * np.dot(da, db) / np.dot(da, da)))


def polar(a: Vector, b: Vector, direction: float, length: float) -> Vector:
    way = (1 - direction) * a / norm(a) + direction * b / norm(b)
    return np.asarray(way / norm(way) * abs((1 - length) * norm(a) + length * norm(b)))


def norm_limit(base: Vector, *vectors: Vector, weights: list[float], limit: float) -> Vector:
    way = np.sum([w * (x - base) for w, x in zip(weights, vectors, strict=True)], axis=0)
    return np.asarray(base + way * min(1.0, limit * norm(base) / norm(way)))


def add_cosine(a: Vector, b: Vector, alpha: float, *, whole: bool) -> Vector:
    """Cosines down the columns; a vector is one column."""
    own = np.sum(a * b, axis=0) / np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))
    unit = np.sum(a * b) / (norm(a) * norm(b))
    k = 1 - np.clip(((own + unit) / 2 if whole else own) - alpha, 0, 1)
    return np.asarray((1 - k) * a + k * b)


def sce(base: Vector, *models: Vector, share: float = 1.0, floor: float = 0.0) -> Vector:
    """Variances and weights in f64, the rest in f32."""
    deltas = [x - base for x in models]
    if share < 1:
        variance = np.var(np.stack(deltas).astype(np.float64), axis=0).astype(np.float32)
        keep = int(share * np.count_nonzero(variance))
        order = np.argsort(-variance.ravel(), kind="stable")[:keep]
        deltas = [_only(d, order) for d in deltas]
    squares = [float(np.mean(d.astype(np.float64) ** 2)) for d in deltas]
    total = sum(squares)
    even = total == 0 or total < floor
    weights = [F32(1 / len(deltas) if even else square / total) for square in squares]
    top, bottom, vote = np.zeros_like(base), np.zeros_like(base), np.zeros_like(base)
    for d in deltas:
        vote = vote + d
    for d, w in zip(deltas, weights, strict=True):
        part = w * (np.sign(d) == np.where(vote >= 0, 1, -1)).astype(np.float32)
        top, bottom = top + d * part, bottom + part
    bottom = np.maximum(bottom, F32(floor))
    return np.asarray(base + top / np.where(bottom == 0, F32(1), bottom))


def arcee_importance(base: Vector, x: Vector) -> Vector:
    """In f32 from a divergence in f64; that of a vector is 1."""
    if base.ndim < 2:
        return np.asarray(np.abs(x - base))

    def soft(rows: Vector) -> Vector:
        top = np.exp(rows - rows.max(axis=-1, keepdims=True))
        return np.asarray(top / top.sum(axis=-1, keepdims=True) + 1e-8)

    p, q = soft(x.astype(np.float64)), soft(base.astype(np.float64))
    divergence = np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    return np.asarray(np.abs(x - base) * np.maximum(divergence, 0).astype(np.float32))


def arcee_threshold(importance: Vector) -> Any:
    order = np.sort(importance.ravel())
    low, mid, high = (order[k * (order.size - 1) // 4] for k in (1, 2, 3))
    return mid + F32(1.5) * (high - low)


def arcee_fusion(base: Vector, x: Vector) -> Vector:
    importance = arcee_importance(base, x)
    taken = (importance >= arcee_threshold(importance)).astype(np.float32)
    return np.asarray(base + (x - base) * taken)


def smooth_add(a: Vector, b: Vector, c: Vector, alpha: float) -> Vector:
    """The median of three in every direction, then a Gaussian of width 1 as far as 4."""
    d = (b - c).astype(np.float32)
    padded = np.pad(d, 1, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, [3] * d.ndim)
    smooth = np.median(windows.reshape(*d.shape, -1), axis=-1).astype(np.float32)
    bell = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    bell = bell / bell.sum()
    for axis in range(d.ndim):
        wide = _reflected(smooth.astype(np.float64), axis)
        near = np.lib.stride_tricks.sliding_window_view(wide, 9, axis=axis)
        smooth = (near @ bell).astype(np.float32)
    return np.asarray(a + F32(alpha) * smooth)


def _reflected(x: Vector, axis: int) -> Vector:
    """Symmetric padding by 4, over and over where the axis is shorter than that."""
    n = x.shape[axis]
    places = [(n - 1 - i % n) if (i // n) % 2 else i % n for i in range(-4, n + 4)]
    return np.take(x, places, axis=axis)


# Deltas, f32, in order.


def delta(
    base: Vector,
    models: list[Vector],
    weights: list[float],
    *,
    scale: float = 1.0,
    normalize: bool = False,
    consensus: str = "none",
    even: str = "majority",
) -> Vector:
    """`models` are deltas, thinned out already; those of one unit."""
    w = [F32(x) for x in weights]
    parts = [d * wi for d, wi in zip(models, w, strict=True)]
    zero = np.zeros_like(base)
    masks = [np.ones_like(base) for _ in parts]
    if consensus != "none":
        total, voters = zero, models if consensus == "plain" else parts
        for voter in voters:
            total = total + (np.sign(voter) if consensus == "count" else voter)
        sign = np.sign(total)
        # Of one model nothing cancels: what is 0 stays so whatever wins.
        wins = 1 if even == "positive" or sign.sum() > 0 else -1
        majority = np.where(sign == 0, F32(wins), sign)
        masks = [(np.sign(voter) == majority).astype(np.float32) for voter in voters]
    mixed, divisor = zero, zero
    for part, mask, wi in zip(parts, masks, w, strict=True):
        mixed = mixed + part * mask
        divisor = divisor + wi * mask
    if normalize:
        small = divisor == 0 if consensus != "none" else np.abs(divisor) < 1e-8
        mixed = mixed / np.where(small, F32(1), divisor)
    return base + mixed * F32(scale)


def largest(d: Vector, density: float) -> Vector:
    """The largest magnitudes, of equals the first."""
    if density >= 1:
        return d
    keep = max(1, int(density * d.size)) if density > 0 else 0
    order = np.argsort(-np.abs(d).ravel(), kind="stable")[:keep]
    return _only(d, order)


def middle(d: Vector, density: float, gamma: float) -> Vector:
    """Without the largest, then the next largest."""
    if density >= 1:
        return d
    keep = int(density * d.size)
    top = min(int(gamma * d.size), d.size - keep)
    order = np.argsort(-np.abs(d).ravel(), kind="stable")[top : top + keep]
    return _only(d, order)


def _only(d: Vector, places: Vector) -> Vector:
    mask = np.zeros(d.size, np.float32)
    mask[places] = 1
    return d * mask.reshape(d.shape)


def key(seed: int, unit: str, model: str) -> int:
    digest = hashlib.sha256(b"\0".join(x.encode() for x in (str(seed), unit, model))).digest()
    return int.from_bytes(digest[:8], "little")


def philox(stream: int, count: int) -> Vector:
    """The first `count` words of Philox4x32-10 (Salmon et al. 2011)."""
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    c = [blocks & mask, blocks >> np.uint64(32), np.zeros_like(blocks), np.zeros_like(blocks)]
    k0, k1 = stream & 0xFFFFFFFF, stream >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & mask,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & mask,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).ravel()[:count]


def rescaled(d: Vector, kept: Vector, chance: Vector, rescale: str) -> Vector:
    factor: Any = F32(1)
    if rescale == "inverse":
        factor = (1 / np.where(chance > 0, chance, 1)).astype(np.float32)
    if rescale == "l1":
        both = np.sum(np.abs(d), dtype=np.float64), np.sum(np.abs(d)[kept], dtype=np.float64)
        factor = F32(both[0] / both[1]) if min(both) >= 1e-7 else F32(1)
    return d * np.where(kept, factor, F32(0)).astype(np.float32)


def random(d: Vector, density: float, stream: int, rescale: str) -> Vector:
    if density >= 1:
        return d
    chance = np.full(d.shape, density)
    kept = philox(stream, d.size).reshape(d.shape) < np.floor(chance * 2**32)
    return rescaled(d, kept, chance, rescale)


def ranked(d: Vector, density: float, epsilon: float, stream: int, rescale: str) -> Vector:
    if density >= 1:
        return d
    width = d.shape[-1] if d.ndim > 1 else 1
    rows = d.reshape(-1, width)
    places = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
    spread = places / (width - 1) * 2 * epsilon if width > 1 else np.full(rows.shape, epsilon)
    chance = ((density - epsilon) + spread).reshape(d.shape)
    if width == 1:
        chance = np.full(d.shape, density)
    kept = philox(stream, d.size).reshape(d.shape) < np.floor(chance * 2**32)
    return rescaled(d, kept, chance, rescale)


# Single elements, f32.


def nearswap(a: Vector, b: Vector, t: float) -> Vector:
    w = np.clip(F32(1) / np.maximum(np.abs(a - b), F32(1e-6)) * F32(t), F32(0), F32(1))
    return np.asarray(w * b + (F32(1) - w) * a)


def ram(base: Vector, *models: Vector, epsilon: float = 1e-5) -> Vector:
    deltas = [x - base for x in models]
    active = [np.abs(d) > F32(epsilon) for d in deltas]
    count = np.maximum(sum(x.astype(np.float32) for x in active), F32(1))
    total = np.zeros_like(base)
    for d, on in zip(deltas, active, strict=True):
        total = total + np.where(on, d, F32(0)) / count
    return base + total


def ramplus(base: Vector, *models: Vector, r: float, alpha: float, epsilon: float) -> Vector:
    deltas = [x - base for x in models]
    active = [np.abs(d) > F32(epsilon) for d in deltas]
    count = sum(x.astype(int) for x in active)
    total = np.zeros_like(base)
    for d, on in zip(deltas, active, strict=True):
        alone, shared = np.count_nonzero(on & (count == 1)), np.count_nonzero(on & (count > 1))
        rho = min(F32(shared) / max(F32(alone), F32(epsilon)), F32(alpha))
        factor = F32(1) + F32(r) * rho
        divided = d / np.maximum(count, 1).astype(np.float32)
        total = total + np.where(on, np.where(count == 1, d * factor, divided), F32(0))
    return base + total


def add_opposite(a: Vector, b: Vector, c: Vector, alpha: float) -> Vector:
    whole = np.abs(a - b) + np.abs(a + b - F32(2) * c)
    m = np.where(whole == 0, F32(0), np.abs(a - b) / np.where(whole == 0, F32(1), whole))
    return a + (b - c) * m * F32(2 * alpha)


def add_strict_opposite(a: Vector, b: Vector, c: Vector, alpha: float) -> Vector:
    whole = np.maximum(np.abs(a - c), np.abs(b - c)) ** 2
    m = (c - a) * (b - c) / np.where(whole == 0, F32(1), whole)
    return a + (b - c) * np.maximum(np.where(whole == 0, F32(0), m), F32(0)) * F32(2 * alpha)


def train_difference(a: Vector, b: Vector, c: Vector, alpha: float) -> Vector:
    d = b - c
    whole = np.abs(d) + np.abs(b - a)
    m = np.where(whole == 0, F32(0), np.abs(b - a) / np.where(whole == 0, F32(1), whole))
    return a + d * m * F32(1.8 * alpha)


def clamp(a: Vector, b: Vector, c: Vector, alpha: float) -> Vector:
    result = F32(1) * a + F32(alpha) * b
    result = result + F32(-alpha) * c
    return np.minimum(np.maximum(result, np.minimum(a, b)), np.maximum(a, b))


def consensus_mask(
    base: Vector, *models: Vector, weights: list[float], scale: float, tolerance: float, agree: int
) -> Vector:
    deltas = [x - base for x in models]
    whole, total = np.zeros_like(base), np.zeros_like(base)
    for d, w in zip(deltas, weights, strict=True):
        whole, total = whole + d, total + d * F32(w)
    votes = sum((np.abs(d) > np.abs(whole - d) * F32(tolerance)).astype(int) for d in deltas)
    return base + np.where(votes >= agree, total, F32(0) * total) * F32(scale)
