//! `Q5_1` of ggml: 32 codes of 5 bits behind their scale and the least of them, both F16, their fifth
//! bits in front of the others. `value = q d + m`, rounded once.
//!
//! To write, `m` is the smallest number, `d = (largest - m) / 31` in f32 and
//! `q = floor((x - m) (1 / d) + 0.5)`; both are stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Format, From, TOGETHER, half, put_half};
use super::codes::{fifths, halves, part, put_fifths, put_halves};
use super::levels::from_smallest;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q5_1;

impl Format<32, 24> for Q5_1 {
    const NAME: &'static str = "Q5_1";
    // Of the smallest number; the largest may be 31 scales above it.
    const OVERFLOW: Option<f32> = Some(Float::F16.overflow());

    #[inline(always)]
    fn decode(block: &[u8; 24], out: &mut [f32; 32]) {
        let (d, m) = (half(block, 0), half(block, 2));
        let (low, high) = (halves(part(block, 8)), fifths(*part(block, 4)));
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            *value = f32::from(low | high) * d + m;
        }
    }

    #[inline(always)]
    fn encode(from: From<32>, blocks: &mut [[u8; 24]]) -> [bool; TOGETHER] {
        from.each(blocks, |values, _, block| {
            let (d, m, codes) = from_smallest(values, 31.0);
            put_fifths(&codes, &mut block[4..]);
            put_halves(&codes, &mut block[8..]);
            put_half(block, 0, d) & put_half(block, 2, m)
        })
    }
}
