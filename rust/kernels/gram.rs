//! Inner products of the operands of a unit, taken from the first.
//!
//! Models that are merged lie close together: `<x_i, x_j>` formed directly would lose their
//! difference to cancellation. So the sums are of `d_i = x_i - x_0`, rounded to f32, beside `x_0`
//! itself: `<x_0, x_0>`, `<x_0, d_i>` and `<d_i, d_j>`. Everything else follows without another pass.
//! A product leaves out the elements where either of its two vectors is not finite.

use super::Stretch;
use crate::simd::BLOCK;

/// The inner products of `x_0, d_1, ..., d_n`, upper triangle, row by row, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    vectors: usize,
    products: Vec<f64>,
}

impl Gram {
    /// All zero, for this many operands.
    #[must_use]
    pub fn new(operands: usize) -> Self {
        Self { vectors: operands, products: vec![0.0; operands * (operands + 1) / 2] }
    }

    /// All zero again.
    pub fn clear(&mut self) {
        self.products.fill(0.0);
    }

    /// Adds a stretch of at most [`BLOCK`] elements.
    pub fn add(&mut self, stretch: Stretch) {
        let n = stretch.operands[0].len();
        let (mut one, mut many) = ([[0.0; BLOCK]], Vec::new());
        let deltas = if self.vectors == 2 {
            &mut one[..]
        } else {
            many.resize(self.vectors - 1, [0.0; BLOCK]);
            &mut many[..]
        };
        for (x, delta) in stretch.operands[1..].iter().zip(deltas.iter_mut()) {
            let pairs = x.iter().zip(stretch.operands[0]);
            delta.iter_mut().zip(pairs).for_each(|(d, (x, r))| *d = x - r);
        }
        let vector = |i: usize| if i == 0 { stretch.operands[0] } else { &deltas[i - 1][..n] };
        let mut at = 0;
        for i in 0..self.vectors {
            for j in i..self.vectors {
                self.products[at] += stretch.isa.dot(vector(i), vector(j));
                at += 1;
            }
        }
    }

    /// Bytes that making one takes, with the differences of a block.
    #[must_use]
    pub fn bytes(operands: usize) -> u64 {
        (operands * operands * size_of::<f64>() + operands * BLOCK * size_of::<f32>()) as u64
    }

    /// Adds the next cell of the grid.
    pub fn merge_next(&mut self, next: &Self) {
        self.products.iter_mut().zip(&next.products).for_each(|(sum, next)| *sum += next);
    }

    /// `<v_i, v_j>` of `v = x_0, d_1, ..., d_n`.
    #[must_use]
    pub fn of(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        self.products[i * self.vectors - i * (i + 1) / 2 + j]
    }

    /// `<x_i, x_j>` of the operands themselves.
    #[must_use]
    pub fn operands(&self, i: usize, j: usize) -> f64 {
        let half = |i: usize| if i == 0 { 0.0 } else { self.of(0, i) };
        let both = if i == 0 || j == 0 { 0.0 } else { self.of(i, j) };
        self.of(0, 0) + half(i) + half(j) + both
    }

    /// How many operands.
    #[must_use]
    pub fn count(&self) -> usize {
        self.vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn products_of_the_operands_follow_from_those_of_the_deltas() {
        let x: Vec<Vec<f32>> = (0..4_u32)
            .map(|k| {
                (0..900_u32).map(|i| (i * 7 + k * 13).wrapping_mul(97) as f32 / 9e3 - 1.0).collect()
            })
            .collect();
        let operands: Vec<_> = x.iter().map(Vec::as_slice).collect();
        let mut gram = Gram::new(4);
        gram.add(Stretch { isa: Isa::best(), first: 0, row: 900, operands: &operands });
        for i in 0..4 {
            for j in 0..4 {
                let pairs = x[i].iter().zip(&x[j]);
                let exact: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((gram.operands(i, j) - exact).abs() < 1e-5 * exact.abs(), "{i} {j}");
            }
        }
    }

    #[test]
    fn close_operands_keep_their_difference() {
        let (a, b) = ([1000.0_f32; 512], [1000.0_f32.next_up(); 512]);
        let mut gram = Gram::new(2);
        gram.add(Stretch { isa: Isa::best(), first: 0, row: 512, operands: &[&a, &b] });
        let step = f64::from(1000.0_f32.next_up()) - 1000.0;
        assert!((gram.of(1, 1) - 512.0 * step * step).abs() < 1e-12);
    }
}
