//! Exponentials and logarithms from additions, multiplications and divisions alone: the same bits
//! everywhere, as the platforms' own are not, right to a few units of f64's last place. No branch
//! and no table, so loops over them vectorise.

#![allow(clippy::inline_always)]

use std::f64::consts::{LN_2, LOG2_E};

/// Added to a number below 2^51 it leaves the nearest whole one in the lowest bits.
const WHOLE: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
/// ln 2 in two parts, the first with 21 zero bits at its end.
const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// `1 / n!` for `n` from 0 to 13.
const EXP: [f64; 14] = {
    let (mut all, mut n) = ([1.0; 14], 1);
    while n < 14 {
        all[n] = all[n - 1] / n as f64;
        n += 1;
    }
    all
};
/// `1 / (2 n + 1)` for `n` from 0 to 10.
const LN: [f64; 11] = {
    let (mut all, mut n) = ([1.0; 11], 1);
    while n < 11 {
        all[n] = 1.0 / (2 * n + 1) as f64;
        n += 1;
    }
    all
};
/// The bits of an f64's exponent of 0.
const ONE: u64 = 0x3FF0_0000_0000_0000;

/// `e^x`; 0 below -708 and that of 708 above it.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let clamped = if x > 708.0 { 708.0 } else { x };
    let clamped = if clamped < -708.0 { -708.0 } else { clamped };
    let shifted = clamped * LOG2_E + WHOLE;
    let twos = shifted - WHOLE;
    let y = (clamped - twos * LN_2_HIGH) - twos * LN_2_LOW;
    // Taylor's series up to y^13, for |y| up to ln 2 / 2.
    let mut sum = EXP[13];
    for n in (0..13).rev() {
        sum = EXP[n] + y * sum;
    }
    let scale = f64::from_bits(ONE.wrapping_add(shifted.to_bits() << 52));
    if x < -708.0 { 0.0 } else { sum * scale }
}

/// `ln x` of a normal positive `x`.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    const HALF_ROOT: u64 = 0x3FE6_A09E_667F_3BCD; // of 2: the mantissa is taken from there on
    let bits = x.to_bits().wrapping_sub(HALF_ROOT);
    let twos = bits.cast_signed() >> 52;
    let mantissa = f64::from_bits(x.to_bits().wrapping_sub((twos << 52).cast_unsigned()));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    // 2 atanh s up to s^21, for |s| up to 0.172.
    let mut sum = LN[10];
    for n in (0..10).rev() {
        sum = LN[n] + square * sum;
    }
    2.0 * s * sum + twos as f64 * LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_platform_to_rounding() {
        for i in -70_800..=70_800 {
            let x = f64::from(i) * 0.01 + 1.3e-5;
            let exact = x.min(708.0).exp();
            assert!((exp(x) - exact).abs() <= 2e-15 * exact, "exp {x}: {} {exact}", exp(x));
            let y = exact.max(1e-300);
            assert!((ln(y) - y.ln()).abs() <= 1e-15 * y.ln().abs().max(1.0), "ln {y}");
        }
        for i in 1..4_000_u32 {
            let x = f64::from(i) / 2_000.0;
            assert!((ln(x) - x.ln()).abs() <= 3e-16 * x.ln().abs().max(0.5), "ln {x}: {}", ln(x));
        }
    }

    #[test]
    fn ends() {
        assert_eq!(
            [exp(0.0), exp(-1e9), ln(1.0)].map(f64::to_bits),
            [1.0, 0.0, 0.0].map(f64::to_bits)
        );
        assert!(exp(f64::NAN).is_nan());
        assert!(exp(1e9).is_finite());
    }
}
