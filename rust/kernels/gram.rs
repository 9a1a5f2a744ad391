//! Inner products of the operands of a unit, taken from the first.
//!
//! Models that are merged lie close together: `<x_i, x_j>` formed directly would lose their
//! difference to cancellation. So the sums are of `d_i = x_i - x_0`, rounded to f32, beside `x_0`
//! itself: `<x_0, x_0>`, `<x_0, d_i>` and `<d_i, d_j>`. Everything else follows without another pass.
//! A product leaves out the elements where either of its two vectors is not finite.

#![allow(clippy::inline_always)]

use super::kernel::Sums;
use super::tile::Tile;
use crate::simd::{Body, Isa, LANES, total};

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

    /// Adds a tile of at most one block.
    pub fn add(&mut self, tile: Tile) {
        let (reference, isa) = (tile.operands[0], tile.isa);
        let others = &tile.operands[1..];
        if others.is_empty() {
            self.products[0] += isa.dot(reference, reference);
        }
        for (j, x) in others.iter().enumerate() {
            let beside = others[..j].first().copied();
            let pair = Products { reference, beside, x };
            let mut sums = isa.run(pair);
            if !sums.iter().all(|sum| sum.is_finite()) {
                sums = pair.in_f64(isa);
            }
            let first = if j == 0 { self.at(0, 0) } else { self.at(1, j + 1) };
            for (at, sum) in [first, self.at(0, j + 1), self.at(j + 1, j + 1)].into_iter().zip(sums)
            {
                self.products[at] += sum;
            }
            for (i, other) in others[..j].iter().enumerate().skip(1) {
                let pair = Products { reference, beside: Some(other), x };
                let mut sums = isa.run(pair);
                if !sums[0].is_finite() {
                    sums = pair.in_f64(isa);
                }
                let at = self.at(i + 1, j + 1);
                self.products[at] += sums[0];
            }
        }
    }

    /// The products, as bits.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        self.products.iter().map(|product| product.to_bits()).collect()
    }

    /// Those of an earlier pass; `None` unless they can be those of so many operands.
    #[must_use]
    pub fn recall(operands: usize, numbers: &[u64]) -> Option<Self> {
        let products: Vec<_> = numbers.iter().map(|bits| f64::from_bits(*bits)).collect();
        let gram = Self { vectors: operands, products };
        let right = gram.products.len() == operands * (operands + 1) / 2
            && gram.products.iter().all(|product| product.is_finite())
            && (0..operands).all(|i| gram.of(i, i) >= 0.0);
        right.then_some(gram)
    }

    /// Bytes that one takes.
    #[must_use]
    pub fn bytes(operands: usize) -> u64 {
        (operands * operands * size_of::<f64>()) as u64
    }

    /// `<v_i, v_j>` of `v = x_0, d_1, ..., d_n`.
    #[must_use]
    pub fn of(&self, i: usize, j: usize) -> f64 {
        self.products[self.at(i.min(j), i.max(j))]
    }

    /// Where the product of `i` and a `j` of at least `i` is kept.
    fn at(&self, i: usize, j: usize) -> usize {
        i * self.vectors - i * (i + 1) / 2 + j
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

impl Sums for Gram {
    fn is_exact(&self) -> bool {
        false
    }

    fn add_next(&mut self, next: Self) {
        self.products.iter_mut().zip(&next.products).for_each(|(sum, next)| *sum += next);
    }
}

/// Three inner products with `delta = x - reference`, in one loop that stores no difference: of
/// `beside - reference`, of `reference` and of itself. With nothing beside, the first is
/// `<reference, reference>`. Each is formed as [`Isa::dot`] forms it.
#[derive(Clone, Copy)]
struct Products<'a> {
    reference: &'a [f32],
    beside: Option<&'a [f32]>,
    x: &'a [f32],
}

