//! What arguments of kernels have in common.

/// `Err` unless the number of operands fits.
pub fn expect_operands(
    name: &str,
    operands: usize,
    fits: bool,
    expected: &str,
) -> Result<(), String> {
    if fits { Ok(()) } else { Err(format!("{name} of {operands} operands, expected {expected}")) }
}

/// `Err` unless all arguments are finite when rounded to f32.
pub fn expect_finite(name: &str, values: &[f64]) -> Result<(), String> {
    match values.iter().find(|value| !(**value as f32).is_finite()) {
        Some(value) => Err(format!("{name} with {value:?}, expected a finite f32")),
        None => Ok(()),
    }
}

/// `Err` unless the argument is a finite f32 of at least 0.
pub fn expect_not_negative(name: &str, argument: &str, value: f64) -> Result<(), String> {
    if (value as f32).is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(format!("{name} with {argument} {value:?}, expected a finite f32 of at least 0"))
}
