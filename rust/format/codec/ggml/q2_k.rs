//! `Q2_K` of ggml: 256 codes of 2 bits. Each 16 of them share a scale and an offset of 4 bits, in one
//! byte; a scale of the scales and one of the offsets stand last, both F16.
//!
//! `value = (d s) q - (e m)`, rounded once.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::{part, quarters};

#[derive(Debug)]
pub struct Q2K;

impl Format<256, 84> for Q2K {
    const NAME: &'static str = "Q2_K";

    #[inline(always)]
    fn decode(block: &[u8; 84], out: &mut [f32; 256]) {
        let (d, e) = (half(block, 80), half(block, 82));
        let codes = quarters(part(block, 16));
        let (groups, _) = out.as_chunks_mut::<16>();
        let (codes, _) = codes.as_chunks::<16>();
        for ((out, codes), pair) in groups.iter_mut().zip(codes).zip(&block[..16]) {
            let (scale, offset) = (d * f32::from(pair & 15), e * f32::from(pair >> 4));
            for (value, q) in out.iter_mut().zip(codes) {
                *value = scale * f32::from(*q) - offset;
            }
        }
    }
}
