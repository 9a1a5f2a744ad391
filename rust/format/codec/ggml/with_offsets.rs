//! How `Q4_K` and `Q5_K` are written: scale and offset of every group of 32 are searched for, rounded to
//! 6 bits of the largest of the block, and the codes follow from what is then stored.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::block::{Each, HUGE, TOGETHER, stored};
use super::search::{Best, Groups, LANES, Lanes, Trials, nearest, search};

/// Blocks, not yet in bytes.
pub struct Parts {
    /// The scales of the scales and those of the offsets, not yet F16.
    pub d: Each,
    pub e: Each,
    /// Of 6 bits.
    pub scales: Each<[u8; 8]>,
    pub offsets: Each<[u8; 8]>,
    /// The first of every group, then the second.
    pub codes: [[u8; LANES]; 32],
}

/// Rounds numbers.
#[inline(always)]
pub fn parts(values: &Each<[f32; 256]>, trials: Trials) -> Parts {
    let mut x: Groups = [[0.0; LANES]; 32];
    for (block, values) in values.iter().enumerate() {
        for (i, value) in values.iter().enumerate() {
            x[i % 32][block * 8 + i / 32] = value.clamp(-HUGE, HUGE);
        }
    }
    let best = search(&x, trials);
    let mut below = [0.0; LANES];
    for lane in 0..LANES {
        below[lane] = -best.offset[lane];
    }
    let (d, scales, scale) = six_bits(&best.scale);
    let (e, offsets, offset) = six_bits(&below);
    let mut codes = [[0; LANES]; 32];
    for (row, codes) in x.iter().zip(&mut codes) {
        for lane in 0..LANES {
            let code = nearest((row[lane] + offset[lane]) / scale[lane]);
            codes[lane] = (code.clamp(0, trials.top) as i8).cast_unsigned();
        }
    }
    keep_unscaled(&x, &scale, (&best, trials.top), &mut codes);
    Parts { d, e, scales, offsets, codes }
}

/// A scale that is stored as 0 leaves the codes of the search, as in ggml.
#[inline(always)]
fn keep_unscaled(
    x: &Groups,
    scale: &[f32; LANES],
    (best, top): (&Best, i32),
    codes: &mut [[u8; LANES]; 32],
) {
    for lane in (0..LANES).filter(|lane| scale[*lane] == 0.0) {
        for (row, codes) in x.iter().zip(&mut *codes) {
            codes[lane] = (best.code(lane, row[lane], top) as i8).cast_unsigned();
        }
    }
}

/// The scale under which the largest of the eight of a block is 63, what they are under it, and what all
/// come to when they are read.
#[inline(always)]
fn six_bits(of: &Lanes) -> (Each, Each<[u8; 8]>, Lanes) {
    let (mut scales, mut codes) = ([0.0; TOGETHER], [[0; 8]; TOGETHER]);
    let mut read = [0.0; LANES];
    for block in 0..TOGETHER {
        let mut largest = 0.0;
        for lane in block * 8..block * 8 + 8 {
            largest = if of[lane] > largest { of[lane] } else { largest };
        }
        let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        scales[block] = largest / 63.0;
        for group in 0..8 {
            // One below 0 wraps around to 63, as in ggml.
            let code = (nearest(inverse * of[block * 8 + group]) as i8).cast_unsigned().min(63);
            codes[block][group] = code;
            read[block * 8 + group] = stored(scales[block]) * f32::from(code);
        }
    }
    (scales, codes, read)
}
