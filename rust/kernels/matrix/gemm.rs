//! Products of matrices in f64, the same bits on every machine.
//!
//! Each element of a product is a sum in the order of its terms, `((0 + a_0 b_0) + a_1 b_1) + ...`:
//! no multiply-add is fused, and how the loops are cut into blocks decides no bit.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use std::ops::Range;

use super::Engine;
use crate::simd::Body;

/// Terms and columns of the right factor that are packed at once: a quarter of a MiB, which stays in
/// the second-level cache.
const BLOCK: (usize, usize) = (256, 128);

/// Something whose value is an f64 exactly.
pub trait Entry: Copy {
    /// The value.
    fn value(self) -> f64;
}

impl Entry for f32 {
    #[inline(always)]
    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Entry for f64 {
    #[inline(always)]
    fn value(self) -> f64 {
        self
    }
}

/// A matrix that lies in a slice, row by row or column by column.
#[derive(Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    /// Rows and columns.
    pub shape: (usize, usize),
    /// Steps from row to row and from column to column.
    step: (usize, usize),
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: Entry> View<'a, T> {
    /// Rows of `columns` elements, one after the other.
    pub fn new(data: &'a [T], columns: usize) -> Self {
        let rows = data.len() / columns.max(1);
        Self { data, shape: (rows, columns), step: (columns, 1) }
    }

    /// Rows whose starts lie `step` elements apart.
    pub fn within(data: &'a [T], shape: (usize, usize), step: usize) -> Self {
        Self { data, shape, step: (step, 1) }
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let ((rows, columns), (down, along)) = (self.shape, self.step);
        Self { shape: (columns, rows), step: (along, down), ..self }
    }

    /// Some of the rows.
    pub fn rows(self, range: Range<usize>) -> Self {
        let at = (range.start * self.step.0).min(self.data.len());
        Self { data: &self.data[at..], shape: (range.len(), self.shape.1), ..self }
    }

    /// The first columns.
    pub fn columns(self, count: usize) -> Self {
        Self { shape: (self.shape.0, count), ..self }
    }

    #[inline(always)]
    fn at(&self, row: usize, column: usize) -> f64 {
        self.data[row * self.step.0 + column * self.step.1].value()
    }
}

/// `out = out + (factor a) b`, unless stopped; `out` has rows of `step` elements, of which the first are filled.
///
/// # Panics
/// If the shapes do not fit.
pub fn add_product<A: Entry, B: Entry>(
    engine: &Engine,
    (a, b, factor): (View<A>, View<B>, f64),
    out: &mut [f64],
    step: usize,
) {
    let (depth, n) = b.shape;
    assert_eq!(depth, a.shape.1, "inner dimensions");
    let mut packed = Vec::new();
    for first_column in (0..n).step_by(BLOCK.1) {
        let columns = first_column..n.min(first_column + BLOCK.1);
        for first in (0..depth).step_by(BLOCK.0) {
            if engine.stopped() {
                return;
            }
            let terms = first..depth.min(first + BLOCK.0);
            packed.resize(terms.len() * columns.len(), 0.0);
            engine.run(Pack {
                from: b,
                terms: terms.clone(),
                columns: columns.clone(),
                out: &mut packed,
            });
            let (b, columns) = (&packed[..], columns.clone());
            engine.run(Block { a, factor, terms, b, columns, out, step });
        }
    }
}

/// `a b`, row by row.
pub fn product<A: Entry, B: Entry>(engine: &Engine, a: View<A>, b: View<B>) -> Vec<f64> {
    let n = b.shape.1;
    let mut out = vec![0.0; a.shape.0 * n];
    add_product(engine, (a, b, 1.0), &mut out, n);
    out
}

/// `a^T a`, row by row: half of it is computed, and mirrored.
pub fn gram<A: Entry>(engine: &Engine, a: View<A>) -> Vec<f64> {
    let n = a.shape.1;
    let mut out = vec![0.0; n * n];
    add_lower(engine, (a.transposed(), a, 1.0), &mut out, n);
    mirror(&mut out, n);
    out
}

/// [`add_product`] of a symmetric product, of which only the lower triangle is of use.
pub fn add_lower<A: Entry, B: Entry>(
    engine: &Engine,
    (a, b, factor): (View<A>, View<B>, f64),
    out: &mut [f64],
    step: usize,
) {
    let n = a.shape.0;
    for first in (0..n).step_by(BLOCK.1) {
        let rows = first..n.min(first + BLOCK.1);
        let out = &mut out[first * step..];
        add_product(engine, (a.rows(rows.clone()), b.columns(rows.end), factor), out, step);
    }
}

/// Copies the lower triangle of a square matrix onto the upper.
pub fn mirror(square: &mut [f64], n: usize) {
    const SIDE: usize = 64;
    for first in (0..n).step_by(SIDE) {
        for other in (0..=first).step_by(SIDE) {
            for row in first..n.min(first + SIDE) {
                for column in other..row.min(other + SIDE) {
                    square[column * n + row] = square[row * n + column];
                }
            }
        }
    }
}

