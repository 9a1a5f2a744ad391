//! As far from the base as the angles of the models allow.

use serde::Deserialize;

use super::rule::{Rule, expect_at_least, expect_not_negative};
use super::vectors::Vectors;
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// `out = x_0 + t · mean_i d_i` with `d_i = x_i - x_0` of `n` models and
/// `t = n c / (1 + (n - 1) c)`, `c` the mean cosine of all pairs of them.
///
/// A cosine is `<d_i, d_j> / max(|d_i| |d_j|, floor)`, at most 1 either way, and 0 where that is
/// 0 / 0. Where the divisor of `t`
/// is within 1e-6 of 0, `t = 0`. A unit that stays the base is noted.
///
/// Source: Jang et al. 2024, "Model Stock", arXiv:2403.19522; the mean over pairs is that of mergekit
/// 0.1.5, which has a `floor` of 1e-6.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ModelStock {
    /// The least product of two norms that is divided by.
    pub floor: f64,
}

impl Rule for ModelStock {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_at_least("model stock", operands, 3)?;
        expect_not_negative("model stock", "floor", self.floor)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, true);
        let norms = vectors.norms();
        let n = norms.len();
        let (mut sum, mut pairs) = (0.0, 0.0);
        for i in 0..n {
            for j in i + 1..n {
                let product = (norms[i] * norms[j]).max(self.floor);
                if product > 0.0 {
                    sum += (gram.of(i + 1, j + 1) / product).clamp(-1.0, 1.0);
                }
                pairs += 1.0;
            }
        }
        let (cosine, n) = (sum / pairs, n as f64);
        let divisor = 1.0 + (n - 1.0) * cosine;
        let t = if divisor.abs() < 1e-6 { 0.0 } else { n * cosine / divisor };
        let weights = Weights::new(true, &vec![t / n; norms.len()]);
        if t == 0.0 { weights.noting("no common direction: base") } else { weights }
    }
}
