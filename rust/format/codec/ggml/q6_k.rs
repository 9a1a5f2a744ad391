//! `Q6_K` of ggml: 256 codes of 6 bits, the low four of each in front of the high two. Each 16 of them
//! share a scale, a signed byte; the scale of the scales stands last, an F16.
//!
//! `value = (d s) (q - 32)`.

#![allow(clippy::inline_always)]

use super::block::{Format, half};
use super::codes::part;

#[derive(Debug)]
pub struct Q6K;

impl Format<256, 210> for Q6K {
    const NAME: &'static str = "Q6_K";

    #[inline(always)]
    fn decode(block: &[u8; 210], out: &mut [f32; 256]) {
        let d = half(block, 208);
        let scales: &[u8; 16] = part(block, 192);
        let (groups, _) = out.as_chunks_mut::<32>();
        for (at, out) in groups.iter_mut().enumerate() {
            let (half, quarter) = (at / 4, at % 4);
            // 128 codes: low bits in 64 bytes, high bits in 32.
            let low: &[u8; 32] = part(block, half * 64 + quarter % 2 * 32);
            let high: &[u8; 32] = part(block, 128 + half * 32);
            for (i, ((value, low), high)) in out.iter_mut().zip(low).zip(high).enumerate() {
                let q = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
                let scale = d * f32::from(scales[at * 2 + i / 16].cast_signed());
                *value = scale * f32::from(q.cast_signed() - 32);
            }
        }
    }
}
