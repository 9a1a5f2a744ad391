//! What one vector adds beside the direction of another.

use serde::Deserialize;

use super::rule::{Rule, expect_finite, expect_operands};
use super::vectors::Vectors;
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// `out = v_0 + alpha (v_1 - p v_0)` with `p = <v_0, v_1> / |v_0|^2`: the second vector without its
/// part along the first.
///
/// The vectors are the operands, or with a base what each adds to it, and then the base is added
/// back. Where `v_0` is zero nothing is along it: `p = 0`, and the unit is noted.
///
/// Source: with a base, `perpendicular` of sd-mecha 1.1.5 added to the first model (which drops the
/// second model where the first delta is zero); without, `ORTHO` of Chattiori-Model-Merger, whose
/// `A + alpha (D - A <D, A> / |A|^2)`, `D = B - A`, is the same.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Orthogonal {
    /// How much of the second model's own part is added.
    pub alpha: f64,
    /// Whether operand 0 is a base beside the two.
    pub base: bool,
}

impl Rule for Orthogonal {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("orthogonal", operands, 2 + usize::from(self.base))?;
        expect_finite("orthogonal", "alpha", self.alpha)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, self.base);
        let (first, second) = (vectors.one(0, 1.0), vectors.one(1, 1.0));
        let norm2 = vectors.inner(&first, &first);
        if norm2 <= 0.0 {
            let weights = Weights::new(self.base, &[1.0, self.alpha]);
            return weights.noting("first vector is zero: second whole");
        }
        let along = vectors.inner(&first, &second) / norm2;
        Weights::new(self.base, &[1.0 - self.alpha * along, self.alpha])
    }
}
