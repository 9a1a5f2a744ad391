//! The scale of each of the sixteen groups of 16 in a block of `Q6_K`: that of many tried which leaves
//! the least weighted square error.
//!
//! The formulas are those of ggml's `make_qx_quants` with weights `x^2`, and every sum is formed in its
//! order, over the elements of a group from the first on, in f32. The groups of several blocks stand
//! beside each other, one in each lane.

#![allow(clippy::inline_always, clippy::needless_range_loop)]
#![allow(clippy::needless_bitwise_bool)] // lanes without branches

use super::block::TOGETHER;
use super::search::{nearest, replace};

/// Groups of as many blocks as are written together.
pub const LANES: usize = 16 * TOGETHER;

/// One of each group.
pub type Lanes = [f32; LANES];

/// The elements of all groups, in order.
pub type Groups = [Lanes; 16];

/// Codes go from `-HALF` to `HALF - 1`.
const HALF: i32 = 32;

/// A group without anything as large has the scale 0 (ggml's `GROUP_MAX_EPS`).
pub const NOTHING: f32 = 1e-15;

/// The best that was found: `value = scale * code`.
pub struct Best {
    pub scale: Lanes,
    largest: Lanes,
    /// Its codes are `nearest(x * inverse)`.
    inverse: Lanes,
    /// `sum(w x code)^2 / sum(w code^2)`: the greater, the less error is left.
    gain: Lanes,
}

impl Best {
    /// The code of an element of a group under what was found; the lowest of nothing, as in ggml.
    #[inline(always)]
    pub fn code(&self, lane: usize, x: f32) -> i32 {
        let nothing = self.largest[lane] < NOTHING;
        if nothing { -HALF } else { code(x, self.inverse[lane]) }
    }
}

#[inline(always)]
fn code(x: f32, inverse: f32) -> i32 {
    nearest(x * inverse).clamp(-HALF, HALF - 1)
}

/// Searches all groups.
#[inline(always)]
pub fn search(x: &Groups) -> Best {
    let (mut largest, mut extreme) = ([0.0; LANES], [0.0; LANES]);
    for row in x {
        for lane in 0..LANES {
            let beyond = row[lane].abs() > largest[lane];
            extreme[lane] = if beyond { row[lane] } else { extreme[lane] };
            largest[lane] = if beyond { row[lane].abs() } else { largest[lane] };
        }
    }
    let mut best = Best { scale: [0.0; LANES], largest, inverse: [0.0; LANES], gain: [0.0; LANES] };
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let levels = -(HALF as f32 + 0.1 * step as f32);
        attempt(x, &extreme, (levels, step == 0), &mut best);
    }
    for lane in 0..LANES {
        let nothing = largest[lane] < NOTHING;
        best.scale[lane] = if nothing { 0.0 } else { best.scale[lane] };
    }
    best
}

/// Codes at another spacing, the scale that fits them best, by least squares, and whether it is better;
/// the first is taken.
#[inline(always)]
fn attempt(x: &Groups, extreme: &Lanes, (levels, first): (f32, bool), best: &mut Best) {
    let mut inverse = [0.0; LANES];
    for lane in 0..LANES {
        inverse[lane] = levels / extreme[lane];
    }
    let (mut sum_xl, mut sum_l2) = ([0.0; LANES], [0.0; LANES]);
    for row in x {
        for lane in 0..LANES {
            let x = row[lane];
            let code = code(x, inverse[lane]) as f32;
            let weight = x * x;
            sum_xl[lane] += weight * x * code;
            sum_l2[lane] += weight * code * code;
        }
    }
    let (mut scale, mut gain, mut better) = ([0.0; LANES], [0.0; LANES], [0; LANES]);
    for lane in 0..LANES {
        let (xl, l2) = (sum_xl[lane], sum_l2[lane]);
        let holds = first | ((l2 > 0.0) & (xl * xl > best.gain[lane] * l2));
        let quotient = xl / l2;
        scale[lane] = if l2 == 0.0 { 0.0 } else { quotient };
        gain[lane] = scale[lane] * xl;
        better[lane] = if holds { u32::MAX } else { 0 };
    }
    replace(&mut best.inverse, &inverse, &better);
    replace(&mut best.scale, &scale, &better);
    replace(&mut best.gain, &gain, &better);
}
