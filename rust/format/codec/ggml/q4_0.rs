//! `Q4_0` of ggml: 32 codes of 4 bits behind their scale, an F16. `value = (q - 8) d`.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::{halves, part};

#[derive(Debug)]
pub struct Q4_0;

impl Format<32, 18> for Q4_0 {
    const NAME: &'static str = "Q4_0";

    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; 32]) {
        let d = half(block, 0);
        for (value, q) in out.iter_mut().zip(halves(part(block, 2))) {
            *value = f32::from(q.cast_signed() - 8) * d;
        }
    }
}