impl Products<'_> {
    /// The sums without the elements that are not finite, when f32 could not hold one.
    #[cold]
    fn in_f64(self, isa: &Isa) -> [f64; 3] {
        let minus =
            |x: &[f32]| -> Vec<f32> { x.iter().zip(self.reference).map(|(x, r)| x - r).collect() };
        let delta = minus(self.x);
        let first = match self.beside {
            None => isa.dot(self.reference, self.reference),
            Some(beside) => isa.dot(&minus(beside), &delta),
        };
        [first, isa.dot(self.reference, &delta), isa.dot(&delta, &delta)]
    }

    #[inline(always)]
    fn sums(self, first: impl Fn(f32, f32, f32) -> f32) -> [f64; 3] {
        let (mut beside, mut along, mut own) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut add = |lane: usize, r: f32, b: f32, x: f32| {
            let delta = x - r;
            beside[lane] += first(r, b, delta);
            along[lane] += r * delta;
            own[lane] += delta * delta;
        };
        let (x_rows, x_rest) = self.x.as_chunks::<LANES>();
        let (b_rows, b_rest) = self.beside.unwrap_or(self.reference).as_chunks::<LANES>();
        let (r_rows, r_rest) = self.reference.as_chunks::<LANES>();
        for ((x, b), r) in x_rows.iter().zip(b_rows).zip(r_rows) {
            for lane in 0..LANES {
                add(lane, r[lane], b[lane], x[lane]);
            }
        }
        for (lane, ((x, b), r)) in x_rest.iter().zip(b_rest).zip(r_rest).enumerate() {
            add(lane, *r, *b, *x);
        }
        [total(&beside), total(&along), total(&own)]
    }
}

impl Body for Products<'_> {
    type Output = [f64; 3];

    #[inline(always)]
    fn run(self) -> [f64; 3] {
        match self.beside {
            None => self.sums(|r, _, _| r * r),
            Some(_) => self.sums(|r, b, delta| (b - r) * delta),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::BLOCK;

    #[test]
    fn products_of_the_operands_follow_from_those_of_the_deltas() {
        let x: Vec<Vec<f32>> = (0..4_u32)
            .map(|k| {
                (0..900_u32).map(|i| (i * 7 + k * 13).wrapping_mul(97) as f32 / 9e3 - 1.0).collect()
            })
            .collect();
        let operands: Vec<_> = x.iter().map(Vec::as_slice).collect();
        let mut gram = Gram::new(4);
        gram.add(Tile {
            isa: Isa::best(),
            first: 0,
            row: 900,
            around: [0, 0],
            operands: &operands,
        });
        for i in 0..4 {
            for j in 0..4 {
                let pairs = x[i].iter().zip(&x[j]);
                let exact: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((gram.operands(i, j) - exact).abs() < 1e-5 * exact.abs(), "{i} {j}");
            }
        }
    }

    #[test]
    fn products_are_those_of_the_dot_product_of_every_isa() {
        for len in [1, 31, 32, 77, BLOCK] {
            let of = |k: u32, i: u32| (i * 7 + k * 13).wrapping_mul(0x9E37_79B9) as f32 / 4e9 - 0.5;
            let x: Vec<Vec<f32>> =
                (0..4).map(|k| (0..len as u32).map(|i| of(k, i)).collect()).collect();
            let minus =
                |k: usize| -> Vec<f32> { x[k].iter().zip(&x[0]).map(|(x, r)| x - r).collect() };
            let vectors = [x[0].clone(), minus(1), minus(2), minus(3)];
            let operands: Vec<_> = x.iter().map(Vec::as_slice).collect();
            for (isa, count) in
                Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 2), (isa, 4)])
            {
                let mut gram = Gram::new(count);
                gram.add(Tile {
                    isa,
                    first: 0,
                    row: len,
                    around: [0, 0],
                    operands: &operands[..count],
                });
                for i in 0..count {
                    for j in i..count {
                        let want = Isa::best().dot(&vectors[i], &vectors[j]);
                        assert_eq!(gram.of(i, j).to_bits(), want.to_bits(), "{len} {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn close_operands_keep_their_difference() {
        let (a, b) = ([1000.0_f32; 512], [1000.0_f32.next_up(); 512]);
        let mut gram = Gram::new(2);
        gram.add(Tile {
            isa: Isa::best(),
            first: 0,
            row: 512,
            around: [0, 0],
            operands: &[&a, &b],
        });
        let step = f64::from(1000.0_f32.next_up()) - 1000.0;
        assert!((gram.of(1, 1) - 512.0 * step * step).abs() < 1e-12);
    }
}
