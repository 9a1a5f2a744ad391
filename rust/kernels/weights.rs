//! Weighted sums of operands, or of what they add to the first.

#![allow(clippy::inline_always)]

use super::tile::Tile;
use crate::simd::{BLOCK, Body};

/// A weighted sum of the operands of a unit, or of what they add to the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    from_base: bool,
    each: Vec<f32>,
    note: Option<&'static str>,
}

impl Weights {
    /// One weight for each operand, or with a base for each but the first; each is rounded to f32.
    #[must_use]
    pub fn new(from_base: bool, weights: &[f64]) -> Self {
        let each = weights.iter().map(|&w| w as f32).collect();
        Self { from_base, each, note: None }
    }

    /// The same, with a remark for the report.
    #[must_use]
    pub fn noting(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }

    /// What there is to say of them.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note
    }

    /// Fills `out` with `sum_i w_i x_i`, or with a base `x_0 + sum_i w_i (x_i - x_0)`.
    ///
    /// Order: operand by operand. Every difference, product and sum is rounded to f32, and no
    /// multiply-add is fused; an operand of weight 0 is left out.
    ///
    /// # Panics
    /// If there is not one weight for each operand, or the lengths differ.
    pub fn sum(&self, tile: Tile, out: &mut [f32]) {
        let operands = tile.operands;
        assert_eq!(operands.len(), self.each.len() + usize::from(self.from_base), "operands");
        if self.from_base {
            return self.sum_from_base(tile, out);
        }
        let mut terms = operands.iter().zip(&self.each).filter(|(_, w)| **w != 0.0);
        match (terms.next(), terms.next()) {
            (Some((x0, w0)), Some((x1, w1))) => tile.isa.blend([x0, x1], [*w0, *w1], out),
            (Some((x, w)), None) => tile.isa.scale(x, *w, out),
            (None, _) => out.fill(0.0),
        }
        terms.for_each(|(x, w)| tile.isa.add_scaled(x, *w, out));
    }

    fn sum_from_base(&self, tile: Tile, out: &mut [f32]) {
        let base = tile.operands[0];
        for first in (0..out.len()).step_by(BLOCK) {
            let block = first..out.len().min(first + BLOCK);
            let (out, base) = (&mut out[block.clone()], &base[block.clone()]);
            out.copy_from_slice(base);
            for (x, weight) in tile.operands[1..].iter().zip(&self.each) {
                if *weight != 0.0 {
                    let x = &x[block.clone()];
                    tile.isa.run(Add { x, base, weight: *weight, out: &mut *out });
                }
            }
        }
    }
}

/// `out = out + weight * (x - base)`, each step rounded to f32.
struct Add<'a> {
    x: &'a [f32],
    base: &'a [f32],
    weight: f32,
    out: &'a mut [f32],
}

impl Body for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, x), base) in self.out.iter_mut().zip(self.x).zip(self.base) {
            *out += self.weight * (x - base);
        }
    }
}
