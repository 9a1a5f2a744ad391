//! Differences that enough models need.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::{expect_finite, expect_operands};
use crate::kernels::kernel::Direct;
use crate::kernels::tile::Tile;
use crate::simd::{BLOCK, Body};

/// `out = b + M lambda` with `M = ((0 + t_0 w_0) + t_1 w_1) + ...` of a base `b` and
/// `t_i = x_i - b`, where at least `agree` models need the element, else `M` is 0 times that.
///
/// A model needs it if `|t_i| > |T - t_i| tolerance`, with `T = ((0 + t_0) + t_1) + ...`.
///
/// Source: Wang et al. 2024, "Localizing task information for improved model merging and
/// compression", arXiv:2405.07813: TALL masks and consensus task arithmetic.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ConsensusMask {
    /// One finite weight for each model.
    pub weights: Vec<f64>,
    /// What the sum is multiplied by.
    pub lambda: f64,
    /// How large the others may be beside a model that still needs the element.
    pub tolerance: f64,
    /// How many models must need it.
    pub agree: u32,
}

impl Direct for ConsensusMask {
    fn check(&self, operands: usize) -> Result<(), String> {
        let fits = operands >= 2 && self.weights.len() == operands - 1;
        let expected = "a base and one weight for each model";
        expect_operands("consensus mask", operands, fits, expected)?;
        expect_finite("consensus mask", &self.weights)?;
        expect_finite("consensus mask", &[self.lambda, self.tolerance])
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        tile.isa.run(Needed { x: tile.operands, args: self, out });
    }
}

/// The sum of the differences that enough models need. At most a block.
struct Needed<'a> {
    x: &'a [&'a [f32]],
    args: &'a ConsensusMask,
    out: &'a mut [f32],
}

impl Body for Needed<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, args, out } = self;
        let (base, models) = (x[0], &x[1..]);
        let (tolerance, lambda) = (args.tolerance as f32, args.lambda as f32);
        let total = &mut [0.0_f32; BLOCK][..out.len()];
        let needed = &mut [0_u32; BLOCK][..out.len()];
        out.fill(0.0);
        for (x, w) in models.iter().zip(&args.weights) {
            let w = *w as f32;
            let sums = total.iter_mut().zip(out.iter_mut());
            for ((total, mixed), (x, b)) in sums.zip(x.iter().zip(base)) {
                *total += x - b;
                *mixed += (x - b) * w;
            }
        }
        for x in models {
            let inputs = x.iter().zip(base).zip(&*total);
            for (needed, ((x, b), total)) in needed.iter_mut().zip(inputs) {
                let t = x - b;
                *needed += u32::from(t.abs() > (total - t).abs() * tolerance);
            }
        }
        for ((out, b), needed) in out.iter_mut().zip(base).zip(&*needed) {
            let mask = if *needed >= args.agree { 1.0 } else { 0.0 };
            *out = b + *out * mask * lambda;
        }
    }
}
