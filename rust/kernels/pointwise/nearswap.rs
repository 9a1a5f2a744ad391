//! Toward the second model where it is near.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::{expect_finite, expect_operands};
use crate::kernels::each::Each;
use crate::kernels::kernel::Direct;
use crate::kernels::tile::Tile;

/// `out = w b + (1 - w) a` of operands `a, b`, with `w = (1 / max(|a - b|, 1e-6)) t`, at most 1 and
/// at least 0: `b` where the two are closer than `t`, and at most `t` away from `a` elsewhere.
///
/// Source: alchemonaut's QuartetAnemoi-70B; order as in mergekit 0.1.5, where the quotient is the
/// product with a reciprocal.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Nearswap {
    /// The distance.
    pub t: f64,
}

impl Direct for Nearswap {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("nearswap", operands, operands == 2, "2")?;
        expect_finite("nearswap", &[self.t])
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        let (x, t) = (tile.operands, self.t as f32);
        let formula = |[a, b]: [f32; 2]| nearswap(a, b, t);
        tile.isa.run(Each { x: [x[0], x[1]], formula, out });
    }
}

#[inline(always)]
fn nearswap(a: f32, b: f32, t: f32) -> f32 {
    let distance = (a - b).abs();
    let distance = if distance < 1e-6 { 1e-6 } else { distance };
    let w = 1.0 / distance * t;
    let w = if w < 0.0 { 0.0 } else { w };
    let w = if w > 1.0 { 1.0 } else { w };
    w * b + (1.0 - w) * a
}
