//! The loops of the delta family, compiled for every instruction set.

#![allow(clippy::inline_always)]

use super::mask::Kept;
use crate::simd::Body;

/// The bits of a difference, without its sign.
#[inline(always)]
fn bits(difference: f32) -> i32 {
    (difference.to_bits() & i32::MAX as u32).cast_signed()
}

/// `out = |x - base|`, as bits.
pub(super) struct Magnitudes<'a> {
    pub(super) x: &'a [f32],
    pub(super) base: &'a [f32],
    pub(super) out: &'a mut [u32],
}

impl Body for Magnitudes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, x), b) in self.out.iter_mut().zip(self.x).zip(self.base) {
            *out = bits(x - b).cast_unsigned();
        }
    }
}

/// `products = (x - base) [kept] weight`, also added to `sum`.
pub(super) struct Product<'a> {
    pub(super) x: &'a [f32],
    pub(super) base: &'a [f32],
    pub(super) weight: f32,
    pub(super) kept: Kept,
    pub(super) products: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
}

impl Body for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Kept { from, last } = self.kept;
        let out = self.products.iter_mut().zip(self.sum);
        for ((product, sum), (x, b)) in out.zip(self.x.iter().zip(self.base)) {
            let d = x - b;
            let kept = bits(d) >= from && bits(d) <= last;
            *product = d * f32::from(u8::from(kept)) * self.weight;
            *sum += *product;
        }
    }
}

/// `products = (x - base) factors weight`, also added to `sum`.
pub(super) struct Factored<'a> {
    pub(super) x: &'a [f32],
    pub(super) base: &'a [f32],
    pub(super) factors: &'a [f32],
    pub(super) weight: f32,
    pub(super) products: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
}

impl Body for Factored<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let out = self.products.iter_mut().zip(self.sum);
        let inputs = self.x.iter().zip(self.base).zip(self.factors);
        for ((product, sum), ((x, b), factor)) in out.zip(inputs) {
            *product = (x - b) * factor * self.weight;
            *sum += *product;
        }
    }
}

/// `factors = scale` where the word is below a threshold, else 0.
pub(super) struct Noise<'a> {
    pub(super) words: &'a [u32],
    pub(super) below: u32,
    pub(super) scale: f32,
    pub(super) factors: &'a mut [f32],
}

impl Body for Noise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (factor, word) in self.factors.iter_mut().zip(self.words) {
            *factor = if *word < self.below { self.scale } else { 0.0 };
        }
    }
}

/// Adds the signs of the products to `sum`.
pub(super) struct Signs<'a> {
    pub(super) products: &'a [f32],
    pub(super) sum: &'a mut [f32],
}

impl Body for Signs<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (sum, p) in self.sum.iter_mut().zip(self.products) {
            *sum += f32::from(u8::from(*p > 0.0)) - f32::from(u8::from(*p < 0.0));
        }
    }
}

/// Adds the products that have the sign of `sum`, times the factor, to `mixed`, and their weight to
/// `divisor`.
pub(super) struct Agree<'a> {
    pub(super) products: &'a [f32],
    pub(super) factor: f32,
    pub(super) weight: f32,
    pub(super) sum: &'a [f32],
    pub(super) mixed: &'a mut [f32],
    pub(super) divisor: &'a mut [f32],
}

impl Body for Agree<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let inputs = self.products.iter().zip(self.sum);
        for ((p, sum), (mixed, divisor)) in inputs.zip(self.mixed.iter_mut().zip(self.divisor)) {
            let up = *sum >= 0.0;
            let agrees = if up { *p > 0.0 } else { *p < 0.0 };
            let mask = f32::from(u8::from(agrees));
            *mixed += p * self.factor * mask;
            *divisor += self.weight * mask;
        }
    }
}

/// `mixed = mixed / divisor`; a divisor of 0 counts as 1.
pub(super) struct Divide<'a> {
    pub(super) mixed: &'a mut [f32],
    pub(super) divisor: &'a [f32],
}

impl Body for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (mixed, divisor) in self.mixed.iter_mut().zip(self.divisor) {
            *mixed /= if *divisor == 0.0 { 1.0 } else { *divisor };
        }
    }
}

/// `out = base + mixed lambda`.
pub(super) struct Settle<'a> {
    pub(super) base: &'a [f32],
    pub(super) mixed: &'a [f32],
    pub(super) lambda: f32,
    pub(super) out: &'a mut [f32],
}

impl Body for Settle<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, b), mixed) in self.out.iter_mut().zip(self.base).zip(self.mixed) {
            *out = b + mixed * self.lambda;
        }
    }
}
