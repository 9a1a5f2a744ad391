//! How `Q4_K` and `Q5_K` are written: scale and offset of every group of 32 are searched for, rounded to
//! 6 bits of the largest of the block, and the codes follow from what is then stored.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::block::{HUGE, TOGETHER, stored};
use super::search::{Best, Groups, LANES, Trials, nearest, search};

/// A block, not yet in bytes.
#[derive(Clone, Copy)]
pub struct Parts {
    /// The scale of the scales and that of the offsets, not yet F16.
    pub d: f32,
    pub e: f32,
    /// Of 6 bits.
    pub scales: [u8; 8],
    pub offsets: [u8; 8],
    /// The first of every group, then the second.
    pub codes: [[u8; 8]; 32],
}

/// Rounds the numbers of some blocks; there are as many parts as can be.
#[inline(always)]
pub fn parts(values: &[[f32; 256]], trials: Trials) -> [Parts; TOGETHER] {
    let mut x: Groups = [[0.0; LANES]; 32];
    for (block, values) in values.iter().enumerate() {
        for (i, value) in values.iter().enumerate() {
            x[i % 32][block * 8 + i / 32] = value.clamp(-HUGE, HUGE);
        }
    }
    let best = search(&x, trials);
    let none = Parts { d: 0.0, e: 0.0, scales: [0; 8], offsets: [0; 8], codes: [[0; 8]; 32] };
    let mut parts = [none; TOGETHER];
    let (mut scale, mut offset) = ([0.0; LANES], [0.0; LANES]);
    for (block, parts) in parts.iter_mut().enumerate() {
        let lane = |group: usize| block * 8 + group;
        (parts.d, parts.scales) = six_bits(|group| best.scale[lane(group)]);
        (parts.e, parts.offsets) = six_bits(|group| -best.offset[lane(group)]);
        for group in 0..8 {
            scale[lane(group)] = stored(parts.d) * f32::from(parts.scales[group]);
            offset[lane(group)] = stored(parts.e) * f32::from(parts.offsets[group]);
        }
    }
    let mut codes = [[0; LANES]; 32];
    for (row, codes) in x.iter().zip(&mut codes) {
        for lane in 0..LANES {
            let code = nearest((row[lane] + offset[lane]) / scale[lane]);
            codes[lane] = code.clamp(0, trials.top) as u8;
        }
    }
    keep_unscaled(&x, &scale, (&best, trials.top), &mut codes);
    for (block, parts) in parts.iter_mut().enumerate() {
        for (part, codes) in parts.codes.iter_mut().zip(&codes) {
            part.copy_from_slice(&codes[block * 8..][..8]);
        }
    }
    parts
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
            codes[lane] = best.code(lane, row[lane], top) as u8;
        }
    }
}

/// The scale under which the largest of eight is 63, and what they are under it.
#[inline(always)]
fn six_bits(of: impl Fn(usize) -> f32) -> (f32, [u8; 8]) {
    let larger = |largest: f32, group: usize| if of(group) > largest { of(group) } else { largest };
    let largest = (0..8).fold(0.0, larger);
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    let mut codes = [0; 8];
    for (group, code) in codes.iter_mut().enumerate() {
        // One below 0 wraps around to 63, as in ggml.
        *code = (nearest(inverse * of(group)) as u8).min(63);
    }
    (largest / 63.0, codes)
}
