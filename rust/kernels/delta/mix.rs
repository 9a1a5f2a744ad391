//! The loops of the delta family, compiled for every instruction set.

#![allow(clippy::inline_always)]

use super::mask::Mask;
use super::{Consensus, Delta};
use crate::simd::{BLOCK, Body, LANES, total};

/// Elements that go through the whole formula side by side.
pub(super) const ROW: usize = 16;

/// One value for each element of a row.
type Row = [f32; ROW];

/// The bits of a difference, without its sign.
#[inline(always)]
fn bits(difference: f32) -> i32 {
    (difference.to_bits() & i32::MAX as u32).cast_signed()
}

/// `out = |x - base|`, as bits.
pub(super) struct Magnitudes<'a> {
    pub(super) x: &'a [f32],
    pub(super) base: &'a [f32],
    pub(super) out: &'a mut [u32],
}

impl Body for Magnitudes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, x), b) in self.out.iter_mut().zip(self.x).zip(self.base) {
            *out = bits(x - b).cast_unsigned();
        }
    }
}

/// The formula, element by element; nothing is stored between its steps.
pub(super) struct Mix<'a> {
    pub(super) delta: &'a Delta,
    pub(super) operands: &'a [&'a [f32]],
    pub(super) masks: &'a [Mask],
    pub(super) weights: &'a [f32],
    /// What the sum is divided by where all models take part.
    pub(super) divisor: f32,
    pub(super) out: &'a mut [f32],
}

impl Body for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { delta, operands, masks, weights, divisor, out } = self;
        let mixer = Mixer { delta, masks, weights, divisor };
        let (rows, rest) = out.as_chunks_mut::<ROW>();
        let whole = rows.len() * ROW;
        for (i, out) in rows.iter_mut().enumerate() {
            let at = i * ROW;
            let row = |model: usize| {
                let row: Option<&Row> = operands[model][at..].first_chunk();
                row.copied().unwrap_or_default()
            };
            mixer.row(at, row, out);
        }
        if !rest.is_empty() {
            let row = |model: usize| {
                let mut row = [0.0; ROW];
                row[..rest.len()].copy_from_slice(&operands[model][whole..]);
                row
            };
            let mut out = [0.0; ROW];
            mixer.row(whole, row, &mut out);
            rest.copy_from_slice(&out[..rest.len()]);
        }
    }
}

struct Mixer<'a> {
    delta: &'a Delta,
    masks: &'a [Mask],
    weights: &'a [f32],
    divisor: f32,
}

