//! `Q3_K` of ggml: 256 codes of 3 bits, their high bits in front of the others. Each 16 of them share
//! a scale of 6 bits; the scale of the scales stands last, an F16.
//!
//! `value = (d (s - 32)) (q - 4)`.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::{part, quarters};

#[derive(Debug)]
pub struct Q3K;

impl Format<256, 110> for Q3K {
    const NAME: &'static str = "Q3_K";

    #[inline(always)]
    fn decode(block: &[u8; 110], out: &mut [f32; 256]) {
        let d = half(block, 108);
        let scales = scales(part(block, 96));
        let (low, high): (_, &[u8; 32]) = (quarters(part(block, 32)), part(block, 0));
        let (groups, _) = out.as_chunks_mut::<32>();
        let (low, _) = low.as_chunks::<32>();
        for (at, (out, low)) in groups.iter_mut().zip(low).enumerate() {
            // The high bits of the eight groups of 32 are the eight bits of as many bytes.
            for (i, ((value, low), high)) in out.iter_mut().zip(low).zip(high).enumerate() {
                let scale = d * f32::from(scales[2 * at + i / 16]);
                let q = low | (high >> at & 1) << 2;
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
