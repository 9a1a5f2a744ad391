//! Products of matrices in f64, the same bits on every machine.
//!
//! Each element of a product is a sum in the order of its terms, `((0 + a_0 b_0) + a_1 b_1) + ...`:
//! no multiply-add is fused, and how the loops are cut into blocks decides no bit.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use std::ops::Range;

use super::engine::Engine;
use crate::simd::Body;

/// Terms and columns of the right factor that are packed at once: half a MiB, which stays in the
/// second-level cache.
const BLOCK: (usize, usize) = (256, 256);

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

    /// The elements of a row from a column on, if they stand side by side.
    #[inline(always)]
    pub fn along(&self, row: usize, columns: Range<usize>) -> Option<&'a [T]> {
        let from = row * self.step.0 + columns.start;
        (self.step.1 == 1).then(|| &self.data[from..][..columns.len()])
    }

    /// One element, as it is.
    #[inline(always)]
    pub fn raw(&self, row: usize, column: usize) -> T {
        self.data[row * self.step.0 + column * self.step.1]
    }

    /// One element.
    #[inline(always)]
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.data[row * self.step.0 + column * self.step.1].value()
    }
}

/// `out = out + (factor a) b`; `out` has rows of `step` elements, of which the first are filled. `None`
/// if stopped or out of memory.
///
/// # Panics
/// If the shapes do not fit.
pub fn add_product<A: Entry, B: Entry>(
    engine: &Engine,
    (a, b, factor): (View<A>, View<B>, f64),
    out: &mut [f64],
    step: usize,
) -> Option<()> {
    add(engine, &Terms { a, b, factor, lower: false }, out, step)
}

/// `a b`, row by row.
pub fn product<A: Entry, B: Entry>(engine: &Engine, a: View<A>, b: View<B>) -> Option<Vec<f64>> {
    let n = b.shape.1;
    let mut out = engine.zeros(a.shape.0 * n)?;
    add_product(engine, (a, b, 1.0), &mut out, n)?;
    Some(out)
}

/// `a^T a`, row by row: half of it is computed, and mirrored.
pub fn gram<A: Entry>(engine: &Engine, a: View<A>) -> Option<Vec<f64>> {
    let n = a.shape.1;
    let mut out = engine.zeros(n * n)?;
    add_lower(engine, (a.transposed(), a, 1.0), &mut out, n)?;
    mirror(&mut out, n);
    Some(out)
}

/// [`add_product`] of a symmetric product, of which only the lower triangle is of use: what lies
/// above it may be changed near the diagonal.
pub fn add_lower<A: Entry, B: Entry>(
    engine: &Engine,
    (a, b, factor): (View<A>, View<B>, f64),
    out: &mut [f64],
    step: usize,
) -> Option<()> {
    add(engine, &Terms { a, b, factor, lower: true }, out, step)
}

/// What is added to a matrix.
struct Terms<'a, A, B> {
    a: View<'a, A>,
    b: View<'a, B>,
    factor: f64,
    /// Whether the rows above a block of columns are left alone.
    lower: bool,
}

/// In tiles that the instruction set's registers hold; they decide no bit.
fn add<A: Entry, B: Entry>(
    engine: &Engine,
    terms: &Terms<A, B>,
    out: &mut [f64],
    step: usize,
) -> Option<()> {
    match engine.isa.name() {
        // Six and not eight rows: of square tiles the compiler makes shuffles.
        "avx512" => add_tiles::<A, B, 6, 8>(engine, terms, out, step),
        "avx2" => add_tiles::<A, B, 4, 8>(engine, terms, out, step),
        _ => add_tiles::<A, B, 4, 4>(engine, terms, out, step),
    }
}

