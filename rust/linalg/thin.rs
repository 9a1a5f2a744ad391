//! Products of thin matrices in f32, and lengths of rows.
//!
//! Each element of a product is `((a_0 b_0) + a_1 b_1) + ...` over the rank: every product and every
//! sum is rounded to f32, none is fused. How the loops are cut into tiles decides no bit.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::lanes::LANES;
use crate::simd::{Body, Isa, fold};

/// Rows of a tile: of every instruction set, so that left factors are packed alike.
const R: usize = 4;

/// Columns of the widest tile.
const WIDEST: usize = 64;

/// Columns of a tile: with [`R`] rows they fill the registers. The compiler makes shuffles, seventy times
/// slower, of other shapes; the benchmark tells.
fn width(isa: &Isa) -> usize {
    match isa.name() {
        "avx512" => WIDEST,
        "avx2" => 16,
        _ => 8,
    }
}

/// The left factor of a product, (rows, rank), packed for its tiles.
#[derive(Debug, Default)]
pub struct Left {
    packed: Vec<[f32; R]>,
    rows: usize,
    rank: usize,
}

impl Left {
    /// Begins a factor; the rows that [`Left::set`] is not called for are 0.
    pub fn begin(&mut self, rows: usize, rank: usize) {
        (self.rows, self.rank) = (rows, rank);
        self.packed.clear();
        self.packed.resize(rows.div_ceil(R) * rank, [0.0; R]);
    }

    /// Fills a row.
    pub fn set(&mut self, row: usize, values: &[f32]) {
        let group = &mut self.packed[row / R * self.rank..][..self.rank];
        for (packed, value) in group.iter_mut().zip(values) {
            packed[row % R] = *value;
        }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(rows: u64, rank: u64) -> u64 {
        (rows + R as u64).saturating_mul(rank).saturating_mul(size_of::<f32>() as u64)
    }
}

/// The right factor of a product, (rank, columns), packed for the tiles of an instruction set.
#[derive(Debug)]
pub struct Right {
    packed: Vec<f32>,
    width: usize,
    rank: usize,
    columns: usize,
}

impl Right {
    /// A factor that is 0 until [`Right::set`] is called for its rows.
    #[must_use]
    pub fn new(isa: &Isa, rank: usize, columns: usize) -> Self {
        let width = width(isa);
        let packed = vec![0.0; columns.div_ceil(width) * width * rank];
        Self { packed, width, rank, columns }
    }

    /// Fills a row, from a column on.
    pub fn set(&mut self, row: usize, first: usize, values: &[f32]) {
        let mut column = first;
        let mut rest = values;
        while !rest.is_empty() {
            let (tile, at) = (column / self.width, column % self.width);
            let (now, later) = rest.split_at(rest.len().min(self.width - at));
            let start = (tile * self.rank + row) * self.width + at;
            self.packed[start..start + now.len()].copy_from_slice(now);
            (column, rest) = (column + now.len(), later);
        }
    }

    /// Columns of the product.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that it takes at most.
    #[must_use]
    pub fn bytes(rank: u64, columns: u64) -> u64 {
        let padded = columns.div_ceil(WIDEST as u64) * WIDEST as u64;
        padded.saturating_mul(rank).saturating_mul(size_of::<f32>() as u64)
    }
}

/// What becomes of the product `p` and what stands where it goes.
#[derive(Clone, Copy, Debug)]
pub enum Onto {
    /// `p · scale`.
    Set(f32),
    /// `what stands there + p · scale`.
    Add(f32),
    /// `what stands there · p`.
    Times,
}

/// Multiplies two factors; `out` holds the rows of the product, one after the other.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply(isa: &Isa, left: &Left, right: &Right, onto: Onto, out: &mut [f32]) {
    assert_eq!(left.rank, right.rank, "inner dimensions");
    assert_eq!(out.len(), left.rows * right.columns, "elements of a product");
    if right.rank == 0 || out.is_empty() {
        return;
    }
    match right.width {
        64 => isa.run(Product::<64> { left, right, onto, out }),
        16 => isa.run(Product::<16> { left, right, onto, out }),
        _ => isa.run(Product::<8> { left, right, onto, out }),
    }
}

struct Product<'a, const C: usize> {
    left: &'a Left,
    right: &'a Right,
    onto: Onto,
    out: &'a mut [f32],
}

impl<const C: usize> Body for Product<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { left, right, onto, out } = self;
        let (rank, columns) = (right.rank, right.columns);
        let (packed, _) = right.packed.as_chunks::<C>();
        for (right, first) in packed.chunks_exact(rank).zip((0..columns).step_by(C)) {
            let n = C.min(columns - first);
            for (left, row) in left.packed.chunks_exact(rank).zip((0..left.rows).step_by(R)) {
                let sums = tile::<C>(left, right);
                let rows = out[row * columns..].chunks_mut(columns);
                for (sums, out) in sums.iter().zip(rows) {
                    put(&sums[..n], onto, &mut out[first..first + n]);
                }
            }
        }
    }
}

