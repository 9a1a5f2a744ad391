//! The loops over all models, compiled for every instruction set.

#![allow(clippy::inline_always)]

use super::ConsensusMask;
use crate::simd::{BLOCK, Body};

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

/// Holds `out` between the least and the greatest of the operands that bound it. At most a block.
pub(super) struct Between<'a> {
    pub(super) x: &'a [&'a [f32]],
    pub(super) bounds: &'a [bool],
    pub(super) out: &'a mut [f32],
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

/// The sum of the differences that enough models need. At most a block.
pub(super) struct Needed<'a> {
    pub(super) x: &'a [&'a [f32]],
    pub(super) args: &'a ConsensusMask,
    pub(super) out: &'a mut [f32],
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
