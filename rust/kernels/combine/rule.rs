//! What a rule for weights is, and what its arguments have in common.

use std::fmt::Debug;

use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;

/// How weights follow from the inner products of the operands.
pub trait Rule: Debug + Send + Sync {
    /// Whether the arguments are usable with this many operands; else what is wrong.
    ///
    /// # Errors
    /// A sentence without the place.
    fn check(&self, operands: usize) -> Result<(), String>;

    /// The weights.
    fn weigh(&self, gram: &Gram) -> Weights;
}

/// `Err` unless there are `expected` operands.
pub(super) fn expect_operands(rule: &str, operands: usize, expected: usize) -> Result<(), String> {
    if operands == expected {
        return Ok(());
    }
    Err(format!("{rule} of {operands} operands, expected {expected}"))
}

/// `Err` unless there are at least `expected` operands.
pub(super) fn expect_at_least(rule: &str, operands: usize, expected: usize) -> Result<(), String> {
    if operands >= expected {
        return Ok(());
    }
    Err(format!("{rule} of {operands} operands, expected at least {expected}"))
}

/// `Err` unless the argument is a finite number.
pub(super) fn expect_finite(rule: &str, argument: &str, value: f64) -> Result<(), String> {
    if value.is_finite() {
        return Ok(());
    }
    Err(format!("{rule} with {argument} {value:?}, expected a finite number"))
}

/// `Err` unless the argument is a finite number of at least 0.
pub(super) fn expect_not_negative(rule: &str, argument: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(format!("{rule} with {argument} {value:?}, expected a finite number of at least 0"))
}

/// `Err` unless there is one finite weight for each of the models.
pub(super) fn expect_weights(rule: &str, weights: &[f64], models: usize) -> Result<(), String> {
    if weights.len() != models {
        let got = weights.len();
        return Err(format!(
            "{rule} with {got} weights for {models} models, expected one for each"
        ));
    }
    weights.iter().try_for_each(|w| expect_finite(rule, "weight", *w))
}
