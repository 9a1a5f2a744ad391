//! What only one model changed stays whole, what several changed is averaged.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::{expect_finite, expect_operands};
use crate::kernels::kernel::Direct;
use crate::kernels::tile::Tile;
use crate::simd::{BLOCK, Body};

/// `out = b + sum_i t_i / max(c, 1)` of a base `b` and models `x_i`, over those `t_i = x_i - b` with
/// `|t_i| > epsilon`, of which there are `c`: what one model changed stays whole, what several
/// changed is averaged.
///
/// Order: `((0 + t_0 / c) + t_1 / c) + ...`, then `b` plus the sum.
///
/// Source: Reinforced Agent Merging, arXiv:2601.13572, as in mergekit 0.1.5.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Ram {
    /// Differences up to this count as none.
    pub epsilon: f64,
}

impl Direct for Ram {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("ram", operands, operands >= 2, "a base and at least one model")?;
        expect_finite("ram", &[self.epsilon])
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        let x = tile.operands;
        let alone = vec![1.0; x.len() - 1];
        tile.isa.run(Unique { x, epsilon: self.epsilon as f32, alone: &alone, out });
    }
}

/// What only one model changed, times its number in `alone`, and the mean of what several changed.
/// At most a block.
pub struct Unique<'a> {
    /// A base and models.
    pub x: &'a [&'a [f32]],
    /// Differences up to this count as none.
    pub epsilon: f32,
    /// One for each model.
    pub alone: &'a [f32],
    /// What is filled.
    pub out: &'a mut [f32],
}

impl Body for Unique<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, epsilon, alone, out } = self;
        let (base, models) = (x[0], &x[1..]);
        let counts = &mut [0.0_f32; BLOCK][..out.len()];
        for x in models {
            for (count, (x, b)) in counts.iter_mut().zip(x.iter().zip(base)) {
                *count += if (x - b).abs() > epsilon { 1.0 } else { 0.0 };
            }
        }
        out.fill(0.0);
        for (x, alone) in models.iter().zip(alone) {
            let inputs = x.iter().zip(base).zip(&*counts);
            for (out, ((x, b), count)) in out.iter_mut().zip(inputs) {
                let t = x - b;
                let t = t * if t.abs() > epsilon { 1.0 } else { 0.0 };
                *out += if *count > 1.0 { t / count } else { t * alone };
            }
        }
        for (out, b) in out.iter_mut().zip(base) {
            *out += b;
        }
    }
}
