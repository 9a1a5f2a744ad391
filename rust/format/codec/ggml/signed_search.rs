//! The scale of each of the sixteen groups of 16 in a block of `Q6_K`: that of many tried which leaves
//! the least weighted square error.
//!
//! The formulas are those of ggml's `make_qx_quants` with weights `x^2`, and every sum is formed in its
//! order, over the elements of a group from the first on, in f32. The sixteen groups stand beside each
//! other, one in each lane.

#![allow(clippy::inline_always)]

use super::search::nearest;

/// One of each group.
pub type Lanes = [f32; 16];

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
    let (mut largest, mut extreme) = ([0.0; 16], [0.0; 16]);
    for row in x {
        for lane in 0..16 {
            let beyond = row[lane].abs() > largest[lane];
            extreme[lane] = if beyond { row[lane] } else { extreme[lane] };
            largest[lane] = if beyond { row[lane].abs() } else { largest[lane] };
        }
    }
    let mut best = Best { scale: [0.0; 16], largest, inverse: [0.0; 16], gain: [0.0; 16] };
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let levels = -(HALF as f32 + 0.1 * step as f32);
        attempt(x, &extreme, (levels, step == 0), &mut best);
    }
    for lane in 0..16 {
        let nothing = largest[lane] < NOTHING;
        best.scale[lane] = if nothing { 0.0 } else { best.scale[lane] };
    }
    best
}

/// Codes at another spacing, the scale that fits them best, by least squares, and whether it is better;
/// the first is taken.
#[inline(always)]
fn attempt(x: &Groups, extreme: &Lanes, (levels, first): (f32, bool), best: &mut Best) {
    let mut inverse = [0.0; 16];
    for lane in 0..16 {
        inverse[lane] = levels / extreme[lane];
    }
    let (mut sum_xl, mut sum_l2) = ([0.0; 16], [0.0; 16]);
    for row in x {
        for lane in 0..16 {
            let x = row[lane];
            let code = code(x, inverse[lane]) as f32;
            let weight = x * x;
            sum_xl[lane] += weight * x * code;
            sum_l2[lane] += weight * code * code;
        }
    }
    for lane in 0..16 {
        let (xl, l2) = (sum_xl[lane], sum_l2[lane]);
        let better = first || l2 > 0.0 && xl * xl > best.gain[lane] * l2;
        let scale = if l2 == 0.0 { 0.0 } else { xl / l2 };
        best.inverse[lane] = if better { inverse[lane] } else { best.inverse[lane] };
        best.scale[lane] = if better { scale } else { best.scale[lane] };
        best.gain[lane] = if better { scale * xl } else { best.gain[lane] };
    }
}
