//! A sum of differences of limited length.

use serde::Deserialize;

use super::rule::{Rule, expect_at_least, expect_finite, expect_not_negative, expect_weights};
use super::vectors::{Vectors, scaled};
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// `out = x_0 + s D` with `D = lambda sum_i w_i (x_i - x_0)` and `s = limit |x_0| / |D|`, at most 1:
/// the result lies no further from the base than `limit` times the base's norm.
///
/// A unit that was shortened is noted.
///
/// Source: norm clipping (Pascanu et al. 2013, "On the difficulty of training recurrent neural
/// networks") of a task vector instead of a gradient.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NormLimit {
    /// The weight of each model.
    pub weights: Vec<f64>,
    /// What the sum is multiplied by.
    pub lambda: f64,
    /// The longest way, in norms of the base.
    pub limit: f64,
}

impl Rule for NormLimit {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_at_least("norm limit", operands, 2)?;
        expect_weights("norm limit", &self.weights, operands - 1)?;
        expect_finite("norm limit", "lambda", self.lambda)?;
        expect_not_negative("norm limit", "limit", self.limit)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let sum = scaled(self.lambda, &self.weights);
        let norm = Vectors::new(gram, true).norm(&sum);
        let longest = self.limit * gram.of(0, 0).max(0.0).sqrt();
        if norm <= longest {
            return Weights::new(true, &sum);
        }
        Weights::new(true, &scaled(longest / norm, &sum)).noting("shortened to the limit")
    }
}
