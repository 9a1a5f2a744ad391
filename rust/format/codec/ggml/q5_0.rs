//! `Q5_0` of ggml: 32 codes of 5 bits behind their scale, an F16, their fifth bits in front of the
//! others. `value = (q - 16) d`.
//!
//! To write, `d = x / -16` of the `x` of the largest magnitude, in f32, and `q = floor(x (1 / d) + 16.5)`, at
//! most 31; `d` is stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Each, Format, Numbers, put_halves};
use super::codes::{fifths, nibbles, part, put_fifths, put_nibbles};
use super::levels::around_zero;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q5_0;

impl Format<32, 22> for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const OVERFLOW: Option<f32> = Some(16.0 * Float::F16.overflow());
    const RANGED: bool = true;

    #[inline(always)]
    fn decode(block: &[u8; 22], d: f32, out: &mut [f32; 32]) {
        let (low, high) = (nibbles(part(block, 6)), fifths(*part(block, 2)));
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            *value = f32::from((low | high).cast_signed() - 16) * d;
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<32>, blocks: &mut Each<[u8; 22]>) -> Each<bool> {
        let levels = around_zero(from, 16.0);
        for (block, codes) in blocks.iter_mut().zip(&levels.codes) {
            put_fifths(codes, &mut block[2..]);
            put_nibbles(codes, &mut block[6..]);
        }
        put_halves(blocks, 0, &levels.scales)
    }
}
