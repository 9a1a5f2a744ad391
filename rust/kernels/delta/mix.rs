//! The loops of the delta family, compiled for every instruction set.

#![allow(clippy::inline_always)]
#![allow(clippy::cast_possible_wrap)] // places in a tile

use serde::Deserialize;

use super::bits::WORD;
use super::mask::Mask;
use crate::simd::{BLOCK, Body, LANES, total};

/// Elements that go through the whole formula side by side.
const ROW: usize = 64;

/// Up to this many models need no allocation.
const FEW: usize = 4;

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

/// Which models take part in an element.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Consensus {
    /// All.
    None,
    /// Those that agree with the sign of the sum without weights.
    Plain,
    /// Those that agree with the sign of the sum.
    Sum,
    /// Those that agree with the sign that most have.
    Count,
}

/// What the sum is divided by.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Nothing.
    None,
    /// The weights that went into it.
    Weights,
    /// How many models went into it.
    Count,
}

/// Which sign wins where the sum that decides is exactly 0.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Even {
    /// The positive one.
    Positive,
    /// That of more elements of the unit, counted where the sum is not 0; the negative one if as many
    /// are of either.
    Majority,
}

/// What is done with what is left of the differences.
#[derive(Clone, Copy)]
pub(super) struct Formula {
    pub(super) consensus: Consensus,
    /// Whether the positive sign wins where the sum is 0.
    pub(super) positive: bool,
    /// What the sum is divided by.
    pub(super) normalize: Normalize,
    /// What the sum is multiplied by.
    pub(super) lambda: f32,
    /// What the sum is divided by where all models take part.
    pub(super) divisor: f32,
}

/// The formula, element by element; nothing is stored between its steps.
pub(super) struct Mix<'a> {
    pub(super) formula: &'a Formula,
    pub(super) operands: &'a [&'a [f32]],
    pub(super) masks: &'a [Mask],
    pub(super) weights: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Body for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { formula, operands, masks, weights, out } = self;
        let mut room = Products::of(weights.len());
        let mut mixer = Mixer { formula, masks, weights, products: room.rows() };
        let (rows, rest) = out.as_chunks_mut::<ROW>();
        let whole = rows.len() * ROW;
        for (i, out) in rows.iter_mut().enumerate() {
            let sum = mixer.sum(operands, [i * ROW; 2]);
            mixer.mix(row_of(operands[0], i * ROW), sum, out);
        }
        if !rest.is_empty() {
            let padded: Vec<_> = operands.iter().map(|x| padded(&x[whole..])).collect();
            let operands: Vec<_> = padded.iter().map(|x| &x[..]).collect();
            let mut out = [0.0; ROW];
            let sum = mixer.sum(&operands, [0, whole]);
            mixer.mix(row_of(operands[0], 0), sum, &mut out);
            rest.copy_from_slice(&out[..rest.len()]);
        }
    }
}

/// In how many elements of a tile the sum that decides is positive, less those where it is negative.
pub(super) struct Signs<'a> {
    pub(super) formula: &'a Formula,
    pub(super) operands: &'a [&'a [f32]],
    pub(super) masks: &'a [Mask],
    pub(super) weights: &'a [f32],
}

impl Body for Signs<'_> {
    type Output = i64;

    #[inline(always)]
    fn run(self) -> i64 {
        let Self { formula, operands, masks, weights } = self;
        let mut room = Products::of(weights.len());
        let mut mixer = Mixer { formula, masks, weights, products: room.rows() };
        let n = operands[0].len();
        let whole = n / ROW * ROW;
        let mut total = 0;
        for at in (0..whole).step_by(ROW) {
            total += signs(&mixer.sum(operands, [at; 2]));
        }
        if whole < n {
            // What fills the row up has a sum of 0.
            let padded: Vec<_> = operands.iter().map(|x| padded(&x[whole..])).collect();
            let operands: Vec<_> = padded.iter().map(|x| &x[..]).collect();
            total += signs(&mixer.sum(&operands, [0, whole]));
        }
        total
    }
}

