//! The point where the distances to all operands sum to the least.

use serde::Deserialize;

use super::rule::{Rule, expect_at_least, expect_not_negative, expect_weights};
use super::vectors::{Vectors, scaled};
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// The geometric median: the `m` with the least `sum_i w_i |x_i - m|`.
///
/// From the weighted mean, at most `max_iter` times: `g_i = w_i / max(|x_i - m|, eps)`, then
/// `m = sum_i g_i x_i / sum_i g_i`; stop once the sum of distances changes by at most `tol` of
/// itself. A unit that did not stop is noted. The map is `x_0 + sum_i g_i (x_i - x_0)`, with the `g`
/// divided by their sum.
///
/// Source: Weiszfeld 1937; the floor and the test are those of `geometric_median` of sd-mecha 1.1.5,
/// after Pillutla et al. 2022, "Robust aggregation for federated learning", arXiv:1912.13445.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GeometricMedian {
    /// The weight of each operand, at least 0.
    pub weights: Vec<f64>,
    /// Most steps.
    pub max_iter: u32,
    /// The relative change of the sum of distances that counts as none.
    pub tol: f64,
    /// The least distance that is divided by.
    pub eps: f64,
}

impl Rule for GeometricMedian {
    fn check(&self, operands: usize) -> Result<(), String> {
        let rule = "geometric median";
        expect_at_least(rule, operands, 2)?;
        expect_weights(rule, &self.weights, operands)?;
        self.weights.iter().try_for_each(|w| expect_not_negative(rule, "weight", *w))?;
        if self.weights.iter().sum::<f64>() <= 0.0 {
            return Err(format!("{rule} with weights of 0 only, expected one above 0"));
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(format!("{rule} with eps {}, expected a number above 0", self.eps));
        }
        expect_not_negative(rule, "tol", self.tol)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        // All points lie in the affine hull of the operands, so differences from the first do.
        let vectors = Vectors::new(gram, true);
        let mut shares = to_shares(&self.weights);
        let mut distances = distances(vectors, &shares);
        let mut converged = self.total(&distances) == 0.0;
        for _ in 0..self.max_iter {
            if converged {
                break;
            }
            let pulls = self.weights.iter().zip(&distances);
            shares = to_shares(&pulls.map(|(w, d)| w / d.max(self.eps)).collect::<Vec<_>>());
            let before = self.total(&distances);
            distances = self::distances(vectors, &shares);
            let total = self.total(&distances);
            converged = (before - total).abs() <= self.tol * total;
        }
        let weights = Weights::new(true, &shares[1..]);
        if converged { weights } else { weights.noting("stopped at max_iter") }
    }
}

impl GeometricMedian {
    /// What the median makes least.
    fn total(&self, distances: &[f64]) -> f64 {
        self.weights.iter().zip(distances).map(|(w, d)| w * d).sum()
    }
}

fn to_shares(pulls: &[f64]) -> Vec<f64> {
    scaled(1.0 / pulls.iter().sum::<f64>(), pulls)
}

/// `|x_i - m|` of every operand, for the point with these shares of them.
fn distances(vectors: Vectors, shares: &[f64]) -> Vec<f64> {
    let distance = |i: usize| {
        let mut from: Vec<_> = shares[1..].iter().map(|s| -s).collect();
        if i > 0 {
            from[i - 1] += 1.0;
        }
        vectors.norm(&from)
    };
    (0..shares.len()).map(distance).collect()
}
