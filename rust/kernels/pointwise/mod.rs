//! Formulas of the elements in front of them: nothing is looked at before.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use self::loops::{Between, Needed};
use super::Stretch;
use super::each::Each;
use super::linear::Linear;

mod loops;

pub use loops::Unique;

/// A formula of one element of every operand. Every result is rounded to f32, nothing is fused, and
/// parameters are rounded to f32 once.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Pointwise {
    /// Toward the second where it is near.
    Nearswap(Nearswap),
    /// What only one model changed stays whole.
    Ram(Ram),
    /// A difference, weakened where the first operand has moved already.
    TrainDifference(Masked),
    /// A difference, where it is against what the first operand has learned.
    AddOpposite(Masked),
    /// The same, and nowhere else.
    AddStrictOpposite(Masked),
    /// A weighted sum, kept between operands.
    Clamp(Clamp),
    /// Differences that enough models need.
    ConsensusMask(ConsensusMask),
}

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

/// `out = min(max(r, l), u)`, where `r` is the weighted sum of the operands as [`Linear`] makes it,
/// and `l` and `u` are the least and the greatest of the operands that bound it.
///
/// Source: `clamp` of sd-mecha.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Clamp {
    /// One finite weight per operand.
    pub weights: Vec<f64>,
    /// Which operands bound the sum.
    pub bounds: Vec<bool>,
}

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

impl Pointwise {
    pub(super) fn check(&self, operands: usize) -> Result<(), String> {
        let count = |name: &str, fits: bool, expected: &str| {
            if fits {
                Ok(())
            } else {
                Err(format!("{name} of {operands} operands, expected {expected}"))
            }
        };
        let finite = |name: &str, values: &[f64]| match values
            .iter()
            .find(|value| !(**value as f32).is_finite())
        {
            Some(value) => Err(format!("{name} with {value:?}, expected a finite f32")),
            None => Ok(()),
        };
        match self {
            Self::Nearswap(args) => {
                count("nearswap", operands == 2, "2")?;
                finite("nearswap", &[args.t])
            }
            Self::Ram(args) => {
                count("ram", operands >= 2, "a base and at least one model")?;
                finite("ram", &[args.epsilon])
            }
            Self::TrainDifference(Masked { alpha })
            | Self::AddOpposite(Masked { alpha })
            | Self::AddStrictOpposite(Masked { alpha }) => {
                count("a masked difference", operands == 3, "3")?;
                finite("a masked difference", &[alpha * 2.0])
            }
            Self::Clamp(args) => {
                let bound = args.bounds.iter().any(|bounds| *bounds);
                let fits = bound && args.bounds.len() == operands;
                count("clamp", fits, "one bound for each and at least one that is true")?;
                Linear { weights: args.weights.clone() }.check(operands)
            }
            Self::ConsensusMask(args) => {
                let fits = operands >= 2 && args.weights.len() == operands - 1;
                count("consensus mask", fits, "a base and one weight for each model")?;
                finite("consensus mask", &args.weights)?;
                finite("consensus mask", &[args.lambda, args.tolerance])
            }
        }
    }

    pub(super) fn map(&self, stretch: Stretch, out: &mut [f32]) {
        let (isa, x) = (stretch.isa, stretch.operands);
        match self {
            Self::Nearswap(args) => {
                let t = args.t as f32;
                let formula = |[a, b]: [f32; 2]| nearswap(a, b, t);
                isa.run(Each { x: [x[0], x[1]], formula, out });
            }
            Self::Ram(args) => {
                let alone = vec![1.0; x.len() - 1];
                isa.run(Unique { x, epsilon: args.epsilon as f32, alone: &alone, out });
            }
            Self::TrainDifference(args) => args.map(1.8, moved, stretch, out),
            Self::AddOpposite(args) => args.map(2.0, opposite, stretch, out),
            Self::AddStrictOpposite(args) => args.map(2.0, strictly_opposite, stretch, out),
            Self::Clamp(args) => {
                Linear { weights: args.weights.clone() }.map(isa, x, out);
                isa.run(Between { x, bounds: &args.bounds, out });
            }
            Self::ConsensusMask(args) => isa.run(Needed { x, args, out }),
        }
    }
}

impl Masked {
    fn map(
        &self,
        factor: f64,
        mask: impl Fn(f32, f32, f32) -> f32,
        stretch: Stretch,
        out: &mut [f32],
    ) {
        let (isa, x) = (stretch.isa, stretch.operands);
        let strength = (self.alpha * factor) as f32;
        let formula = |[a, b, c]: [f32; 3]| a + (b - c) * mask(a, b, c) * strength;
        isa.run(Each { x: [x[0], x[1], x[2]], formula, out });
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