#[inline(always)]
fn signs(sum: &Row) -> i64 {
    let sign = |x: &f32| i32::from(*x > 0.0) - i32::from(*x < 0.0);
    sum.iter().map(sign).sum::<i32>().into()
}

/// Room for what each model gives to a row.
struct Products {
    few: [Row; FEW],
    many: Vec<Row>,
    models: usize,
}

impl Products {
    #[inline(always)]
    fn of(models: usize) -> Self {
        let many = if models > FEW { vec![[0.0; ROW]; models] } else { Vec::new() };
        Self { few: [[0.0; ROW]; FEW], many, models }
    }

    #[inline(always)]
    fn rows(&mut self) -> &mut [Row] {
        if self.models > FEW { &mut self.many } else { &mut self.few[..self.models] }
    }
}

/// The row of an operand that starts at `at`.
#[inline(always)]
fn row_of(x: &[f32], at: usize) -> &Row {
    x[at..].first_chunk().unwrap_or(&[0.0; ROW])
}

/// Less than a row, filled up with zeros.
fn padded(x: &[f32]) -> Row {
    let mut row = [0.0; ROW];
    row[..x.len()].copy_from_slice(x);
    row
}

struct Mixer<'a> {
    formula: &'a Formula,
    masks: &'a [Mask],
    weights: &'a [f32],
    /// What each model gives to a row.
    products: &'a mut [Row],
}

impl Mixer<'_> {
    /// What decides in the row at `from` of the operands, which is the one at `at` of the masks: the
    /// sum of what each model gives to it, which is kept.
    #[inline(always)]
    fn sum(&mut self, operands: &[&[f32]], [from, at]: [usize; 2]) -> Row {
        let base = row_of(operands[0], from);
        let mut sum = [0.0; ROW];
        for (model, weight) in self.weights.iter().enumerate() {
            // Without weights in the vote, they come after it.
            let weight = if self.formula.consensus == Consensus::Plain { 1.0 } else { *weight };
            let x = row_of(operands[model + 1], from);
            let mut products = [0.0; ROW];
            product((&self.masks[model], weight), at, [x, base], &mut products);
            if self.formula.consensus == Consensus::Count {
                for lane in 0..ROW {
                    let p = products[lane];
                    sum[lane] += if p > 0.0 { 1.0 } else { 0.0 } - if p < 0.0 { 1.0 } else { 0.0 };
                }
            } else {
                for lane in 0..ROW {
                    sum[lane] += products[lane];
                }
            }
            self.products[model] = products;
        }
        sum
    }

    /// What comes out of what was kept.
    #[inline(always)]
    fn mix(&self, base: &Row, sum: Row, out: &mut Row) {
        let formula = self.formula;
        let plain = formula.consensus == Consensus::Plain;
        let normalized = formula.normalize != Normalize::None;
        // The smallest number that wins for the positive sign: 0, or what is next above it.
        let least = if formula.positive { 0.0 } else { f32::from_bits(1) };
        // Few lanes at a time, so that their sums stay in registers from model to model.
        for first in (0..ROW).step_by(LANES) {
            let (mut mixed, mut divisor) = ([0.0; LANES], [formula.divisor; LANES]);
            mixed.copy_from_slice(&sum[first..first + LANES]);
            if formula.consensus != Consensus::None {
                let elected = mixed;
                (mixed, divisor) = ([0.0; LANES], [0.0; LANES]);
                for (products, weight) in self.products.iter().zip(self.weights) {
                    let counted = if formula.normalize == Normalize::Count { 1.0 } else { *weight };
                    let after = if plain { *weight } else { 1.0 };
                    for lane in 0..LANES {
                        let p = products[first + lane];
                        let along = if elected[lane] >= least { p } else { -p };
                        let mask = if along > 0.0 { 1.0 } else { 0.0 };
                        mixed[lane] += p * after * mask;
                        divisor[lane] += counted * mask;
                    }
                }
            }
            for lane in 0..LANES {
                let divisor = if divisor[lane] == 0.0 { 1.0 } else { divisor[lane] };
                let mixed = if normalized { mixed[lane] / divisor } else { mixed[lane] };
                out[first + lane] = base[first + lane] + mixed * formula.lambda;
            }
        }
    }
}

