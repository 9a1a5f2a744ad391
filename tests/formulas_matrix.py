"""Merge methods of whole matrices in numpy f64, from their papers: no code of submerge in sight.

Matrices of any number of dimensions are taken as rows; one row or column is a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from formulas import Vector


def summed(base: Vector, models: list[Vector], weights: list[float]) -> Vector:
    """The weighted sum of deltas in f32, operation by operation, as a matrix of f64."""
    total = np.zeros_like(base)
    for x, w in zip(models, weights, strict=True):
        total = total + (x - base) * np.float32(w)
    rows = total.shape[0] if total.ndim > 1 else total.size
    return total.reshape(rows, -1).astype(np.float64)


def is_vector(d: Vector) -> bool:
    return bool(min(d.shape) <= 1)


def truncated(d: Vector, rank: int) -> Vector:
    u, s, vt = np.linalg.svd(d, full_matrices=False)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])


def energetic(d: Vector, share: float) -> Vector:
    s = np.linalg.svd(d, compute_uv=False)
    held = np.cumsum(s * s) / np.sum(s * s)
    return truncated(d, int(np.argmax(held >= share)) + 1)


def isotropic(d: Vector, models: int) -> Vector:
    if is_vector(d):
        return d / models
    u, s, vt = np.linalg.svd(d, full_matrices=False)
    return np.asarray(np.mean(s) * (u @ vt))


def decorrelated(deltas: list[Vector], rank: int | None = None) -> Vector:
    """TSV-Merge: singular triplets side by side, `U` and `V` replaced by their polar factors."""
    if is_vector(deltas[0]):
        return np.asarray(sum(deltas) / len(deltas))
    rank = rank or max(1, min(deltas[0].shape) // len(deltas))
    triplets = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    u = polar(np.concatenate([u[:, :rank] for u, _, _ in triplets], axis=1))
    s = np.concatenate([s[:rank] for _, s, _ in triplets])
    vt = polar(np.concatenate([vt[:rank] for _, _, vt in triplets]))
    return np.asarray((u * s) @ vt)


def polar(x: Vector) -> Vector:
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return np.asarray(u @ vt)


def shared(
    deltas: list[Vector],
    weights: list[float],
    density: float = 1,
    *,
    normalize: bool = True,
    signs: str = "plain",
) -> Vector:
    """KnOTS: TIES on the blocks of the right factor of all deltas side by side."""
    if is_vector(deltas[0]):
        return voted(deltas, weights, density, normalize=normalize, signs=signs)
    m, n = deltas[0].shape
    u, s, vt = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    keep = s > 1e-6 * max(float(s[0]), 1e-300)
    short = u.T if m <= n * len(deltas) else vt
    largest = np.take_along_axis(short, np.abs(short).argmax(axis=1)[:, None], 1)
    turn = np.where(largest < 0, -1.0, 1.0)
    u, right = u * turn.T, (turn * s[:, None] * vt)[keep]
    blocks = np.split(right, len(deltas), axis=1)
    made = voted(blocks, weights, density, normalize=normalize, signs=signs)
    return np.asarray(u[:, keep] @ made)


def voted(
    blocks: list[Vector], weights: list[float], density: float, *, normalize: bool, signs: str
) -> Vector:
    """TIES, with weights after the trim: those with the sign of the sum, over their weights."""
    left = []
    for block in blocks:
        kept = np.zeros(block.size)
        count = max(1, int(density * block.size)) if block.size else 0
        largest = np.argsort(-np.abs(block.ravel()), kind="stable")[:count]
        kept[largest] = block.ravel()[largest]
        left.append(kept.reshape(block.shape))
    products = [w * x for w, x in zip(weights, left, strict=True)]
    cast = {"plain": left, "sum": products, "count": [np.sign(p) for p in products]}[signs]
    up = sum(cast) >= 0
    agree = [((v > 0) == up) & (v != 0) for v in cast]
    total = sum(p * a for p, a in zip(products, agree, strict=True))
    if not normalize:
        return np.asarray(total)
    divisor: Any = sum(w * a for w, a in zip(weights, agree, strict=True))
    return np.asarray(total / np.where(divisor == 0, 1.0, divisor))


def rotation(a: Vector, b: Vector, *, proper: bool = False) -> Vector:
    """The orthogonal R that makes |a R - b| least; if `proper`, of those without a reflection."""
    u, _, vt = np.linalg.svd(a.T @ b)
    if proper:
        u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return np.asarray(u @ vt)


def power(r: Vector, t: float) -> Vector:
    """A power of an orthogonal matrix, by its complex eigenvalues."""
    values, vectors = np.linalg.eig(r)
    return np.asarray(((vectors * values**t) @ np.linalg.inv(vectors)).real)


def rotated(
    a: Vector, b: Vector, alpha: float, alignment: float, centralization: float = 0
) -> Vector:
    """Both in one frame: tall matrices by their columns, wide ones by their rows."""
    shape = a.shape
    rows = shape[0] if a.ndim > 1 else a.size
    a, b = (x.astype(np.float64).reshape(rows, -1) for x in (a, b))
    if is_vector(a):
        return np.asarray(((1 - alpha) * a + alpha * b).reshape(shape))
    wide = a.shape[0] < a.shape[1]
    a, b = (a.T, b.T) if wide else (a, b)
    means = [centralization * x.mean(axis=0) for x in (a, b)]
    a, b = a - means[0], b - means[1]
    part = alignment not in (0, 1)
    r = rotation(a, b, proper=part)
    there, back = (power(r, alignment), power(r, alignment - 1)) if part else (r, r.T)
    if alignment == 0:
        there = np.eye(len(r))
    elif alignment == 1:
        back = np.eye(len(r))
    made = (1 - alpha) * a @ there + alpha * b @ back
    made = made + (1 - alignment) * means[0] + alignment * means[1]
    return np.asarray((made.T if wide else made).reshape(shape))


def on(base: Vector, made: Vector, scale: float) -> Vector:
    """The base and what was made, in f32."""
    out: Any = base + made.astype(np.float32).reshape(base.shape) * np.float32(scale)
    return np.asarray(out)
