//! Vectors in the span of a unit's operands, as coefficients: their inner products need the
//! [`Gram`] alone.

use crate::kernels::gram::Gram;
use crate::math::trig;

/// What a rule combines: the operands themselves, or all but the first taken from the first.
///
/// A vector of the span is one coefficient for each of them.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a> {
    gram: &'a Gram,
    from_base: bool,
}

impl<'a> Vectors<'a> {
    /// `x_0, x_1, ...`, or with a base `x_1 - x_0, x_2 - x_0, ...`.
    pub(super) fn new(gram: &'a Gram, from_base: bool) -> Self {
        Self { gram, from_base }
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        self.gram.count() - usize::from(self.from_base)
    }

    /// The `i`-th, times `factor`.
    pub(super) fn one(self, i: usize, factor: f64) -> Vec<f64> {
        let mut vector = vec![0.0; self.count()];
        vector[i] = factor;
        vector
    }

    /// `<a, b>`, summed over the products of the Gram matrix: of the first operand and the
    /// differences from it, so that close operands keep their difference.
    pub(super) fn inner(self, a: &[f64], b: &[f64]) -> f64 {
        let n = self.count();
        let over = usize::from(self.from_base);
        // Over x_0 and the differences, the first coefficient of sum_i a_i x_i is sum_i a_i.
        let on = |v: &[f64], i: usize| if i + over == 0 { v.iter().sum() } else { v[i] };
        let mut sum = 0.0;
        for i in 0..n {
            let ai: f64 = on(a, i);
            for j in 0..n {
                sum += ai * on(b, j) * self.gram.of(i + over, j + over);
            }
        }
        sum
    }

    /// `|a|`.
    pub(super) fn norm(self, a: &[f64]) -> f64 {
        self.inner(a, a).max(0.0).sqrt()
    }

    /// The norms of all of them.
    pub(super) fn norms(self) -> Vec<f64> {
        (0..self.count()).map(|i| self.norm(&self.one(i, 1.0))).collect()
    }

    /// The angle of two vectors of norm 1: `2 atan(|a - b| / |a + b|)`, which keeps its digits at
    /// either end (Kahan 2006, "How futile are mindless assessments of roundoff").
    pub(super) fn angle(self, a: &[f64], b: &[f64]) -> f64 {
        let minus: Vec<_> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let plus: Vec<_> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        2.0 * trig::angle(self.norm(&minus), self.norm(&plus))
    }
}

/// `sum += factor * vector`.
pub(super) fn add(sum: &mut [f64], factor: f64, vector: &[f64]) {
    sum.iter_mut().zip(vector).for_each(|(sum, v)| *sum += factor * v);
}

/// `factor * vector`.
pub(super) fn scaled(factor: f64, vector: &[f64]) -> Vec<f64> {
    vector.iter().map(|v| factor * v).collect()
}
