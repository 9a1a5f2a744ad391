//! Direction and norm apart.

use serde::Deserialize;

use super::rule::{Rule, expect_finite, expect_operands};
use super::vectors::{Vectors, add, scaled};
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// `out = n D / |D|` with `D = (1 - d) x_0 / |x_0| + d x_1 / |x_1|` and
/// `n = |(1 - m) |x_0| + m |x_1||`: `d` is the share of the second direction, `m` that of its norm.
///
/// An operand of norm 0 has no direction and is left out of `D`. Where `D` is zero, the line
/// `(1 - d) x_0 + d x_1` comes out, and the unit is noted.
///
/// Source: `NORM` of Chattiori-Model-Merger, with two shares instead of one.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Polar {
    /// The share of the second operand's direction.
    pub direction: f64,
    /// The share of the second operand's norm.
    pub norm: f64,
}

impl Rule for Polar {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("polar", operands, 2)?;
        expect_finite("polar", "direction", self.direction)?;
        expect_finite("polar", "norm", self.norm)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, false);
        let norms = vectors.norms();
        let line = [1.0 - self.direction, self.direction];
        let mut direction = vec![0.0; 2];
        for (i, (share, norm)) in line.iter().zip(&norms).enumerate() {
            if *norm > 0.0 {
                add(&mut direction, *share, &vectors.one(i, 1.0 / norm));
            }
        }
        let length = vectors.norm(&direction);
        if length == 0.0 {
            return Weights::new(false, &line).noting("no direction: linear");
        }
        let norm = ((1.0 - self.norm) * norms[0] + self.norm * norms[1]).abs();
        Weights::new(false, &scaled(norm / length, &direction))
    }
}
