//! `Q5_1` of ggml: 32 codes of 5 bits behind their scale and the least of them, both F16, their fifth
//! bits in front of the others. `value = q d + m`, rounded once.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::{fifths, halves, part};

#[derive(Debug)]
pub struct Q5_1;

impl Format<32, 24> for Q5_1 {
    const NAME: &'static str = "Q5_1";

    #[inline(always)]
    fn decode(block: &[u8; 24], out: &mut [f32; 32]) {
        let (d, m) = (half(block, 0), half(block, 2));
        let (low, high) = (halves(part(block, 8)), fifths(*part(block, 4)));
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            *value = f32::from(low | high) * d + m;
        }
    }
}