/// Copies a block of a matrix, row by row.
struct Pack<'a, T> {
    from: View<'a, T>,
    terms: Range<usize>,
    columns: Range<usize>,
    out: &'a mut [f64],
}

impl<T: Entry> Body for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.columns.len();
        if self.from.step.1 == 1 {
            for (row, term) in self.out.chunks_exact_mut(width).zip(self.terms) {
                let from = &self.from.data[term * self.from.step.0..][self.columns.clone()];
                for (to, from) in row.iter_mut().zip(from) {
                    *to = from.value();
                }
            }
            return;
        }
        for (at, column) in self.columns.enumerate() {
            for (row, term) in self.terms.clone().enumerate() {
                self.out[row * width + at] = self.from.at(term, column);
            }
        }
    }
}

/// Adds the product of some columns of the left factor and a packed block of the right one.
struct Block<'a, T> {
    a: View<'a, T>,
    factor: f64,
    terms: Range<usize>,
    b: &'a [f64],
    columns: Range<usize>,
    out: &'a mut [f64],
    step: usize,
}

impl<T: Entry> Body for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (width, last) = (self.columns.len(), self.terms.end);
        let entry = |row: usize, term: usize| self.factor * self.a.at(row, term);
        let mut rows = self.out.chunks_mut(self.step);
        for row in (0..self.a.shape.0).step_by(2) {
            let mut next = || rows.next().map_or(&mut [][..], |row| &mut row[self.columns.clone()]);
            let upper = next();
            // An odd last row is its own pair, and the second is nobody's.
            let paired = row + 1 < self.a.shape.0;
            let lower = if paired { next() } else { &mut [][..] };
            for (b, first) in self.b.chunks(4 * width).zip(self.terms.clone().step_by(4)) {
                if paired && first + 4 <= last {
                    let mut a = [[0.0; 4]; 2];
                    for k in 0..4 {
                        a[0][k] = entry(row, first + k);
                        a[1][k] = entry(row + 1, first + k);
                    }
                    add_four(upper, lower, b, a);
                    continue;
                }
                for (b, term) in b.chunks_exact(width).zip(first..) {
                    add_one(upper, b, entry(row, term));
                    if paired {
                        add_one(lower, b, entry(row + 1, term));
                    }
                }
            }
        }
    }
}

/// Adds multiples of four rows of `b` to two rows, term by term.
#[inline(always)]
fn add_four(upper: &mut [f64], lower: &mut [f64], b: &[f64], a: [[f64; 4]; 2]) {
    let n = upper.len();
    let lower = &mut lower[..n];
    let (b0, b1) = (&b[..n], &b[n..][..n]);
    let (b2, b3) = (&b[2 * n..][..n], &b[3 * n..][..n]);
    for j in 0..n {
        let (mut x, mut y) = (upper[j], lower[j]);
        x += a[0][0] * b0[j];
        y += a[1][0] * b0[j];
        x += a[0][1] * b1[j];
        y += a[1][1] * b1[j];
        x += a[0][2] * b2[j];
        y += a[1][2] * b2[j];
        x += a[0][3] * b3[j];
        y += a[1][3] * b3[j];
        (upper[j], lower[j]) = (x, y);
    }
}

#[inline(always)]
fn add_one(row: &mut [f64], b: &[f64], a: f64) {
    for (x, b) in row.iter_mut().zip(b) {
        *x += a * b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    fn matrix(rows: usize, columns: usize, seed: u32) -> Vec<f64> {
        let of = |i: u32| f64::from((i ^ seed).wrapping_mul(0x9E37_79B9) >> 8) / 8_388_608.0 - 1.0;
        (0..(rows * columns) as u32).map(of).collect()
    }

    #[test]
    fn products_are_sums_in_the_documented_order_on_every_isa() {
        for (m, depth, n) in [(1, 1, 1), (5, 3, 9), (97, 300, 20), (4, 513, 8)] {
            let (a, b) = (matrix(m, depth, 1), matrix(depth, n, 2));
            let mut want = vec![0.0; m * n];
            for (at, want) in want.iter_mut().enumerate() {
                for k in 0..depth {
                    *want += a[at / n * depth + k] * b[k * n + at % n];
                }
            }
            let left: Vec<_> = (0..m * depth).map(|i| a[i % m * depth + i / m]).collect();
            for isa in Isa::available() {
                let engine = &Engine::of(isa);
                let (a, b) = (View::new(&a, depth), View::new(&b, n));
                assert_eq!(product(engine, a, b), want, "{m} {depth} {n}");
                let a = View::new(&left, m).transposed();
                assert_eq!(product(engine, a, b), want, "{m} {depth} {n} transposed");
            }
        }
    }

    #[test]
    fn a_gram_matrix_is_the_product() {
        let values: Vec<f32> = matrix(70, 403, 3).iter().map(|x| *x as f32).collect();
        let a = View::new(&values, 403);
        let engine = &Engine::best();
        assert_eq!(gram(engine, a), product(engine, a.transposed(), a));
        assert_eq!(gram(engine, a.transposed()), product(engine, a, a.transposed()));
    }
}
