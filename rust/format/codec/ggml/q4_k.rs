//! `Q4_K` of ggml: 256 codes of 4 bits. Each 32 of them share a scale and an offset of 6 bits; a scale
//! of the scales and one of the offsets stand first, both F16.
//!
//! `value = (d s) q - (e m)`, rounded once.

#![allow(clippy::inline_always)]

use super::block::{Each, Format, Numbers, half, put_pairs};
use super::codes::part;
use super::search::{LANES, Trials};
use super::six_bits::{pack, unpack};
use super::with_offsets::parts;
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q4K;

impl Format<256, 144> for Q4K {
    const NAME: &'static str = "Q4_K";
    // Of an offset, which is of the smallest number; the largest may be 15 scales above it.
    const OVERFLOW: Option<f32> = Some(63.0 * Float::F16.overflow());

    #[inline(always)]
    fn decode(block: &[u8; 144], d: f32, out: &mut [f32; 256]) {
        let e = half(block, 2);
        let (scales, offsets) = unpack(part(block, 4));
        let (groups, _) = out.as_chunks_mut::<32>();
        for (at, out) in groups.iter_mut().enumerate() {
            let (scale, offset) = (d * f32::from(scales[at]), e * f32::from(offsets[at]));
            let mut codes: [u8; 32] = *part(block, 16 + at / 2 * 32);
            for code in &mut codes {
                *code = *code >> (at % 2 * 4) & 15;
            }
            for (value, q) in out.iter_mut().zip(codes) {
                *value = scale * f32::from(q) - offset;
            }
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<256>, blocks: &mut Each<[u8; 144]>) -> Each<bool> {
        let parts = parts(from.values, Trials { top: 15, first: -1.0, steps: 20 });
        for (at, block) in blocks.iter_mut().enumerate() {
            block[4..16].copy_from_slice(&pack(&parts.scales[at], &parts.offsets[at]));
            put_codes(&parts.codes, at * 8, block);
        }
        put_pairs(blocks, &parts.d, &parts.e)
    }
}

/// The codes of the block whose first group is in a lane.
#[inline(always)]
fn put_codes(codes: &[[u8; LANES]; 32], first: usize, block: &mut [u8; 144]) {
    for (i, codes) in codes.iter().enumerate() {
        let codes: [u8; 8] = *part(codes, first);
        for pair in 0..4 {
            block[16 + pair * 32 + i] = codes[2 * pair] | codes[2 * pair + 1] << 4;
        }
    }
}
