//! `IQ4_NL` and `IQ4_XS` of ggml: codes of 4 bits into one list of levels that lie closer around zero.

#![allow(clippy::inline_always)]

use super::block::Format;
use super::codes::{nibbles, part};

/// ggml's `kvalues_iq4nl`.
const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// 32 codes behind their scale, an F16. `value = d level`.
#[derive(Debug)]
pub struct Iq4Nl;

impl Format<32, 18> for Iq4Nl {
    const NAME: &'static str = "IQ4_NL";

    #[inline(always)]
    fn decode(block: &[u8; 18], d: f32, out: &mut [f32; 32]) {
        for (value, q) in out.iter_mut().zip(nibbles(part(block, 2))) {
            *value = d * LEVELS[usize::from(q)];
        }
    }
}

/// 256 codes. Each 32 of them share a scale of 6 bits, the high two of all in front of the low four;
/// the scale of the scales stands first, an F16. `value = (d (s - 32)) level`.
#[derive(Debug)]
pub struct Iq4Xs;

impl Format<256, 136> for Iq4Xs {
    const NAME: &'static str = "IQ4_XS";

    #[inline(always)]
    fn decode(block: &[u8; 136], d: f32, out: &mut [f32; 256]) {
        let high = u16::from_le_bytes([block[2], block[3]]);
        let (groups, _) = out.as_chunks_mut::<32>();
        for (at, out) in groups.iter_mut().enumerate() {
            let low = block[4 + at / 2] >> (at % 2 * 4) & 15;
            let scale = low | ((high >> (2 * at)) as u8 & 3) << 4;
            let scale = d * f32::from(scale.cast_signed() - 32);
            for (value, q) in out.iter_mut().zip(nibbles(part(block, 8 + at * 16))) {
                *value = scale * LEVELS[usize::from(q)];
            }
        }
    }
}
