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


def rotation(a: Vector, b: Vector) -> Vector:
    """The orthogonal R that makes |a R - b| least."""
    u, _, vt = np.linalg.svd(a.T @ b)
    return np.asarray(u @ vt)


def rotated(a: Vector, b: Vector, alpha: float, alignment: int) -> Vector:
    """Both in one frame: tall matrices by their columns, wide ones by their rows."""
    shape = a.shape
    rows = shape[0] if a.ndim > 1 else a.size
    a, b = (x.astype(np.float64).reshape(rows, -1) for x in (a, b))
    if is_vector(a):
        made = (1 - alpha) * a + alpha * b
    else:
        wide = a.shape[0] < a.shape[1]
        a, b = (a.T, b.T) if wide else (a, b)
        r = rotation(a, b)
        made = (1 - alpha) * a @ r + alpha * b if alignment else (1 - alpha) * a + alpha * b @ r.T
        made = made.T if wide else made
    return np.asarray(made.reshape(shape))


def on(base: Vector, made: Vector, scale: float) -> Vector:
    """The base and what was made, in f32."""
    out: Any = base + made.astype(np.float32).reshape(base.shape) * np.float32(scale)
    return np.asarray(out)
