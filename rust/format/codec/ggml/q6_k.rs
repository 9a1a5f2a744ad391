//! `Q6_K` of ggml: 256 codes of 6 bits, the low four of each in front of the high two. Each 16 of them
//! share a scale, a signed byte; the scale of the scales stands last, an F16.
//!
//! `value = (d s) (q - 32)`.
//!
//! To write, the scale of every group is searched for and rounded to a byte under the largest of them,
//! which is -128, and the codes follow from what is then stored.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::block::{Each, Format, HUGE, Numbers, TOGETHER, put_halves, stored};
use super::codes::part;
use super::search::nearest;
use super::signed_search::{Groups, LANES, Lanes, NOTHING, search};
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q6K;

impl Format<256, 210> for Q6K {
    const NAME: &'static str = "Q6_K";
    const OVERFLOW: Option<f32> = Some(32.0 * 128.0 * Float::F16.overflow());
    const SCALE: usize = 208;

    #[inline(always)]
    fn decode(block: &[u8; 210], d: f32, out: &mut [f32; 256]) {
        let scales: &[u8; 16] = part(block, 192);
        let (groups, _) = out.as_chunks_mut::<16>();
        for (at, (out, scale)) in groups.iter_mut().zip(scales).enumerate() {
            // Of 128 codes the low bits are in 64 bytes, the high bits in 32.
            let (half, quarter, odd) = (at / 8, at / 2 % 4, at % 2);
            let mut codes: [u8; 16] = *part(block, half * 64 + quarter % 2 * 32 + odd * 16);
            let high: [u8; 16] = *part(block, 128 + half * 32 + odd * 16);
            for (code, high) in codes.iter_mut().zip(high) {
                *code = *code >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
            }
            let scale = d * f32::from(scale.cast_signed());
            for (value, q) in out.iter_mut().zip(codes) {
                *value = scale * f32::from(q.cast_signed() - 32);
            }
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<256>, blocks: &mut Each<[u8; 210]>) -> Each<bool> {
        let mut x: Groups = [[0.0; LANES]; 16];
        for (block, values) in from.values.iter().enumerate() {
            for (i, value) in values.iter().enumerate() {
                x[i % 16][block * 16 + i / 16] = value.clamp(-HUGE, HUGE);
            }
        }
        let best = search(&x);
        let (mut d, mut scale) = ([0.0; TOGETHER], [0.0; LANES]);
        for (at, block) in blocks.iter_mut().enumerate() {
            d[at] = put_scales(&best.scale, at * 16, block, &mut scale);
        }
        let fits = put_halves(blocks, 208, &d);
        let mut codes = [[0; LANES]; 16];
        for (row, codes) in x.iter().zip(&mut codes) {
            for lane in 0..LANES {
                let code = nearest(row[lane] / scale[lane]).clamp(-32, 31);
                codes[lane] = ((code + 32) as i8).cast_unsigned();
            }
        }
        for lane in (0..LANES).filter(|lane| scale[*lane] == 0.0) {
            // A scale that is stored as 0 leaves the codes of the search, as in ggml.
            for (row, codes) in x.iter().zip(&mut codes) {
                codes[lane] = ((best.code(lane, row[lane]) + 32) as i8).cast_unsigned();
            }
        }
        for (at, block) in blocks.iter_mut().enumerate() {
            let first = at * 16;
            if extreme(&best.scale[first..first + 16]).abs() < NOTHING {
                block.fill(0);
            } else {
                put_codes(&codes, first, block);
            }
        }
        fits
    }
}

/// The first of the largest magnitude.
#[inline(always)]
fn extreme(scales: &[f32]) -> f32 {
    scales.iter().fold(0.0, |extreme: f32, x| if x.abs() > extreme.abs() { *x } else { extreme })
}

/// Writes the scales of the block whose first group is in a lane, and what they are as they will be read.
#[inline(always)]
fn put_scales(searched: &Lanes, first: usize, block: &mut [u8; 210], scale: &mut Lanes) -> f32 {
    let of = &searched[first..first + 16];
    let inverse = -128.0 / extreme(of);
    let d = 1.0 / inverse;
    for (group, searched) in of.iter().enumerate() {
        let whole = nearest(inverse * searched).min(127) as i8;
        block[192 + group] = whole.cast_unsigned();
        scale[first + group] = stored(d) * f32::from(whole);
    }
    d
}

/// The codes of the block whose first group is in a lane: of 128 the low bits in 64 bytes.
#[inline(always)]
fn put_codes(codes: &[[u8; LANES]; 16], first: usize, block: &mut [u8; 210]) {
    let code = |i: usize| codes[i % 16][first + i / 16];
    for half in 0..2 {
        for i in 0..32 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|quarter| code(half * 128 + quarter * 32 + i));
            block[half * 64 + i] = a & 15 | c << 4;
            block[half * 64 + 32 + i] = b & 15 | d << 4;
            block[128 + half * 32 + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
}