fn add_tiles<A: Entry, B: Entry, const R: usize, const C: usize>(
    engine: &Engine,
    terms: &Terms<A, B>,
    out: &mut [f64],
    step: usize,
) -> Option<()> {
    let Terms { a, b, factor, lower } = *terms;
    let (depth, n) = b.shape;
    assert_eq!(depth, a.shape.1, "inner dimensions");
    let deepest = depth.min(BLOCK.0);
    let (mut left, mut right) =
        (engine.room(deepest)?, engine.room(n.min(BLOCK.1).div_ceil(C) * deepest)?);
    for first_column in (0..n).step_by(BLOCK.1) {
        let columns = first_column..n.min(first_column + BLOCK.1);
        let rows = if lower { first_column.min(a.shape.0)..a.shape.0 } else { 0..a.shape.0 };
        for first in (0..depth).step_by(BLOCK.0) {
            if engine.stopped() {
                return None;
            }
            let terms = first..depth.min(first + BLOCK.0);
            right.resize(columns.len().div_ceil(C) * terms.len(), [0.0; C]);
            engine.run(Pack {
                from: b,
                terms: terms.clone(),
                columns: columns.clone(),
                out: &mut right,
            });
            left.resize(terms.len(), [0.0; R]);
            engine.run(Block {
                a,
                factor,
                terms,
                rows: rows.clone(),
                left: &mut left,
                right: &right,
                columns: columns.clone(),
                out: &mut *out,
                step,
            });
        }
    }
    Some(())
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

/// Copies a block of the right factor, `C` columns after the other, term by term.
struct Pack<'a, T, const C: usize> {
    from: View<'a, T>,
    terms: Range<usize>,
    columns: Range<usize>,
    out: &'a mut [[f64; C]],
}

impl<T: Entry, const C: usize> Body for Pack<'_, T, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let tiles = self.out.chunks_exact_mut(self.terms.len());
        for (tile, first) in tiles.zip(self.columns.clone().step_by(C)) {
            let width = C.min(self.columns.end - first);
            for (row, term) in tile.iter_mut().zip(self.terms.clone()) {
                if self.from.step.1 == 1 && width == C {
                    let from = &self.from.data[term * self.from.step.0 + first..][..C];
                    for c in 0..C {
                        row[c] = from[c].value();
                    }
                    continue;
                }
                for c in 0..width {
                    row[c] = self.from.at(term, first + c);
                }
            }
        }
    }
}

/// Adds the product of some columns of the left factor and a packed block of the right one.
struct Block<'a, T, const R: usize, const C: usize> {
    a: View<'a, T>,
    factor: f64,
    terms: Range<usize>,
    rows: Range<usize>,
    /// Room for `R` rows of the left factor, term by term.
    left: &'a mut [[f64; R]],
    right: &'a [[f64; C]],
    columns: Range<usize>,
    out: &'a mut [f64],
    step: usize,
}

impl<T: Entry, const R: usize, const C: usize> Body for Block<'_, T, R, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for first in self.rows.clone().step_by(R) {
            let height = R.min(self.rows.end - first);
            for (row, term) in self.left.iter_mut().zip(self.terms.clone()) {
                for r in 0..height {
                    row[r] = self.factor * self.a.at(first + r, term);
                }
            }
            let tiles = self.right.chunks_exact(self.terms.len());
            for (right, column) in tiles.zip(self.columns.clone().step_by(C)) {
                let width = C.min(self.columns.end - column);
                let at = |r: usize| (first + r) * self.step + column;
                let mut sums = [[0.0; C]; R];
                // A tile at the edge is filled up with what nobody reads.
                if width == C && height == R {
                    for r in 0..R {
                        sums[r].copy_from_slice(&self.out[at(r)..][..C]);
                    }
                    add_tile(&mut sums, self.left, right);
                    for r in 0..R {
                        self.out[at(r)..][..C].copy_from_slice(&sums[r]);
                    }
                    continue;
                }
                for r in 0..height {
                    sums[r][..width].copy_from_slice(&self.out[at(r)..][..width]);
                }
                add_tile(&mut sums, self.left, right);
                for r in 0..height {
                    self.out[at(r)..][..width].copy_from_slice(&sums[r][..width]);
                }
            }
        }
    }
}

/// Adds products to a tile, term by term.
#[inline(always)]
fn add_tile<const R: usize, const C: usize>(
    sums: &mut [[f64; C]; R],
    left: &[[f64; R]],
    right: &[[f64; C]],
) {
    let mut held = *sums;
    for (a, b) in left.iter().zip(right) {
        for r in 0..R {
            for c in 0..C {
                held[r][c] += a[r] * b[c];
            }
        }
    }
    *sums = held;
}

/// The same for tests, where nobody stops them.
#[cfg(test)]
pub mod made {
    use super::{Engine, Entry, View};

    pub fn product<A: Entry, B: Entry>(engine: &Engine, a: View<A>, b: View<B>) -> Vec<f64> {
        super::product(engine, a, b).expect("memory")
    }

    pub fn gram<A: Entry>(engine: &Engine, a: View<A>) -> Vec<f64> {
        super::gram(engine, a).expect("memory")
    }
}

#[cfg(test)]
mod tests {
    use super::made::{gram, product};
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
