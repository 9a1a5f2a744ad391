//! Spherical interpolation between two vectors.

use serde::Deserialize;

use super::rule::{Rule, expect_finite, expect_operands, expect_weights};
use super::vectors::Vectors;
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;
use crate::math::trig;

/// `out = sin((1 - alpha) θ) / sin θ · x_0 + sin(alpha θ) / sin θ · x_1`, with `θ` the angle of the two.
///
/// Where `|cos θ| > 0.9995` the circle is a line to rounding: `(1 - alpha) x_0 + alpha x_1`, and the
/// unit is noted. A norm up to 1e-8 has no direction: `θ` is then a right angle.
///
/// Source: Shoemake 1985, "Animating rotation with quaternion curves"; the threshold and the norm's
/// floor are those of mergekit 0.1.5.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Slerp {
    /// The share of the second operand.
    pub alpha: f64,
}

impl Rule for Slerp {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("slerp", operands, 2)?;
        expect_finite("slerp", "alpha", self.alpha)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, false);
        let norms = vectors.norms();
        let lengths = [0, 1].map(|i| if norms[i] > 1e-8 { norms[i] } else { 1.0 });
        let angle = angle(vectors, &norms, lengths);
        let line = trig::cos(angle).abs() > 0.9995;
        arc(self.alpha, angle, line, false, "nearly parallel (cosine above 0.9995): linear")
    }
}

/// Spherical interpolation by weights: `t = w_1 / (w_0 + w_1)`, or 1/2 where `|w_0 + w_1| < 1e-6`.
///
/// `out = sin((1 - t) θ) / sin θ · v_0 + sin(t θ) / sin θ · v_1`, with `θ` the angle of the vectors
/// `v`: the operands, or with a base what each adds to it, and then the base is added back.
///
/// Where `sin θ ≤ 1e-8` it is `(1 - t) v_0 + t v_1`, and the unit is noted. A vector's direction is
/// `v / max(|v|, 1e-7)`: without length there is none, and `θ` is a right angle.
///
/// Source: `nuslerp` of mergekit 0.1.5.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NuSlerp {
    /// The weights of the two models.
    pub weights: Vec<f64>,
    /// Whether operand 0 is a base beside the two.
    pub base: bool,
}

impl Rule for NuSlerp {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("nuslerp", operands, 2 + usize::from(self.base))?;
        expect_weights("nuslerp", &self.weights, 2)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let sum = self.weights[0] + self.weights[1];
        let t = if sum.abs() < 1e-6 { 0.5 } else { self.weights[1] / sum };
        let vectors = Vectors::new(gram, self.base);
        let norms = vectors.norms();
        let angle = angle(vectors, &norms, [0, 1].map(|i| norms[i].max(1e-7)));
        let line = trig::sin(angle).abs() <= 1e-8;
        arc(t, angle, line, self.base, "nearly parallel: linear")
    }
}

/// The angle of two vectors divided by `lengths`; where a length is not the norm, from the cosine
/// that follows.
fn angle(vectors: Vectors, norms: &[f64], lengths: [f64; 2]) -> f64 {
    let units = [0, 1].map(|i| vectors.one(i, 1.0 / lengths[i]));
    if norms.iter().zip(lengths).all(|(norm, length)| norm.total_cmp(&length).is_eq()) {
        return vectors.angle(&units[0], &units[1]);
    }
    let cosine = vectors.inner(&units[0], &units[1]).clamp(-1.0, 1.0);
    2.0 * trig::angle((1.0 - cosine).sqrt(), (1.0 + cosine).sqrt())
}

/// The weights of two vectors, with a note if they lie along a line.
fn arc(t: f64, angle: f64, line: bool, base: bool, note: &'static str) -> Weights {
    if line {
        return Weights::new(base, &[1.0 - t, t]).noting(note);
    }
    let sine = trig::sin(angle);
    let weights = [trig::sin((1.0 - t) * angle) / sine, trig::sin(t * angle) / sine];
    Weights::new(base, &weights)
}
