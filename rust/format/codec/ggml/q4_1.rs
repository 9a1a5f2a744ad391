//! `Q4_1` of ggml: 32 codes of 4 bits behind their scale and the least of them, both F16.
//! `value = q d + m`, rounded once.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::{halves, part};

#[derive(Debug)]
pub struct Q4_1;

impl Format<32, 20> for Q4_1 {
    const NAME: &'static str = "Q4_1";

    #[inline(always)]
    fn decode(block: &[u8; 20], out: &mut [f32; 32]) {
        let (d, m) = (half(block, 0), half(block, 2));
        for (value, q) in out.iter_mut().zip(halves(part(block, 4))) {
            *value = f32::from(q) * d + m;
        }
    }
}
