//! `Q2_K` of ggml: 256 codes of 2 bits. Each 16 of them share a scale and an offset of 4 bits, in one
//! byte; a scale of the scales and one of the offsets stand last, both F16.
//!
//! `value = (d s) q - (e m)`, rounded once.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::part;

#[derive(Debug)]
pub struct Q2K;

impl Format<256, 84> for Q2K {
    const NAME: &'static str = "Q2_K";
    const SCALE: usize = 80;

    #[inline(always)]
    fn decode(block: &[u8; 84], d: f32, out: &mut [f32; 256]) {
        let e = half(block, 82);
        let (groups, _) = out.as_chunks_mut::<16>();
        for (at, (out, pair)) in groups.iter_mut().zip(&block[..16]).enumerate() {
            // 128 codes in 32 bytes: the lowest quarters of all of them, then the next ones.
            let (half, quarter, odd) = (at / 8, at / 2 % 4, at % 2);
            let mut codes: [u8; 16] = *part(block, 16 + half * 32 + odd * 16);
            for code in &mut codes {
                *code = *code >> (quarter * 2) & 3;
            }
            let (scale, offset) = (d * f32::from(pair & 15), e * f32::from(pair >> 4));
            for (value, q) in out.iter_mut().zip(codes) {
                *value = scale * f32::from(q) - offset;
            }
        }
    }
}