/// `out = (x - base) factor weight`, from the place `at` of the mask.
#[inline(always)]
fn product((mask, weight): (&Mask, f32), at: usize, [x, base]: [&Row; 2], out: &mut Row) {
    match mask {
        Mask::All => {
            for lane in 0..ROW {
                out[lane] = (x[lane] - base[lane]) * weight;
            }
        }
        Mask::Factors(factors) => {
            let factors = &factors[at..];
            let few;
            let factors = if let Some(row) = factors.first_chunk::<ROW>() {
                row
            } else {
                few = padded(factors);
                &few
            };
            for lane in 0..ROW {
                out[lane] = (x[lane] - base[lane]) * factors[lane] * weight;
            }
        }
        Mask::Chosen(bits, scale) => {
            for (words, lanes) in bits.words()[at / WORD..].iter().zip(0..ROW / WORD) {
                for lane in 0..WORD {
                    let factor = if words >> lane & 1 == 1 { *scale } else { 0.0 };
                    let lane = lanes * WORD + lane;
                    out[lane] = (x[lane] - base[lane]) * factor * weight;
                }
            }
        }
        Mask::Largest(set, without) => {
            let ends = [set, without].map(|set| set.end - at as i32);
            for lane in 0..ROW {
                let d = x[lane] - base[lane];
                let bits = bits(d);
                let over = set.bits - i32::from((lane as i32) < ends[0]);
                let upto = without.bits - i32::from((lane as i32) < ends[1]);
                let factor = if bits > over && bits <= upto { 1.0 } else { 0.0 };
                out[lane] = d * factor * weight;
            }
        }
    }
}

/// `factors = 1` for what was chosen, else 0.
pub(super) struct Expand<'a> {
    pub(super) words: &'a [u32],
    pub(super) factors: &'a mut [f32],
}

impl Body for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (word, factors) in self.words.iter().zip(self.factors.chunks_mut(WORD)) {
            for (lane, factor) in factors.iter_mut().enumerate() {
                *factor = (word >> lane & 1) as f32;
            }
        }
    }
}

/// `factors = scale` where the word is below a threshold, else 0.
pub(super) struct Noise<'a> {
    pub(super) words: &'a [u32],
    pub(super) below: u32,
    pub(super) scale: f32,
    pub(super) factors: &'a mut [f32],
}

impl Body for Noise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (factor, word) in self.factors.iter_mut().zip(self.words) {
            *factor = if *word < self.below { self.scale } else { 0.0 };
        }
    }
}

/// The sums of `|x - base|` over one block, of all and times the factors. Both are formed as
/// [`crate::simd::Isa::dot`] forms them.
pub(super) struct Measure<'a> {
    pub(super) x: &'a [f32],
    pub(super) base: &'a [f32],
    pub(super) factors: &'a [f32],
}

impl Body for Measure<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run(self) -> [f64; 2] {
        let (mut all, mut left) = ([0.0; LANES], [0.0; LANES]);
        let (x_rows, x_rest) = self.x.as_chunks::<LANES>();
        let (b_rows, b_rest) = self.base.as_chunks::<LANES>();
        let (f_rows, f_rest) = self.factors.as_chunks::<LANES>();
        for ((x, b), factors) in x_rows.iter().zip(b_rows).zip(f_rows) {
            for lane in 0..LANES {
                let d = (x[lane] - b[lane]).abs();
                all[lane] += d;
                left[lane] += d * factors[lane];
            }
        }
        for (lane, ((x, b), factor)) in x_rest.iter().zip(b_rest).zip(f_rest).enumerate() {
            let d = (x - b).abs();
            all[lane] += d;
            left[lane] += d * factor;
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
