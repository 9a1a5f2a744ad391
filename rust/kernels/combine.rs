//! Weighted sums whose weights follow from the norms and angles of the operands.
//!
//! Spherical interpolation and its relatives move inside the span of their operands, so one pass
//! over the inner products ([`Gram`]) gives their weights, and the map is a weighted sum in f32.

use serde::Deserialize;

use super::gram::Gram;
use super::sums::{Learned, Sums};

/// How the weights follow from the inner products.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Along the great circle.
    Slerp(Slerp),
}

/// `out = sin((1 - t) θ) / sin θ · x_0 + sin(t θ) / sin θ · x_1`, with `θ` the angle of the two.
///
/// Where `|cos θ| > 0.9995` the circle is a line to rounding: `(1 - t) x_0 + t x_1`. Norms up to
/// 1e-8 count as 1. Weights are formed in f64 and rounded to f32 once.
///
/// Source: Shoemake 1985, "Animating rotation with quaternion curves"; the threshold and the norm's
/// floor are those of mergekit 0.1.5.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Slerp {
    /// The share of the second operand.
    pub t: f64,
}

impl Combine {
    pub(super) fn check(&self, operands: usize) -> Result<(), String> {
        match self {
            Self::Slerp(_) if operands != 2 => {
                Err(format!("slerp of {operands} operands, expected 2"))
            }
            Self::Slerp(slerp) if !slerp.t.is_finite() => {
                Err(format!("slerp to {}, expected a finite number", slerp.t))
            }
            Self::Slerp(_) => Ok(()),
        }
    }

    pub(super) fn learn(&self, sums: &Sums) -> Learned {
        let Sums::Gram(gram) = sums;
        let weights = match self {
            Self::Slerp(slerp) => slerp.weights(gram),
        };
        Learned::Weights(weights.iter().map(|&w| w as f32).collect())
    }
}

impl Slerp {
    fn weights(&self, gram: &Gram) -> Vec<f64> {
        let norm = |i: usize| Some(gram.operands(i, i).sqrt()).filter(|n| *n > 1e-8).unwrap_or(1.0);
        let cosine = (gram.operands(0, 1) / (norm(0) * norm(1))).clamp(-1.0, 1.0);
        if cosine.abs() > 0.9995 {
            return vec![1.0 - self.t, self.t];
        }
        let angle = cosine.acos();
        vec![((1.0 - self.t) * angle).sin() / angle.sin(), (self.t * angle).sin() / angle.sin()]
    }
}
