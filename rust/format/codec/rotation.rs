//! The rotation of `ConvRot`: groups of 4^k neighbours times a Hadamard matrix.
//!
//! `H` is the k-th Kronecker power of `[[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]`, divided by
//! the root of its size, as comfy-kitchen 0.2.40 builds it. It is symmetric and its own inverse, so that the same
//! turns a group there and back. It is applied in k steps of four values, each `(a + b) ± (c - d)` and
//! `(c + d) ± (a - b)`; a product of matrices adds in another order, and differs in the last bits.

#![allow(clippy::inline_always)]

use crate::simd::{Body, Isa};

/// Sizes of a group.
pub const SIZES: [usize; 5] = [4, 16, 64, 256, 1024];

/// Rotates groups of `size` values.
pub fn rotate(isa: &Isa, size: usize, values: &mut [f32]) {
    isa.run(Rotate { size, values });
}

struct Rotate<'a> {
    size: usize,
    values: &'a mut [f32],
}

impl Body for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { size, values } = self;
        let steps = size.trailing_zeros() / 2;
        let root = 1.0 / (1_u32 << steps) as f32; // a power of two
        for group in values.chunks_exact_mut(size) {
            for four in group.as_chunks_mut::<4>().0 {
                *four = turn(four.map(|x| x * root));
            }
            for step in 1..steps {
                match step {
                    1 => apart::<4>(group),
                    2 => apart::<16>(group),
                    3 => apart::<64>(group),
                    _ => apart::<256>(group),
                }
            }
        }
    }
}

/// Turns every four values that stand `N` apart.
#[inline(always)]
fn apart<const N: usize>(group: &mut [f32]) {
    let (parts, _) = group.as_chunks_mut::<N>();
    let (fours, _) = parts.as_chunks_mut::<4>();
    for [a, b, c, d] in fours {
        for i in 0..N {
            [a[i], b[i], c[i], d[i]] = turn([a[i], b[i], c[i], d[i]]);
        }
    }
}

#[inline(always)]
fn turn([a, b, c, d]: [f32; 4]) -> [f32; 4] {
    let (sum, difference) = (a + b, c - d);
    let (other_sum, other_difference) = (c + d, a - b);
    [sum + difference, sum - difference, other_sum + other_difference, other_sum - other_difference]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: [[f64; 4]; 4] =
        [[1., 1., 1., -1.], [1., 1., -1., 1.], [1., -1., 1., 1.], [-1., 1., 1., 1.]];

    /// An element of the matrix.
    fn element(size: usize, row: usize, column: usize) -> f64 {
        let steps = size.trailing_zeros() / 2;
        let digit = |n: usize, k: u32| n >> (2 * k) & 3;
        let signs = (0..steps).map(|k| FOUR[digit(row, k)][digit(column, k)]);
        signs.product::<f64>() / (size as f64).sqrt()
    }

    #[test]
    fn groups_are_multiplied_with_the_matrix_there_and_back() {
        for size in SIZES {
            let values: Vec<f32> =
                (0..2 * size).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
            for isa in Isa::available() {
                let mut turned = values.clone();
                rotate(isa, size, &mut turned);
                for (group, turned) in values.chunks(size).zip(turned.chunks(size)) {
                    for (row, got) in turned.iter().enumerate() {
                        let of = |(i, x): (usize, &f32)| element(size, row, i) * f64::from(*x);
                        let expected: f64 = group.iter().enumerate().map(of).sum();
                        assert!((f64::from(*got) - expected).abs() < 1e-5, "{size} {row}");
                    }
                }
                let mut scalar = values.clone();
                rotate(Isa::available()[0], size, &mut scalar);
                assert!(turned.iter().map(|x| x.to_bits()).eq(scalar.iter().map(|x| x.to_bits())));
                rotate(isa, size, &mut turned);
                assert!(turned.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-5), "{size}");
            }
        }
    }
}