/// A sum begins with -0, which changes nothing that it is added to: so it is the first product.
#[inline(always)]
fn tile<const C: usize>(left: &[[f32; R]], right: &[[f32; C]]) -> [[f32; C]; R] {
    let mut sums = [[-0.0; C]; R];
    for (a, b) in left.iter().zip(right) {
        for r in 0..R {
            for c in 0..C {
                sums[r][c] += a[r] * b[c];
            }
        }
    }
    sums
}

#[inline(always)]
fn put(sums: &[f32], onto: Onto, out: &mut [f32]) {
    let pairs = out.iter_mut().zip(sums);
    match onto {
        Onto::Set(scale) => pairs.for_each(|(out, sum)| *out = sum * scale),
        Onto::Add(scale) => pairs.for_each(|(out, sum)| *out += sum * scale),
        Onto::Times => pairs.for_each(|(out, sum)| *out *= sum),
    }
}

/// `sqrt(sum x^2)` of a row, its squares summed in f64 over fixed lanes, rounded once to f32.
pub fn length(isa: &Isa, row: &[f32]) -> f32 {
    isa.run(Squares(row)).sqrt() as f32
}

struct Squares<'a>(&'a [f32]);

impl Body for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0; LANES];
        let (rows, rest) = self.0.as_chunks::<LANES>();
        for row in rows {
            for lane in 0..LANES {
                sums[lane] += f64::from(row[lane]) * f64::from(row[lane]);
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(*x) * f64::from(*x);
        }
        fold(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
        let of = |i: u32| (i ^ seed).wrapping_mul(0x9E37_79B9).cast_signed() as f32 / 2e9;
        (0..(rows * columns) as u32).map(of).collect()
    }

    fn made(isa: &Isa, a: &[f32], b: &[f32], shape: [usize; 3], onto: Onto) -> Vec<f32> {
        let [rows, rank, columns] = shape;
        let mut left = Left::default();
        left.begin(rows, rank);
        a.chunks(rank).enumerate().for_each(|(row, values)| left.set(row, values));
        let mut right = Right::new(isa, rank, columns);
        for (row, values) in b.chunks(columns).enumerate() {
            let (early, late) = values.split_at(columns / 3);
            right.set(row, columns / 3, late);
            right.set(row, 0, early);
        }
        let mut out = vec![0.75; rows * columns];
        multiply(isa, &left, &right, onto, &mut out);
        out
    }

    #[test]
    fn products_are_sums_over_the_rank_in_order_on_every_isa() {
        for shape in [[1, 1, 1], [4, 3, 64], [5, 2, 65], [3, 17, 7], [9, 130, 200]] {
            let [rows, rank, columns] = shape;
            let (a, b) = (matrix(rows, rank, 1), matrix(rank, columns, 2));
            let product = |i: usize| {
                let of = |k: usize| a[i / columns * rank + k] * b[k * columns + i % columns];
                (1..rank).fold(of(0), |sum, k| sum + of(k))
            };
            let expected: Vec<f32> = (0..rows * columns).map(product).collect();
            for isa in Isa::available() {
                let each = |onto, of: fn(f32) -> f32| {
                    let bits = |x: f32| x.to_bits();
                    let got = made(isa, &a, &b, shape, onto).into_iter().map(bits);
                    let want = expected.iter().map(|p| bits(of(*p)));
                    assert!(got.eq(want), "{} {shape:?} {onto:?}", isa.name());
                };
                each(Onto::Set(-0.3), |p| p * -0.3);
                each(Onto::Add(1.5), |p| 0.75 + p * 1.5);
                each(Onto::Times, |p| 0.75 * p);
            }
        }
    }

    #[test]
    fn a_negative_zero_stays_one() {
        for isa in Isa::available() {
            let got = made(isa, &[-0.0], &[1.0], [1, 1, 1], Onto::Set(1.0));
            assert_eq!(got[0].to_bits(), (-0.0_f32).to_bits(), "{}", isa.name());
        }
    }

    #[test]
    fn squares_that_f32_cannot_hold_have_a_length() {
        for isa in Isa::available() {
            for n in [1, 15, 16, 47] {
                let row = vec![1e30; n];
                let expected = (n as f64).sqrt() * f64::from(1e30_f32);
                assert!((f64::from(length(isa, &row)) / expected - 1.0).abs() < 1e-7);
            }
            assert_eq!(length(isa, &[3e-30, -4e-30]).to_bits(), 5e-30_f32.to_bits());
            assert_eq!(length(isa, &[]).to_bits(), 0);
        }
    }
}
