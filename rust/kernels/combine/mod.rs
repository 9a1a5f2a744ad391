//! Weighted sums whose weights follow from the norms and angles of the operands.
//!
//! Spherical interpolation and its relatives move inside the span of their operands, so one pass
//! over the inner products ([`Gram`]) gives their weights, and the map is a weighted sum in f32.
//! Iterations run on coefficients: they never touch an element again.
//!
//! Weights are formed in f64 and rounded to f32 once. Inner products leave out the elements that are
//! not finite; such an element of an operand makes the same element of the output non-finite and
//! no other.

use serde::Deserialize;

use super::gram::Gram;
use super::sums::Weights;

mod karcher;
mod median;
mod multislerp;
#[cfg(test)]
mod naive;
mod norm_lerp;
mod norm_limit;
mod orthogonal;
mod polar;
mod slerp;
mod stock;
#[cfg(test)]
mod tests;
mod vectors;

/// How the weights follow from the inner products.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// The point where the distances to all operands sum to the least.
    GeometricMedian(median::GeometricMedian),
    /// The mean on the sphere.
    Karcher(karcher::Karcher),
    /// As far from the base as the angles of the others allow.
    ModelStock(stock::ModelStock),
    /// The mean direction of any number of operands.
    Multislerp(multislerp::Multislerp),
    /// A line walked at the norm between its ends.
    NormLerp(norm_lerp::NormLerp),
    /// A sum of differences that goes so far from the base and no further.
    NormLimit(norm_limit::NormLimit),
    /// Along the great circle, by weights, of operands or of what they add to a base.
    Nuslerp(slerp::NuSlerp),
    /// What one operand adds beside the direction of another.
    Orthogonal(orthogonal::Orthogonal),
    /// A direction and a norm, each from anywhere between two operands.
    Polar(polar::Polar),
    /// Along the great circle.
    Slerp(slerp::Slerp),
}

/// A formula for the weights.
trait Rule {
    /// Whether the arguments are usable with this many operands; else what is wrong.
    fn check(&self, operands: usize) -> Result<(), String>;

    /// The weights.
    fn weigh(&self, gram: &Gram) -> Weights;
}

impl Combine {
    fn rule(&self) -> &dyn Rule {
        match self {
            Self::GeometricMedian(rule) => rule,
            Self::Karcher(rule) => rule,
            Self::ModelStock(rule) => rule,
            Self::Multislerp(rule) => rule,
            Self::NormLerp(rule) => rule,
            Self::NormLimit(rule) => rule,
            Self::Nuslerp(rule) => rule,
            Self::Orthogonal(rule) => rule,
            Self::Polar(rule) => rule,
            Self::Slerp(rule) => rule,
        }
    }

    pub(super) fn check(&self, operands: usize) -> Result<(), String> {
        self.rule().check(operands)
    }

    pub(super) fn weigh(&self, gram: &Gram) -> Weights {
        self.rule().weigh(gram)
    }
}

/// `Err` unless there are `expected` operands.
fn expect_operands(rule: &str, operands: usize, expected: usize) -> Result<(), String> {
    if operands == expected {
        return Ok(());
    }
    Err(format!("{rule} of {operands} operands, expected {expected}"))
}

/// `Err` unless there are at least `expected` operands.
fn expect_at_least(rule: &str, operands: usize, expected: usize) -> Result<(), String> {
    if operands >= expected {
        return Ok(());
    }
    Err(format!("{rule} of {operands} operands, expected at least {expected}"))
}

/// `Err` unless the argument is a finite number.
fn expect_finite(rule: &str, argument: &str, value: f64) -> Result<(), String> {
    if value.is_finite() {
        return Ok(());
    }
    Err(format!("{rule} with {argument} {value:?}, expected a finite number"))
}

/// `Err` unless the argument is a finite number of at least 0.
fn expect_not_negative(rule: &str, argument: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(format!("{rule} with {argument} {value:?}, expected a finite number of at least 0"))
}

/// `Err` unless there is one finite weight for each of the models.
fn expect_weights(rule: &str, weights: &[f64], models: usize) -> Result<(), String> {
    if weights.len() != models {
        let got = weights.len();
        return Err(format!(
            "{rule} with {got} weights for {models} models, expected one for each"
        ));
    }
    weights.iter().try_for_each(|w| expect_finite(rule, "weight", *w))
}
