//! `Q4_1` of ggml: 32 codes of 4 bits behind their scale and the least of them, both F16.
//! `value = q d + m`, rounded once.
//!
//! To write, `m` is the smallest number, `d = (largest - m) / 15` in f32 and
//! `q = floor((x - m) (1 / d) + 0.5)`; both are stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Each, Format, Numbers, half, put_pairs};
use super::codes::{nibbles, part, put_nibbles};
use super::levels::from_smallest;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q4_1;

impl Format<32, 20> for Q4_1 {
    const NAME: &'static str = "Q4_1";
    // Of the smallest number; the largest may be 15 scales above it.
    const OVERFLOW: Option<f32> = Some(Float::F16.overflow());
    const RANGED: bool = true;

    #[inline(always)]
    fn decode(block: &[u8; 20], d: f32, out: &mut [f32; 32]) {
        let m = half(block, 2);
        for (value, q) in out.iter_mut().zip(nibbles(part(block, 4))) {
            *value = f32::from(q) * d + m;
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<32>, blocks: &mut Each<[u8; 20]>) -> Each<bool> {
        let levels = from_smallest(from, 15.0);
        for (block, codes) in blocks.iter_mut().zip(&levels.codes) {
            put_nibbles(codes, &mut block[4..]);
        }
        put_pairs(blocks, &levels.scales, &levels.smallest)
    }
}
