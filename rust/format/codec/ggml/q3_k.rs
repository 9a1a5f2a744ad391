//! `Q3_K` of ggml: 256 codes of 3 bits, their high bits in front of the others. Each 16 of them share
//! a scale of 6 bits; the scale of the scales stands last, an F16.
//!
//! `value = (d (s - 32)) (q - 4)`.

#![allow(clippy::inline_always)]

use super::block::Format;
use super::codes::part;

#[derive(Debug)]
pub struct Q3K;

impl Format<256, 110> for Q3K {
    const NAME: &'static str = "Q3_K";
    const SCALE: usize = 108;

    #[inline(always)]
    fn decode(block: &[u8; 110], d: f32, out: &mut [f32; 256]) {
        let scales = scales(part(block, 96));
        let (groups, _) = out.as_chunks_mut::<16>();
        for (at, (out, scale)) in groups.iter_mut().zip(scales).enumerate() {
            // Of 128 codes the low bits are in 32 bytes; the high bits of 32 are those at the same place of
            // as many bytes.
            let (half, quarter, odd) = (at / 8, at / 2 % 4, at % 2);
            let mut codes: [u8; 16] = *part(block, 32 + half * 32 + odd * 16);
            let high: [u8; 16] = *part(block, odd * 16);
            for (code, high) in codes.iter_mut().zip(high) {
                *code = *code >> (quarter * 2) & 3 | (high >> (at / 2) & 1) << 2;
            }
            let scale = d * f32::from(scale);
            for (value, q) in out.iter_mut().zip(codes) {
                *value = scale * f32::from(q.cast_signed() - 4);
            }
        }
    }
}

/// Sixteen of 6 bits: the low four in the halves of eight bytes, the high two in the quarters of four.
#[inline(always)]
fn scales(bytes: &[u8; 12]) -> [i8; 16] {
    let mut scales = [0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        let low = bytes[i % 8] >> (i / 8 * 4) & 15;
        let high = bytes[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = (low | high << 4).cast_signed() - 32;
    }
    scales
}
