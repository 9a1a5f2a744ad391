//! Products in f32 of a large matrix and a thin one, the same bits on every machine.
//!
//! Each element is a sum of blocks of [`BLOCK`] terms: within a block `((0 + a_0 b_0) + a_1 b_1) + ...`, and
//! the blocks are added in their order. No multiply-add is fused; how rows are shared out and cut into
//! tiles decides no bit.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use std::ops::Range;

use super::engine::{Engine, Task};
use super::gemm::View;
use crate::simd::Body;

/// Terms that are summed before they are added to those before them; with a row of the thin matrix
/// for each they stay in the second-level cache.
pub const BLOCK: usize = 256;
/// Columns of a thin matrix are a multiple of this: three vectors of AVX-512. Of other tiles the
/// compiler makes shuffles.
pub const WIDE: usize = 48;
/// Rows of the large matrix in a piece of work.
const PIECE: usize = 384;

/// `a b`, row by row, where the rows of `b` have `width` elements, a multiple of [`WIDE`]. What it is once
/// the engine was stopped means nothing.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(engine: &Engine, a: View<f32>, b: &[f32], width: usize) -> Vec<f32> {
    assert_eq!(b.len(), a.shape.1 * width, "inner dimensions");
    assert_eq!(width % WIDE, 0, "whole tiles");
    let mut out = vec![0.0; a.shape.0 * width];
    let pieces = out.chunks_mut((PIECE * width).max(1)).enumerate();
    let tasks = pieces.map(|(i, out)| -> Task {
        let rows = i * PIECE..i * PIECE + out.len() / width;
        Box::new(move || add_rows(engine, a.rows(rows), (b, width), out))
    });
    engine.team.work(tasks.collect());
    out
}

/// Adds `a b` to `out`, one block of terms after the other.
fn add_rows(engine: &Engine, a: View<f32>, (b, width): (&[f32], usize), out: &mut [f32]) {
    match engine.isa.name() {
        "avx512" => add_tiles::<8, 48>(engine, a, (b, width), out),
        "avx2" => add_tiles::<4, 16>(engine, a, (b, width), out),
        _ => add_tiles::<4, 8>(engine, a, (b, width), out),
    }
}

fn add_tiles<const R: usize, const C: usize>(
    engine: &Engine,
    a: View<f32>,
    (b, width): (&[f32], usize),
    out: &mut [f32],
) {
    let mut right = Vec::new();
    for first in (0..a.shape.1).step_by(BLOCK) {
        if engine.stopped() {
            return;
        }
        let terms = first..a.shape.1.min(first + BLOCK);
        right.clear();
        tiles::<C>(&b[first * width..terms.end * width], width, &mut right);
        engine.run(Block::<R, C> { a, terms, right: &right, width, out: &mut *out });
    }
}

/// Appends rows of `width` elements in tiles of `C` columns, a multiple of which `width` is.
pub(super) fn tiles<const C: usize>(rows: &[f32], width: usize, out: &mut Vec<[f32; C]>) {
    for column in (0..width).step_by(C) {
        for row in rows.chunks_exact(width) {
            let mut tile = [0.0; C];
            tile.copy_from_slice(&row[column..][..C]);
            out.push(tile);
        }
    }
}

/// Adds the products of a block of terms, in tiles of `R` rows and `C` columns.
struct Block<'a, const R: usize, const C: usize> {
    a: View<'a, f32>,
    terms: Range<usize>,
    right: &'a [[f32; C]],
    width: usize,
    out: &'a mut [f32],
}

impl<const R: usize, const C: usize> Body for Block<'_, R, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { a, terms, right, width, out } = self;
        let mut left = [[0.0; R]; BLOCK];
        let left = &mut left[..terms.len()];
        for first in (0..a.shape.0).step_by(R) {
            let height = R.min(a.shape.0 - first);
            pack(a, (first, height), terms.start, left);
            for (tile, right) in right.chunks_exact(terms.len()).enumerate() {
                let sums = sums::<R, C>(left, right);
                for r in 0..height {
                    let out = &mut out[(first + r) * width + tile * C..][..C];
                    for c in 0..C {
                        out[c] += sums[r][c];
                    }
                }
            }
        }
    }
}

/// Copies terms of some rows, term by term; rows there are none of become what nobody reads.
#[inline(always)]
pub(super) fn pack<const R: usize>(
    a: View<f32>,
    (first, height): (usize, usize),
    term: usize,
    left: &mut [[f32; R]],
) {
    let (turned, terms) = (a.transposed(), term..term + left.len());
    if height < R {
        for (left, term) in left.iter_mut().zip(terms) {
            for r in 0..height {
                left[r] = a.raw(first + r, term);
            }
        }
    } else if turned.along(term, first..first + R).is_some() {
        for (left, term) in left.iter_mut().zip(terms) {
            let from = turned.along(term, first..first + R).unwrap_or_default();
            #[allow(clippy::manual_memcpy)] // a call of `memcpy` for each would cost more
            for r in 0..R {
                left[r] = from[r];
            }
        }
    } else {
        let mut rows = [&[][..]; R];
        for r in 0..R {
            let row = a.along(first + r, terms.start..terms.end).unwrap_or_default();
            rows[r] = &row[..left.len()];
        }
        // Each as one vector: stores of single numbers would become a scatter.
        for (t, left) in left.iter_mut().enumerate() {
            let mut turned = [0.0; R];
            for r in 0..R {
                turned[r] = rows[r][t];
            }
            *left = turned;
        }
    }
}

/// The products of one tile, summed term by term.
#[inline(always)]
pub(super) fn sums<const R: usize, const C: usize>(
    left: &[[f32; R]],
    right: &[[f32; C]],
) -> [[f32; C]; R] {
    let mut held = [[0.0; C]; R];
    for (a, b) in left.iter().zip(right) {
        for r in 0..R {
            for c in 0..C {
                held[r][c] += a[r] * b[c];
            }
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    fn matrix(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
        let of = |i: u32| ((i ^ seed).wrapping_mul(0x9E37_79B9) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..(rows * columns) as u32).map(of).collect()
    }

    /// The sum in the documented order.
    fn sum(terms: usize, term: impl Fn(usize) -> f32) -> f32 {
        let block =
            |first: usize| (first..terms.min(first + BLOCK)).fold(0.0, |sum: f32, k| sum + term(k));
        (0..terms).step_by(BLOCK).fold(0.0, |sum: f32, first| sum + block(first))
    }

    #[test]
    fn products_are_sums_in_the_documented_order_on_every_isa() {
        for (m, depth, width) in [(1, 1, 48), (13, 300, 48), (401, 513, 48), (9, 256, 96)] {
            let (a, b) = (matrix(m, depth, 1), matrix(depth, width, 2));
            let want: Vec<_> = (0..m * width)
                .map(|at| {
                    let (row, column) = (at / width, at % width);
                    sum(depth, |k| a[row * depth + k] * b[k * width + column])
                })
                .collect();
            let turned: Vec<_> = (0..m * depth).map(|i| a[i % m * depth + i / m]).collect();
            for isa in Isa::available() {
                let engine = &Engine::of(isa);
                assert_eq!(product(engine, View::new(&a, depth), &b, width), want, "{m} {width}");
                let view = View::new(&turned, m).transposed();
                assert_eq!(product(engine, view, &b, width), want, "{m} {width} transposed");
            }
        }
    }
}
