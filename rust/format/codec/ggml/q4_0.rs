//! `Q4_0` of ggml: 32 codes of 4 bits behind their scale, an F16. `value = (q - 8) d`.
//!
//! To write, `d = x / -8` of the `x` of the largest magnitude, in f32, and `q = floor(x (1 / d) + 8.5)`, at
//! most 15; `d` is stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Each, Format, Numbers, put_halves};
use super::codes::{nibbles, part, put_nibbles};
use super::levels::around_zero;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q4_0;

impl Format<32, 18> for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const OVERFLOW: Option<f32> = Some(8.0 * Float::F16.overflow());
    const RANGED: bool = true;

    #[inline(always)]
    fn decode(block: &[u8; 18], d: f32, out: &mut [f32; 32]) {
        for (value, q) in out.iter_mut().zip(nibbles(part(block, 2))) {
            *value = f32::from(q.cast_signed() - 8) * d;
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<32>, blocks: &mut Each<[u8; 18]>) -> Each<bool> {
        let levels = around_zero(from, 8.0);
        for (block, codes) in blocks.iter_mut().zip(&levels.codes) {
            put_nibbles(codes, &mut block[2..]);
        }
        put_halves(blocks, 0, &levels.scales)
    }
}
