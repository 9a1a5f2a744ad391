//! A line walked at the norm between its ends.

use serde::Deserialize;

use super::rule::{Rule, expect_finite, expect_operands};
use super::vectors::{Vectors, scaled};
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// `out = s ((1 - alpha) x_0 + alpha x_1)`, with `s` such that
/// `|out| = |(1 - alpha) |x_0| + alpha |x_1||`.
///
/// A line between two points on a sphere passes inside of it: `s` undoes that. Where the line passes
/// through zero, `s = 1`, and the unit is noted.
///
/// Source: normalised linear interpolation of quaternions (Blow 2004, "Understanding slerp, then not
/// using it"), with the norm interpolated as well.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NormLerp {
    /// The share of the second operand.
    pub alpha: f64,
}

impl Rule for NormLerp {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("norm lerp", operands, 2)?;
        expect_finite("norm lerp", "alpha", self.alpha)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, false);
        let norms = vectors.norms();
        let line = [1.0 - self.alpha, self.alpha];
        let norm = vectors.norm(&line);
        if norm == 0.0 {
            return Weights::new(false, &line).noting("passes through zero: linear");
        }
        let target = (line[0] * norms[0] + line[1] * norms[1]).abs();
        Weights::new(false, &scaled(target / norm, &line))
    }
}
