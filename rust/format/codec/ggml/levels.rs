//! The codes of `Q4_0`, `Q4_1`, `Q5_0` and `Q5_1`: the nearest of evenly spaced levels.

#![allow(clippy::inline_always)]

use super::block::{inverse, saturated};
use super::codes::byte;

/// Levels on both sides of 0, `half` of them below it. The scale is such that the value of the largest
/// magnitude (the first of those as large) has code 0, and `code = floor(x (1 / scale) + half + 0.5)`.
#[inline(always)]
pub fn around_zero(values: &[f32; 32], largest: f32, half: f32) -> (f32, [u8; 32]) {
    let scale = extreme(values, largest) / -half;
    let inverse = inverse(saturated(scale));
    let code = |x: f32| (x * inverse + (half + 0.5)).clamp(0.0, 2.0 * half - 1.0);
    (scale, floors(values, code))
}

/// Levels from the smallest value (code 0) to the largest (`top`): the scale, the smallest value and
/// `code = floor((x - smallest) (1 / scale) + 0.5)`.
#[inline(always)]
pub fn from_smallest(values: &[f32; 32], top: f32) -> (f32, f32, [u8; 32]) {
    let [smallest, largest] = range(values);
    let scale = (largest - smallest) / top;
    let (inverse, from) = (inverse(saturated(scale)), saturated(smallest));
    let code = |x: f32| ((x - from) * inverse + 0.5).clamp(0.0, top);
    (scale, smallest, floors(values, code))
}

#[inline(always)]
fn floors(values: &[f32; 32], code: impl Fn(f32) -> f32) -> [u8; 32] {
    let mut codes = [0; 32];
    for (out, x) in codes.iter_mut().zip(values) {
        *out = byte(code(*x).floor());
    }
    codes
}

/// The first value of that magnitude; +0 of zeros.
#[inline(always)]
fn extreme(values: &[f32; 32], largest: f32) -> f32 {
    let any = |sought: f32| values.iter().fold(false, |found, x| found | (*x == sought));
    match (any(largest), any(-largest)) {
        (true, true) if largest > 0.0 => first(values, |x| x.abs() == largest),
        (true, _) => largest,
        _ => -largest,
    }
}

/// The smallest and the largest; if one is zero, the first of the zeros.
#[inline(always)]
fn range(values: &[f32; 32]) -> [f32; 2] {
    let (mut low, mut high) = ([f32::MAX; 8], [f32::MIN; 8]);
    for row in values.as_chunks::<8>().0 {
        for lane in 0..8 {
            low[lane] = if row[lane] < low[lane] { row[lane] } else { low[lane] };
            high[lane] = if row[lane] > high[lane] { row[lane] } else { high[lane] };
        }
    }
    let low = low.into_iter().fold(f32::MAX, f32::min);
    let high = high.into_iter().fold(f32::MIN, f32::max);
    let signed = |x: f32| if x == 0.0 { first(values, |x| x == 0.0) } else { x };
    [signed(low), signed(high)]
}

#[inline(always)]
fn first(values: &[f32; 32], holds: impl Fn(f32) -> bool) -> f32 {
    values.iter().copied().find(|x| holds(*x)).unwrap_or_default()
}
