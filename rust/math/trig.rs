//! Sines and angles from additions, multiplications, divisions and square roots alone.
//!
//! The mathematical library of a platform picks other code for other processors, and its last bit
//! with it. These are loops over series, the same bits everywhere, right to a few units of f64's
//! last place.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

/// What f64 leaves of π/2 beside [`FRAC_PI_2`].
const REST_OF_PI_2: f64 = 6.123_233_995_736_766e-17;

/// `sin x` of a finite `x`; for large ones as exact as a period rounded to 106 bits.
pub fn sin(x: f64) -> f64 {
    let quarters = (x / FRAC_PI_2).round();
    let y = (x - quarters * FRAC_PI_2) - quarters * REST_OF_PI_2;
    match quarters.rem_euclid(4.0) as i8 {
        0 => sin_series(y),
        1 => cos_series(y),
        2 => -sin_series(y),
        _ => -cos_series(y),
    }
}

/// `cos x` of a finite `x`, as exact as [`sin`].
pub fn cos(x: f64) -> f64 {
    sin(x + FRAC_PI_2)
}

/// The angle from 0 to π/2 whose tangent is `opposite / adjacent`; both are at least 0. Of two
/// zeros it is 0.
pub fn angle(opposite: f64, adjacent: f64) -> f64 {
    if opposite == 0.0 {
        return 0.0;
    }
    if opposite > adjacent {
        return FRAC_PI_2 - angle(adjacent, opposite);
    }
    // Halved thrice, an angle of at most π/4 has a tangent below 0.1.
    let mut tangent = opposite / adjacent;
    for _ in 0..3 {
        tangent /= 1.0 + (1.0 + tangent * tangent).sqrt();
    }
    let square = tangent * tangent;
    let series = (0..9).rev().fold(0.0, |sum, n| 1.0 / f64::from(2 * n + 1) - square * sum);
    8.0 * tangent * series
}

/// Taylor's series up to `y^19`, for `|y|` up to π/4.
fn sin_series(y: f64) -> f64 {
    debug_assert!(y.abs() < FRAC_PI_4 + 1e-9);
    let square = y * y;
    y * (1..10).rev().fold(1.0, |sum, n| {
        let n = f64::from(n);
        1.0 - square / ((2.0 * n) * (2.0 * n + 1.0)) * sum
    })
}

/// Taylor's series up to `y^18`, for `|y|` up to π/4.
fn cos_series(y: f64) -> f64 {
    let square = y * y;
    (1..10).rev().fold(1.0, |sum, n| {
        let n = f64::from(n);
        1.0 - square / ((2.0 * n - 1.0) * (2.0 * n)) * sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sines_are_those_of_the_platform_to_rounding() {
        for i in -40_000..40_000 {
            let x = f64::from(i) * 4.1e-4;
            assert!((sin(x) - x.sin()).abs() < 4e-16, "sin {x}");
            assert!((cos(x) - x.cos()).abs() < 4e-15, "cos {x}");
        }
        assert_eq!((sin(0.0).to_bits(), sin(1e-300).to_bits()), (0, 1e-300_f64.to_bits()));
    }

    #[test]
    fn angles_are_those_of_the_platform_to_rounding() {
        for i in 0..2_000 {
            let exact = f64::from(i) * FRAC_PI_2 / 2_000.0;
            let got = angle(exact.sin() * 7.0, exact.cos() * 7.0);
            assert!((got - exact).abs() <= 8e-16, "{exact} {got}");
        }
        assert_eq!(angle(0.0, 0.0).to_bits(), 0);
        assert!((angle(3.0, 0.0) - FRAC_PI_2).abs() < 1e-15);
        assert!((angle(1e-12, 1.0) - 1e-12).abs() < 1e-27);
    }
}
