//! A difference that is weakened where the first operand has moved, or is not against it.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::{expect_finite, expect_operands};
use crate::kernels::each::Each;
use crate::kernels::kernel::Direct;
use crate::kernels::tile::Tile;

/// `out = a + (d m) s` of operands `a, b, c`, with `d = b - c`, and 0 where a quotient is 0 / 0:
///
/// - train difference: `m = |b - a| / (|d| + |b - a|)`, `s = 1.8 alpha`;
/// - add opposite: `m = |a - b| / (|a - b| + |(a + b) - 2 c|)`, `s = 2 alpha`;
/// - add strict opposite: `m = ((c - a) d) / (t t)`, at least 0, with `t = max(|a - c|, |d|)`,
///   `s = 2 alpha`.
///
/// Source: "train difference" of sd-webui-supermerger; `add_opposite_mask` and
/// `add_strict_opposite_mask` of sd-mecha as the share of an added difference.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Masked {
    /// The strength.
    pub alpha: f64,
}

/// The first of the three.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct TrainDifference(Masked);

/// The second.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct AddOpposite(Masked);

/// The third.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct AddStrictOpposite(Masked);

impl Direct for TrainDifference {
    fn check(&self, operands: usize) -> Result<(), String> {
        self.0.check(operands)
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        self.0.map(1.8, moved, tile, out);
    }
}

impl Direct for AddOpposite {
    fn check(&self, operands: usize) -> Result<(), String> {
        self.0.check(operands)
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        self.0.map(2.0, opposite, tile, out);
    }
}

impl Direct for AddStrictOpposite {
    fn check(&self, operands: usize) -> Result<(), String> {
        self.0.check(operands)
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        self.0.map(2.0, strictly_opposite, tile, out);
    }
}

impl Masked {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("a masked difference", operands, operands == 3, "3")?;
        expect_finite("a masked difference", &[self.alpha * 2.0])
    }

    fn map(&self, factor: f64, mask: impl Fn(f32, f32, f32) -> f32, tile: Tile, out: &mut [f32]) {
        let (isa, x) = (tile.isa, tile.operands);
        let strength = (self.alpha * factor) as f32;
        let formula = |[a, b, c]: [f32; 3]| a + (b - c) * mask(a, b, c) * strength;
        isa.run(Each { x: [x[0], x[1], x[2]], formula, out });
    }
}

#[inline(always)]
fn moved(a: f32, b: f32, c: f32) -> f32 {
    let moved = (b - a).abs();
    share(moved, (b - c).abs() + moved)
}

#[inline(always)]
fn opposite(a: f32, b: f32, c: f32) -> f32 {
    let apart = (a - b).abs();
    share(apart, apart + (a + b - 2.0 * c).abs())
}

#[inline(always)]
fn strictly_opposite(a: f32, b: f32, c: f32) -> f32 {
    let (first, second) = ((a - c).abs(), (b - c).abs());
    let larger = if first > second { first } else { second };
    let mask = share((c - a) * (b - c), larger * larger);
    if mask < 0.0 { 0.0 } else { mask }
}

/// `part / whole`; 0 where the whole is 0.
#[inline(always)]
fn share(part: f32, whole: f32) -> f32 {
    if whole == 0.0 { 0.0 } else { part / whole }
}
