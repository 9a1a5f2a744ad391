//! `Q4_K` of ggml: 256 codes of 4 bits. Each 32 of them share a scale and an offset of 6 bits; a scale
//! of the scales and one of the offsets stand first, both F16.
//!
//! `value = (d s) q - (e m)`, rounded once.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::part;
use super::six_bits::unpack;

#[derive(Debug)]
pub struct Q4K;

impl Format<256, 144> for Q4K {
    const NAME: &'static str = "Q4_K";

    #[inline(always)]
    fn decode(block: &[u8; 144], out: &mut [f32; 256]) {
        let (d, e) = (half(block, 0), half(block, 2));
        let (scales, offsets) = unpack(part(block, 4));
        let (groups, _) = out.as_chunks_mut::<32>();
        for (at, out) in groups.iter_mut().enumerate() {
            let (scale, offset) = (d * f32::from(scales[at]), e * f32::from(offsets[at]));
            let codes: &[u8; 32] = part(block, 16 + at / 2 * 32);
            for (value, byte) in out.iter_mut().zip(codes) {
                let q = byte >> (at % 2 * 4) & 15;
                *value = scale * f32::from(q) - offset;
            }
        }
    }
}
