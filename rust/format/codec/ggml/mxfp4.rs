//! `MXFP4` of ggml: 32 codes of 4 bits, each an E2M1, behind their scale, a power of two (E8M0).
//!
//! `value = code 2^(scale - 127)`. The largest scale is read as 2^128, as ggml does; to OCP it is NaN.

#![allow(clippy::inline_always)]

use super::block::Format;
use super::codes::{nibbles, part};

/// Twice the numbers of E2M1.
const LEVELS: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

#[derive(Debug)]
pub struct Mxfp4;

impl Format<32, 17> for Mxfp4 {
    const NAME: &'static str = "MXFP4";

    #[inline(always)]
    fn decode(block: &[u8; 17], _: f32, out: &mut [f32; 32]) {
        let scale = half_power(block[0]);
        for (value, q) in out.iter_mut().zip(nibbles(part(block, 1))) {
            *value = LEVELS[usize::from(q)] * scale;
        }
    }
}

/// `2^(exponent - 128)`; the least two are subnormal.
#[inline(always)]
fn half_power(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
}
