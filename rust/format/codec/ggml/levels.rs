//! The codes of `Q4_0`, `Q4_1`, `Q5_0` and `Q5_1`: the nearest of evenly spaced levels.

#![allow(clippy::inline_always)]
#![allow(clippy::float_cmp)] // which of them it is, is asked

use super::block::{Each, Numbers, TOGETHER, inverses, saturated};
use super::codes::byte;

/// Some blocks, not yet in bytes.
pub struct Levels {
    /// Not yet F16, as are the smallest values.
    pub scales: Each,
    /// What has code 0; of zeros the first.
    pub smallest: Each,
    pub codes: Each<[u8; 32]>,
}

/// Levels on both sides of 0, `half` of them below it. The scale is such that the value of the largest
/// magnitude (the first of those as large) has code 0, and `code = floor(x (1 / scale) + half + 0.5)`.
#[inline(always)]
pub fn around_zero(from: &Numbers<32>, half: f32) -> Levels {
    let mut scales = [0.0; TOGETHER];
    for (at, scale) in scales.iter_mut().enumerate() {
        *scale = extreme(from, at) / -half;
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
pub fn from_smallest(from: &Numbers<32>, top: f32) -> Levels {
    let (mut scales, mut smallest) = ([0.0; TOGETHER], [0.0; TOGETHER]);
    for at in 0..TOGETHER {
        scales[at] = (from.high[at] - from.low[at]) / top;
        smallest[at] = from.low[at];
        if smallest[at] == 0.0 {
            smallest[at] = first(&from.values[at], 0.0);
        }
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

/// The first value of the largest magnitude of a block; +0 of zeros.
#[inline(always)]
fn extreme(from: &Numbers<32>, at: usize) -> f32 {
    let (largest, low, high) = (from.largest[at], from.low[at], from.high[at]);
    if high != largest {
        low
    } else if low == -largest && largest > 0.0 {
        first(&from.values[at], largest)
    } else {
        largest
    }
}

/// The first value of a magnitude that is among them.
#[cold]
#[inline(never)]
fn first(values: &[f32; 32], magnitude: f32) -> f32 {
    values.iter().copied().find(|x| x.abs() == magnitude).unwrap_or_default()
}
