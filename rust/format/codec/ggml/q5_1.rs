//! `Q5_1` of ggml: 32 codes of 5 bits behind their scale and the least of them, both F16, their fifth
//! bits in front of the others. `value = q d + m`, rounded once.
//!
//! To write, `m` is the smallest number, `d = (largest - m) / 31` in f32 and
//! `q = floor((x - m) (1 / d) + 0.5)`; both are stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Each, Format, Numbers, half, put_pairs};
use super::codes::{fifths, nibbles, part, put_fifths, put_nibbles};
use super::levels::from_smallest;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q5_1;

impl Format<32, 24> for Q5_1 {
    const NAME: &'static str = "Q5_1";
    // Of the smallest number; the largest may be 31 scales above it.
    const OVERFLOW: Option<f32> = Some(Float::F16.overflow());
    const RANGED: bool = true;

    #[inline(always)]
    fn decode(block: &[u8; 24], d: f32, out: &mut [f32; 32]) {
        let m = half(block, 2);
        let (low, high) = (nibbles(part(block, 8)), fifths(*part(block, 4)));
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            *value = f32::from(low | high) * d + m;
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<32>, blocks: &mut Each<[u8; 24]>) -> Each<bool> {
        let levels = from_smallest(from, 31.0);
        for (block, codes) in blocks.iter_mut().zip(&levels.codes) {
            put_fifths(codes, &mut block[4..]);
            put_nibbles(codes, &mut block[8..]);
        }
        put_pairs(blocks, &levels.scales, &levels.smallest)
    }
}
