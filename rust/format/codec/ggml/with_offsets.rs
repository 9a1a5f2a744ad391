//! How `Q4_K` and `Q5_K` are written: scale and offset of every group of 32 are searched for, rounded to
//! 6 bits of the largest of the block, and the codes follow from what is then stored.

#![allow(clippy::inline_always)]

use super::block::{HUGE, stored};
use super::search::{Groups, Lanes, Trials, nearest, search};

/// A block, not yet in bytes.
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

/// Rounds finite numbers.
#[inline(always)]
pub fn parts(values: &[f32; 256], trials: Trials) -> Parts {
    let mut x: Groups = [[0.0; 8]; 32];
    for (i, row) in x.iter_mut().enumerate() {
        for (group, x) in row.iter_mut().enumerate() {
            *x = values[group * 32 + i].clamp(-HUGE, HUGE);
        }
    }
    let best = search(&x, trials);
    let mut below = [0.0; 8];
    for lane in 0..8 {
        below[lane] = -best.offset[lane];
    }
    let (d, scales) = six_bits(&best.scale);
    let (e, offsets) = six_bits(&below);
    let (mut scale, mut offset) = ([0.0; 8], [0.0; 8]);
    for lane in 0..8 {
        scale[lane] = stored(d) * f32::from(scales[lane]);
        offset[lane] = stored(e) * f32::from(offsets[lane]);
    }
    let mut codes = [[0; 8]; 32];
    for (row, codes) in x.iter().zip(&mut codes) {
        for lane in 0..8 {
            let (x, searched) = (row[lane], best.code(lane, row[lane], trials.top));
            let code = nearest((x + offset[lane]) / scale[lane]).clamp(0, trials.top);
            // A scale that is stored as 0 leaves the codes of the search, as ggml does.
            codes[lane] = if scale[lane] == 0.0 { searched } else { code } as u8;
        }
    }
    Parts { d, e, scales, offsets, codes }
}

/// The scale under which the largest of eight is 63, and what they are under it.
#[inline(always)]
fn six_bits(of: &Lanes) -> (f32, [u8; 8]) {
    let largest = of.iter().fold(0.0, |largest: f32, x| if *x > largest { *x } else { largest });
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    // One below 0 wraps around to 63, as in ggml.
    (largest / 63.0, of.map(|x| (nearest(inverse * x) as u8).min(63)))
}