impl Mixer<'_> {
    #[inline(always)]
    fn row(&self, at: usize, operand: impl Fn(usize) -> Row, out: &mut Row) {
        let base = operand(0);
        let mut sum = [0.0; ROW];
        let count = self.delta.consensus == Consensus::Count;
        // Without weights in the vote, they come after it.
        let plain = self.delta.consensus == Consensus::Plain;
        for model in 0..self.weights.len() {
            let weight = if plain { 1.0 } else { self.weights[model] };
            let products = self.products((model, weight), at, &operand(model + 1), &base);
            for lane in 0..ROW {
                let p = products[lane];
                let sign = f32::from(u8::from(p > 0.0)) - f32::from(u8::from(p < 0.0));
                sum[lane] += if count { sign } else { p };
            }
        }
        let (mut mixed, mut divisor) = (sum, [self.divisor; ROW]);
        if self.delta.consensus != Consensus::None {
            (mixed, divisor) = ([0.0; ROW], [0.0; ROW]);
            for model in 0..self.weights.len() {
                let weight = self.weights[model];
                let (before, after) = if plain { (1.0, weight) } else { (weight, 1.0) };
                let products = self.products((model, before), at, &operand(model + 1), &base);
                for lane in 0..ROW {
                    let p = products[lane];
                    let up = sum[lane] >= 0.0;
                    let agrees = (up & (p > 0.0)) | (!up & (p < 0.0));
                    let mask = if agrees { 1.0 } else { 0.0 };
                    mixed[lane] += p * after * mask;
                    divisor[lane] += weight * mask;
                }
            }
        }
        if self.delta.normalize {
            for lane in 0..ROW {
                mixed[lane] /= if divisor[lane] == 0.0 { 1.0 } else { divisor[lane] };
            }
        }
        let lambda = self.delta.lambda as f32;
        for lane in 0..ROW {
            out[lane] = base[lane] + mixed[lane] * lambda;
        }
    }

    /// `(x - base) factor weight`.
    #[inline(always)]
    fn products(&self, (model, weight): (usize, f32), at: usize, x: &Row, base: &Row) -> Row {
        let mut d = [0.0; ROW];
        for lane in 0..ROW {
            d[lane] = x[lane] - base[lane];
        }
        let factors = match &self.masks[model] {
            Mask::All => [1.0; ROW],
            Mask::Chance(chance, scale) => factors(chance[at / ROW], *scale),
            Mask::Factors(factors) => {
                let mut row = [0.0; ROW];
                let n = ROW.min(factors.len() - at);
                row[..n].copy_from_slice(&factors[at..at + n]);
                row
            }
            Mask::Largest(set, without) => {
                let mut row = [0.0; ROW];
                for lane in 0..ROW {
                    let (bits, i) = (bits(d[lane]), (at + lane) as i32);
                    let inside = (bits > set.bits) | ((bits == set.bits) & (i < set.end));
                    let out = (bits > without.bits) | ((bits == without.bits) & (i < without.end));
                    row[lane] = if inside & !out { 1.0 } else { 0.0 };
                }
                row
            }
        };
        for lane in 0..ROW {
            d[lane] = d[lane] * factors[lane] * weight;
        }
        d
    }
}

/// `scale` where the bit of the lane is set, else 0.
#[inline(always)]
fn factors(bits: u16, scale: f32) -> Row {
    let mut row = [0.0; ROW];
    for (lane, factor) in row.iter_mut().enumerate() {
        *factor = if u32::from(bits) & (1 << lane) != 0 { scale } else { 0.0 };
    }
    row
}

/// One bit for each word: whether it is below a threshold.
pub(super) struct Below<'a> {
    pub(super) words: &'a [u32],
    pub(super) below: u32,
    pub(super) out: &'a mut [u16],
}

impl Body for Below<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, words) in self.out.iter_mut().zip(self.words.chunks(ROW)) {
            let mut row = [u32::MAX; ROW];
            row[..words.len()].copy_from_slice(words);
            let mut bits = 0;
            for (lane, word) in row.iter().enumerate() {
                bits |= if *word < self.below { 1 << lane } else { 0 };
            }
            *out = bits;
        }
    }
}

/// The sums of `|x - base|` over one block, of all and of those whose bit is set. Both are formed as
/// [`crate::simd::Isa::dot`] forms them.
pub(super) struct Measure<'a> {
    pub(super) x: &'a [f32],
    pub(super) base: &'a [f32],
    pub(super) chance: &'a [u16],
}

impl Body for Measure<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run(self) -> [f64; 2] {
        let (mut all, mut left) = ([0.0; LANES], [0.0; LANES]);
        let rows = self.x.chunks(ROW).zip(self.base.chunks(ROW)).zip(self.chance);
        for (i, ((x, base), chance)) in rows.enumerate() {
            let mut d = [0.0; ROW];
            for (d, (x, b)) in d.iter_mut().zip(x.iter().zip(base)) {
                *d = (x - b).abs();
            }
            let factors = factors(*chance, 1.0);
            let first = i * ROW % LANES;
            for lane in 0..ROW {
                all[first + lane] += d[lane];
                left[first + lane] += d[lane] * factors[lane];
            }
        }
        [total(&all), total(&left)]
    }
}

/// `out = |x - base|` of at most a block.
pub(super) fn magnitudes(x: &[f32], base: &[f32]) -> [f32; BLOCK] {
    let mut out = [0.0; BLOCK];
    out.iter_mut().zip(x.iter().zip(base)).for_each(|(d, (x, b))| *d = (x - b).abs());
    out
}
