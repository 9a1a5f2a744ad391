//! `Q5_0` of ggml: 32 codes of 5 bits behind their scale, an F16, their fifth bits in front of the
//! others. `value = (q - 16) d`.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::{fifths, halves, part};

#[derive(Debug)]
pub struct Q5_0;

impl Format<32, 22> for Q5_0 {
    const NAME: &'static str = "Q5_0";

    #[inline(always)]
    fn decode(block: &[u8; 22], out: &mut [f32; 32]) {
        let d = half(block, 0);
        let (low, high) = (halves(part(block, 6)), fifths(*part(block, 2)));
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            *value = f32::from((low | high).cast_signed() - 16) * d;
        }
    }
}
