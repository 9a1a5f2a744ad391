//! What is missing in a product of thin matrices.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::engine::{Engine, Task};
use super::gemm::View;
use super::sketch::{BLOCK, WIDE, pack, sums, tiles};
use crate::simd::{Body, fold};

/// `up down`.
#[derive(Clone, Debug)]
pub struct Product {
    /// (rows, rank).
    pub up: Vec<f32>,
    /// (rank, columns).
    pub down: Vec<f32>,
    /// Columns of the one and rows of the other.
    pub rank: usize,
}

/// The sum of squares of `a - up down`, in f64 over products in f32.
pub fn residual(engine: &Engine, a: &[f32], of: &Product) -> f64 {
    let Product { up, down, rank } = of;
    let (rank, columns) = (*rank, down.len() / rank.max(&1));
    // Filled up to whole tiles.
    let width = columns.next_multiple_of(WIDE);
    let mut right = Vec::new();
    for first in (0..rank).step_by(BLOCK) {
        let mut block = vec![0.0; BLOCK.min(rank - first) * width];
        for (row, from) in
            block.chunks_exact_mut(width).zip(down[first * columns..].chunks(columns))
        {
            row[..columns].copy_from_slice(from);
        }
        tiles(&block, width, &mut right);
    }
    squares(engine, (a, columns), &Terms { up: View::new(up, rank), right: &right })
}

/// The sum of squares of `a`, whose rows have so many `columns`, in f64.
pub fn energy(engine: &Engine, a: &[f32], columns: usize) -> f64 {
    squares(engine, (a, columns), &Terms { up: View::new(&[], 0), right: &[] })
}

/// What a matrix is compared with: nothing, where there are no terms.
struct Terms<'a> {
    up: View<'a, f32>,
    /// One block of terms after the other, in tiles.
    right: &'a [[f32; WIDE]],
}

fn squares(engine: &Engine, (a, columns): (&[f32], usize), with: &Terms) -> f64 {
    const ROWS: usize = 64;
    let mut each = vec![0.0; a.len() / columns.max(1)];
    let pieces = each.chunks_mut(ROWS).enumerate();
    let tasks = pieces.map(|(i, out)| -> Task {
        Box::new(move || {
            if !engine.stopped() {
                engine.run(Rows { a, columns, with, first: i * ROWS, out });
            }
        })
    });
    engine.team.work(tasks.collect());
    each.iter().sum()
}

/// The sums of squares of rows.
struct Rows<'a> {
    a: &'a [f32],
    columns: usize,
    with: &'a Terms<'a>,
    first: usize,
    out: &'a mut [f64],
}

impl Body for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const R: usize = 8;
        let Terms { up, right } = *self.with;
        let (columns, width) = (self.columns, self.columns.next_multiple_of(WIDE));
        let mut terms = vec![[0.0; R]; up.shape.1];
        for (first, out) in (self.first..).step_by(R).zip(self.out.chunks_mut(R)) {
            if !terms.is_empty() {
                pack(up, (first, out.len()), 0, &mut terms);
            }
            let mut lanes = [[0.0_f64; LANES]; R];
            for column in (0..columns).step_by(WIDE) {
                let mut made = [[0.0_f32; WIDE]; R];
                for (at, terms) in (0..).step_by(BLOCK).zip(terms.chunks(BLOCK)) {
                    let right = &right[at * (width / WIDE) + column / WIDE * terms.len()..];
                    let block = sums::<R, WIDE>(terms, &right[..terms.len()]);
                    for r in 0..R {
                        for c in 0..WIDE {
                            made[r][c] += block[r][c];
                        }
                    }
                }
                let count = WIDE.min(columns - column);
                for r in 0..out.len() {
                    let from = &self.a[(first + r) * columns + column..][..count];
                    add_squares(from, &made[r][..count], &mut lanes[r]);
                }
            }
            out.iter_mut().zip(lanes).for_each(|(out, lanes)| *out = fold(lanes));
        }
    }
}

/// f64 accumulators of a sum of squares.
const LANES: usize = 16;

#[inline(always)]
fn add_squares(x: &[f32], y: &[f32], lanes: &mut [f64; LANES]) {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    let square = |x: f32, y: f32| f64::from(x - y) * f64::from(x - y);
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            lanes[lane] += square(x[lane], y[lane]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += square(*x, *y);
    }
}
