//! The mean direction of any number of vectors.

use serde::Deserialize;

use super::rule::{Rule, expect_at_least, expect_not_negative, expect_weights};
use super::vectors::{Vectors, add, scaled};
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// `out = M / |M| · sum_i w_i |v_i|` with `M = sum_i w_i v_i / (|v_i| + eps)`.
///
/// The vectors `v` are the operands, or with a base what each adds to it, and then the base is
/// added back. The weights are divided by their sum if `normalize` says so. Where `|M| < eps` the
/// directions cancel: `out = sum_i w_i v_i`, and the unit is noted.
///
/// Source: `multislerp` of mergekit 0.1.5. There a step on the tangent at `M` follows, along the
/// part of `M` that is orthogonal to `M`: nothing but rounding, and left out here. Where directions
/// of more than two vectors cancel it stops with an error.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Multislerp {
    /// The weight of each model.
    pub weights: Vec<f64>,
    /// Whether the weights are divided by their sum.
    pub normalize: bool,
    /// Added to norms, and the least norm of `M`.
    pub eps: f64,
    /// Whether operand 0 is a base beside the models.
    pub base: bool,
}

impl Rule for Multislerp {
    fn check(&self, operands: usize) -> Result<(), String> {
        let others = usize::from(self.base);
        expect_at_least("multislerp", operands, 2 + others)?;
        expect_weights("multislerp", &self.weights, operands - others)?;
        expect_not_negative("multislerp", "eps", self.eps)?;
        if self.normalize && self.weights.iter().sum::<f64>() == 0.0 {
            return Err("multislerp with weights that sum to 0, expected another sum".to_owned());
        }
        Ok(())
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, self.base);
        let norms = vectors.norms();
        let sum = if self.normalize { self.weights.iter().sum() } else { 1.0 };
        let weights = scaled(1.0 / sum, &self.weights);
        let mut mean = vec![0.0; norms.len()];
        for (i, (weight, norm)) in weights.iter().zip(&norms).enumerate() {
            let length = norm + self.eps;
            if length > 0.0 {
                add(&mut mean, *weight, &vectors.one(i, 1.0 / length));
            }
        }
        let length = vectors.norm(&mean);
        if length < self.eps || length == 0.0 {
            return Weights::new(self.base, &weights).noting("directions cancel: linear");
        }
        let norm: f64 = weights.iter().zip(&norms).map(|(w, n)| w * n).sum();
        Weights::new(self.base, &scaled(norm / length, &mean))
    }
}
