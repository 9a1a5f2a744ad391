//! Formulas of the elements in front of them: nothing is looked at before.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use super::Stretch;
use super::linear::Linear;
use crate::simd::{BLOCK, Body};

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
    TrainDifference(TrainDifference),
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

/// `out = a + (d m) (1.8 alpha)` of operands `a, b, c`, with `d = b - c` and
/// `m = |b - a| / (|d| + |b - a|)`, 0 where the sum is 0.
///
/// Source: "train difference" of sd-webui-supermerger.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TrainDifference {
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
            Some(value) => Err(format!("{name} with {value}, expected a finite f32")),
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
            Self::TrainDifference(args) => {
                count("train difference", operands == 3, "3")?;
                finite("train difference", &[args.alpha * 1.8])
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
            Self::Nearswap(args) => isa.run(Near { a: x[0], b: x[1], t: args.t as f32, out }),
            Self::Ram(args) => isa.run(Unique { x, epsilon: args.epsilon as f32, out }),
            Self::TrainDifference(args) => {
                let strength = (args.alpha * 1.8) as f32;
                isa.run(Train { a: x[0], b: x[1], c: x[2], strength, out });
            }
            Self::Clamp(args) => {
                Linear { weights: args.weights.clone() }.map(isa, x, out);
                isa.run(Between { x, bounds: &args.bounds, out });
            }
            Self::ConsensusMask(args) => isa.run(Needed { x, args, out }),
        }
    }
}

struct Near<'a> {
    a: &'a [f32],
    b: &'a [f32],
    t: f32,
    out: &'a mut [f32],
}

impl Body for Near<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, (a, b)) in self.out.iter_mut().zip(self.a.iter().zip(self.b)) {
            let distance = (a - b).abs();
            let distance = if distance < 1e-6 { 1e-6 } else { distance };
            let w = 1.0 / distance * self.t;
            let w = if w < 0.0 { 0.0 } else { w };
            let w = if w > 1.0 { 1.0 } else { w };
            *out = w * b + (1.0 - w) * a;
        }
    }
}

/// At most a block.
struct Unique<'a> {
    x: &'a [&'a [f32]],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Body for Unique<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, epsilon, out } = self;
        let (base, models) = (x[0], &x[1..]);
        let counts = &mut [0.0_f32; BLOCK][..out.len()];
        for x in models {
            for (count, (x, b)) in counts.iter_mut().zip(x.iter().zip(base)) {
                *count += if (x - b).abs() > epsilon { 1.0 } else { 0.0 };
            }
        }
        out.fill(0.0);
        for x in models {
            let inputs = x.iter().zip(base).zip(&*counts);
            for (out, ((x, b), count)) in out.iter_mut().zip(inputs) {
                let t = x - b;
                let t = t * if t.abs() > epsilon { 1.0 } else { 0.0 };
                *out += t / if *count < 1.0 { 1.0 } else { *count };
            }
        }
        for (out, b) in out.iter_mut().zip(base) {
            *out += b;
        }
    }
}

struct Train<'a> {
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    strength: f32,
    out: &'a mut [f32],
}

impl Body for Train<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, ((a, b), c)) in self.out.iter_mut().zip(self.a.iter().zip(self.b).zip(self.c)) {
            let (d, moved) = (b - c, (b - a).abs());
            let sum = d.abs() + moved;
            let m = if sum == 0.0 { 0.0 } else { moved / sum };
            *out = a + d * m * self.strength;
        }
    }
}

struct Between<'a> {
    x: &'a [&'a [f32]],
    bounds: &'a [bool],
    out: &'a mut [f32],
}

impl Body for Between<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (lower, upper) = (&mut [0.0; BLOCK], &mut [0.0; BLOCK]);
        let n = self.out.len();
        let mut bounds = self.x.iter().zip(self.bounds).filter(|(_, bounds)| **bounds);
        if let Some((x, _)) = bounds.next() {
            lower[..n].copy_from_slice(x);
            upper[..n].copy_from_slice(x);
        }
        for (x, _) in bounds {
            for (x, (lower, upper)) in x.iter().zip(lower.iter_mut().zip(&mut *upper)) {
                *lower = if *x < *lower { *x } else { *lower };
                *upper = if *x > *upper { *x } else { *upper };
            }
        }
        for (out, (lower, upper)) in self.out.iter_mut().zip(lower.iter().zip(&*upper)) {
            let raised = if *out < *lower { *lower } else { *out }; // NaN stays
            *out = if raised > *upper { *upper } else { raised };
        }
    }
}

/// At most a block.
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
