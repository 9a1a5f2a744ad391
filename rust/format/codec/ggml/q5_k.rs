//! `Q5_K` of ggml: 256 codes of 5 bits, their fifth bits in front of the others. Each 32 of them share
//! a scale and an offset of 6 bits; a scale of the scales and one of the offsets stand first, both F16.
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
pub struct Q5K;

impl Format<256, 176> for Q5K {
    const NAME: &'static str = "Q5_K";
    // Of an offset, which is of the smallest number; the largest may be 31 scales above it.
    const OVERFLOW: Option<f32> = Some(63.0 * Float::F16.overflow());

    #[inline(always)]
    fn decode(block: &[u8; 176], d: f32, out: &mut [f32; 256]) {
        let e = half(block, 2);
        let (scales, offsets) = unpack(part(block, 4));
        let fifths: [u8; 32] = *part(block, 16);
        let (groups, _) = out.as_chunks_mut::<32>();
        for (at, out) in groups.iter_mut().enumerate() {
            let (scale, offset) = (d * f32::from(scales[at]), e * f32::from(offsets[at]));
            let mut codes: [u8; 32] = *part(block, 48 + at / 2 * 32);
            for (code, fifth) in codes.iter_mut().zip(fifths) {
                *code = *code >> (at % 2 * 4) & 15 | (fifth >> at & 1) << 4;
            }
            for (value, q) in out.iter_mut().zip(codes) {
                *value = scale * f32::from(q) - offset;
            }
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<256>, blocks: &mut Each<[u8; 176]>) -> Each<bool> {
        let parts = parts(from.values, Trials { top: 31, first: -0.5, steps: 15 });
        for (at, block) in blocks.iter_mut().enumerate() {
            block[4..16].copy_from_slice(&pack(&parts.scales[at], &parts.offsets[at]));
            put_codes(&parts.codes, at * 8, block);
        }
        put_pairs(blocks, &parts.d, &parts.e)
    }
}

/// The codes of the block whose first group is in a lane.
#[inline(always)]
fn put_codes(codes: &[[u8; LANES]; 32], first: usize, block: &mut [u8; 176]) {
    for (i, codes) in codes.iter().enumerate() {
        let codes: [u8; 8] = *part(codes, first);
        let mut fifths = 0;
        for (group, code) in codes.iter().enumerate() {
            fifths |= code >> 4 << group;
        }
        block[16 + i] = fifths;
        for pair in 0..4 {
            block[48 + pair * 32 + i] = codes[2 * pair] & 15 | codes[2 * pair + 1] << 4;
        }
    }
}
