//! `Q8_0` of ggml: 32 signed bytes behind their scale, an F16. `value = q d`.
//!
//! To write, `d = largest / 127` in f32 and `q = round(x (1 / d))` with halves away from zero; `d` is
//! stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Format, From, TOGETHER, half, inverse, put_half, saturated};
use super::codes::byte;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q8_0;

impl Format<32, 34> for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const OVERFLOW: Option<f32> = Some(127.0 * Float::F16.overflow());

    #[inline(always)]
    fn decode(block: &[u8; 34], out: &mut [f32; 32]) {
        let d = half(block, 0);
        for (value, q) in out.iter_mut().zip(&block[2..]) {
            *value = f32::from(q.cast_signed()) * d;
        }
    }

    #[inline(always)]
    fn encode(from: From<32>, blocks: &mut [[u8; 34]]) -> [bool; TOGETHER] {
        from.each(blocks, |values, largest, block| {
            let d = largest / 127.0;
            let inverse = inverse(saturated(d));
            for (q, x) in block[2..].iter_mut().zip(values) {
                *q = byte((x * inverse).round().clamp(-127.0, 127.0));
            }
            put_half(block, 0, d)
        })
    }
}
