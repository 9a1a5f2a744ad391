//! The scale and the offset of each of the eight groups of 32 in a block of `Q4_K` or `Q5_K`: those of
//! many tried that leave the least weighted square error.
//!
//! The formulas are those of ggml's `make_qkx2_quants`, and every sum is formed in its order, over the
//! elements of a group from the first on, in f32: the last bit of an error decides which codes win. So
//! the groups of several blocks stand beside each other, one in each lane.

#![allow(clippy::inline_always, clippy::needless_range_loop)]
#![allow(clippy::needless_bitwise_bool)] // lanes without branches
#![allow(clippy::similar_names)] // as sums are written

use super::block::TOGETHER;

/// Groups of as many blocks as are written together.
pub const LANES: usize = 8 * TOGETHER;

/// One of each group.
pub type Lanes = [f32; LANES];

/// The elements of all groups, in order.
pub type Groups = [Lanes; 32];

/// What is tried: `top + first + 0.1 k` levels over the range of a group, for `k` up to `steps`.
#[derive(Clone, Copy)]
pub struct Trials {
    /// The largest code.
    pub top: i32,
    pub first: f32,
    pub steps: u8,
}

/// The best that was found: `value = scale * code + offset`.
pub struct Best {
    pub scale: Lanes,
    pub offset: Lanes,
    /// Its codes are `nearest((x - from) * inverse)`.
    inverse: Lanes,
    from: Lanes,
    error: Lanes,
}

impl Best {
    /// The code of an element of a group under what was found.
    #[inline(always)]
    pub fn code(&self, lane: usize, x: f32, top: i32) -> i32 {
        nearest((x - self.from[lane]) * self.inverse[lane]).clamp(0, top)
    }
}

/// To the nearest whole number, ties to even, for magnitudes below 2^22; of others what is left in the
/// low bits, as in ggml. 0 of a NaN.
#[inline(always)]
pub fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x7F_FFFF).cast_signed() - 0x40_0000
}

/// A group's weights, and its sums under them.
struct Weighted<'a> {
    x: &'a Groups,
    weights: Groups,
    sum_w: Lanes,
    sum_x: Lanes,
}

impl<'a> Weighted<'a> {
    /// `w = |x| + rms`.
    #[inline(always)]
    fn new(x: &'a Groups) -> Self {
        let (mut squares, mut rms) = ([0.0; LANES], [0.0; LANES]);
        for row in x {
            for lane in 0..LANES {
                squares[lane] += row[lane] * row[lane];
            }
        }
        for lane in 0..LANES {
            rms[lane] = (squares[lane] / 32.0).sqrt();
        }
        let (mut weights, mut sum_w, mut sum_x) = ([[0.0; LANES]; 32], [0.0; LANES], [0.0; LANES]);
        for (row, weights) in x.iter().zip(&mut weights) {
            for lane in 0..LANES {
                let w = rms[lane] + row[lane].abs();
                weights[lane] = w;
                sum_w[lane] += w;
                sum_x[lane] += w * row[lane];
            }
        }
        Self { x, weights, sum_w, sum_x }
    }

    /// The error of `scale * code + offset`.
    #[inline(always)]
    fn error(&self, codes: &Groups, scale: &Lanes, offset: &Lanes) -> Lanes {
        let mut error = [0.0; LANES];
        for ((row, weights), codes) in self.x.iter().zip(&self.weights).zip(codes) {
            for lane in 0..LANES {
                let apart = scale[lane] * codes[lane] + offset[lane] - row[lane];
                error[lane] += weights[lane] * (apart * apart);
            }
        }
        error
    }
}

/// Searches all groups.
#[inline(always)]
pub fn search(x: &Groups, trials: Trials) -> Best {
    let of = Weighted::new(x);
    let (mut low, mut high) = (x[0], x[0]);
    for row in &x[1..] {
        for lane in 0..LANES {
            low[lane] = if row[lane] < low[lane] { row[lane] } else { low[lane] };
            high[lane] = if row[lane] > high[lane] { row[lane] } else { high[lane] };
        }
    }
    let mut codes = [[0.0; LANES]; 32];
    let mut best = start(&of, &low, &high, trials.top, &mut codes);
    for step in 0..=trials.steps {
        let levels = trials.first + 0.1 * f32::from(step) + trials.top as f32;
        attempt(&of, &high, levels, trials.top, &mut codes, &mut best);
    }
    best
}

