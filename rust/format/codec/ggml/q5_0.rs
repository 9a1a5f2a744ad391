//! `Q5_0` of ggml: 32 codes of 5 bits behind their scale, an F16, their fifth bits in front of the
//! others. `value = (q - 16) d`.
//!
//! To write, `d = x / -16` of the `x` of the largest magnitude, in f32, and `q = floor(x (1 / d) + 16.5)`, at
//! most 31; `d` is stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Format, From, TOGETHER, half, put_half};
use super::codes::{fifths, halves, part, put_fifths, put_halves};
use super::levels::around_zero;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q5_0;

impl Format<32, 22> for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const OVERFLOW: Option<f32> = Some(16.0 * Float::F16.overflow());

    #[inline(always)]
    fn decode(block: &[u8; 22], out: &mut [f32; 32]) {
        let d = half(block, 0);
        let (low, high) = (halves(part(block, 6)), fifths(*part(block, 2)));
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            *value = f32::from((low | high).cast_signed() - 16) * d;
        }
    }

    #[inline(always)]
    fn encode(from: From<32>, blocks: &mut [[u8; 22]]) -> [bool; TOGETHER] {
        from.each(blocks, |values, largest, block| {
            let (d, codes) = around_zero(values, largest, 16.0);
            put_fifths(&codes, &mut block[2..]);
            put_halves(&codes, &mut block[6..]);
            put_half(block, 0, d)
        })
    }
}
