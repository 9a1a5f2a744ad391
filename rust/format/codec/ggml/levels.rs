//! The codes of `Q4_0`, `Q4_1`, `Q5_0` and `Q5_1`: the nearest of evenly spaced levels.

#![allow(clippy::inline_always)]

use super::block::{Each, Numbers, TOGETHER, inverses, saturated};
use super::codes::byte;

/// Some blocks, not yet in bytes.
pub struct Levels {
    /// Not yet F16, as are the smallest values.
    pub scales: Each,
    /// Where these have code 0.
    pub smallest: Each,
    pub codes: Each<[u8; 32]>,
}

/// Levels on both sides of 0, `half` of them below it. The scale is such that the value of the largest
/// magnitude (the first of those as large) has code 0, and `code = floor(x (1 / scale) + half + 0.5)`.
#[inline(always)]
pub fn around_zero(from: Numbers<32>, half: f32) -> Levels {
    let mut scales = [0.0; TOGETHER];
    for ((scale, values), largest) in scales.iter_mut().zip(from.values).zip(from.largest) {
        *scale = extreme(values, largest) / -half;
    }
    let inverses = inverses(&scales);
    let mut codes = [[0; 32]; TOGETHER];
    for ((codes, values), inverse) in codes.iter_mut().zip(from.values).zip(inverses) {
        for (code, x) in codes.iter_mut().zip(values) {
            let level = x * inverse + (half + 0.5);
            *code = byte(level.clamp(0.0, 2.0 * half - 1.0).floor());
        }
    }
    Levels { scales, smallest: [0.0; TOGETHER], codes }
}

/// Levels from the smallest value (code 0) to the largest (`top`), and
/// `code = floor((x - smallest) (1 / scale) + 0.5)`.
#[inline(always)]
pub fn from_smallest(from: Numbers<32>, top: f32) -> Levels {
    let (mut scales, mut smallest) = ([0.0; TOGETHER], [0.0; TOGETHER]);
    for (at, values) in from.values.iter().enumerate() {
        let [low, high] = range(values);
        (scales[at], smallest[at]) = ((high - low) / top, low);
    }
    let inverses = inverses(&scales);
    let mut codes = [[0; 32]; TOGETHER];
    for (at, (codes, values)) in codes.iter_mut().zip(from.values).enumerate() {
        let (low, inverse) = (saturated(smallest[at]), inverses[at]);
        for (code, x) in codes.iter_mut().zip(values) {
            let level = (x - low) * inverse + 0.5;
            *code = byte(level.clamp(0.0, top).floor());
        }
    }
    Levels { scales, smallest, codes }
}

/// The first value of that magnitude; +0 of zeros.
#[inline(always)]
fn extreme(values: &[f32; 32], largest: f32) -> f32 {
    let (mut above, mut below) = (false, false);
    for x in values {
        above |= *x == largest;
        below |= *x == -largest;
    }
    match (above, below) {
        (true, true) if largest > 0.0 => first(values, largest),
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
    let (mut smallest, mut largest) = (low[0], high[0]);
    for lane in 1..8 {
        smallest = if low[lane] < smallest { low[lane] } else { smallest };
        largest = if high[lane] > largest { high[lane] } else { largest };
    }
    let signed = |x: f32| if x == 0.0 { first(values, 0.0) } else { x };
    [signed(smallest), signed(largest)]
}

/// The first value of a magnitude that is among them.
#[cold]
#[inline(never)]
fn first(values: &[f32; 32], magnitude: f32) -> f32 {
    values.iter().copied().find(|x| x.abs() == magnitude).unwrap_or_default()
}