/// Levels from the smallest number, or 0 if that is less, to the largest.
#[inline(always)]
fn start(of: &Weighted, low: &Lanes, high: &Lanes, top: i32, codes: &mut Groups) -> Best {
    let mut best = Best {
        scale: [0.0; LANES],
        offset: [0.0; LANES],
        inverse: [0.0; LANES],
        from: [0.0; LANES],
        error: [0.0; LANES],
    };
    for lane in 0..LANES {
        // Of equal numbers, none of which is above 0, the scale comes to 0 and every code too.
        let low = if low[lane] > 0.0 { 0.0 } else { low[lane] };
        let inverse = top as f32 / (high[lane] - low);
        (best.inverse[lane], best.from[lane]) = (inverse, low);
        (best.scale[lane], best.offset[lane]) = (1.0 / inverse, low);
    }
    for (row, codes) in of.x.iter().zip(&mut *codes) {
        for lane in 0..LANES {
            codes[lane] = best.code(lane, row[lane], top) as f32;
        }
    }
    best.error = of.error(codes, &best.scale, &best.offset);
    best
}

/// Codes at another spacing, from the best offset so far; scale and offset that fit them best, by least
/// squares; and whether those are better.
#[inline(always)]
fn attempt(
    of: &Weighted,
    high: &Lanes,
    levels: f32,
    top: i32,
    codes: &mut Groups,
    best: &mut Best,
) {
    let mut inverse = [0.0; LANES];
    for lane in 0..LANES {
        inverse[lane] = levels / (high[lane] - best.offset[lane]);
    }
    let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for ((row, weights), codes) in of.x.iter().zip(&of.weights).zip(&mut *codes) {
        for lane in 0..LANES {
            let x = row[lane];
            let code = nearest((x - best.offset[lane]) * inverse[lane]).clamp(0, top) as f32;
            codes[lane] = code;
            let weighted = weights[lane] * code;
            sum_l[lane] += weighted;
            sum_l2[lane] += weighted * code;
            sum_xl[lane] += weighted * x;
        }
    }
    let (mut scale, mut offset, mut determinant) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let (l, l2, xl) = (sum_l[lane], sum_l2[lane], sum_xl[lane]);
        let (w, x) = (of.sum_w[lane], of.sum_x[lane]);
        determinant[lane] = w * l2 - l * l;
        let free = [(w * xl - x * l) / determinant[lane], (l2 * x - l * xl) / determinant[lane]];
        let fixed = xl / l2;
        scale[lane] = if free[1] > 0.0 { fixed } else { free[0] };
        offset[lane] = if free[1] > 0.0 { 0.0 } else { free[1] };
    }
    let error = of.error(codes, &scale, &offset);
    let mut better = [0; LANES];
    for lane in 0..LANES {
        let holds = (determinant[lane] > 0.0) & (error[lane] < best.error[lane]);
        better[lane] = if holds { u32::MAX } else { 0 };
    }
    replace(&mut best.inverse, &inverse, &better);
    replace(&mut best.from, &best.offset, &better);
    replace(&mut best.error, &error, &better);
    replace(&mut best.scale, &scale, &better);
    replace(&mut best.offset, &offset, &better);
}

/// Takes the lanes of another whose mask is all ones. Not by `if`: that would be a branch for each lane.
#[inline(always)]
pub fn replace<const N: usize>(of: &mut [f32; N], by: &[f32; N], mask: &[u32; N]) {
    for lane in 0..N {
        let bits = by[lane].to_bits() & mask[lane] | of[lane].to_bits() & !mask[lane];
        of[lane] = f32::from_bits(bits);
    }
}
