//! Which differences of a stretch stay, and with what factor.

use std::ops::Range;

use super::learn::Found;
use super::mix::{Factored, Magnitudes, Noise, Product};
use super::rank::Ranks;
use super::{Delta, Random, Rank, Rescale, Sparsify};
use crate::kernels::select::Cut;
use crate::kernels::sums::Learned;
use crate::kernels::{Stretch, noise};
use crate::simd::{BLOCK, Body};

/// What stays of every model over one stretch.
pub(super) struct Masks {
    models: Vec<Mask>,
}

enum Mask {
    /// Everything.
    All,
    /// Magnitudes of the first set that are not in the second.
    Largest(Cut, Option<Cut>),
    /// A factor for each element.
    Factors(Vec<f32>),
}

/// Everything with magnitude bits from `from` to `last` stays; all are the bits of an f32 without
/// its sign, or -1.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) from: i32,
    pub(super) last: i32,
}

impl Kept {
    pub(super) const ALL: Self = Self { from: 0, last: i32::MAX };
}

impl Masks {
    pub(super) fn new(delta: &Delta, stretch: Stretch, learned: &Learned) -> Self {
        let model = |i: usize| {
            if !delta.sparsify.thins(i) {
                return Mask::All;
            }
            match (&delta.sparsify, learned) {
                (Sparsify::Magnitude(_) | Sparsify::Outliers(_), Learned::Delta(found)) => {
                    match *found.cuts(i) {
                        [set] => Mask::Largest(set, None),
                        [set, without, ..] => Mask::Largest(set, Some(without)),
                        [] => Mask::All, // an empty unit
                    }
                }
                (Sparsify::Random(args), _) => {
                    Mask::Factors(random(args, i, stretch, scale(learned, i)))
                }
                (Sparsify::Rank(args), _) => {
                    Mask::Factors(by_rank(args, i, stretch, scale(learned, i)))
                }
                _ => Mask::All,
            }
        };
        Self { models: (0..delta.weights.len()).map(model).collect() }
    }

    /// The factors of a model that has some.
    pub(super) fn factors(&self, model: usize, block: Range<usize>) -> &[f32] {
        match &self.models[model] {
            Mask::Factors(factors) => &factors[block],
            _ => &[],
        }
    }

    /// Those of one block of the stretch.
    pub(super) fn over(&self, block: Range<usize>) -> MasksOver<'_> {
        MasksOver { masks: self, block }
    }
}

/// What stays of every model over one block.
pub(super) struct MasksOver<'a> {
    masks: &'a Masks,
    block: Range<usize>,
}

impl MasksOver<'_> {
    /// The products of a model and its weight over the block, also added to `sum`.
    pub(super) fn products(
        &self,
        (model, weight): (usize, f32),
        block: Stretch,
        products: &mut [f32],
        sum: &mut [f32],
    ) {
        let (isa, x, base) = (block.isa, block.operands[model + 1], block.operands[0]);
        match &self.masks.models[model] {
            Mask::All => isa.run(Product { x, base, weight, kept: Kept::ALL, products, sum }),
            Mask::Factors(factors) => {
                let factors = &factors[self.block.clone()];
                isa.run(Factored { x, base, factors, weight, products, sum });
            }
            Mask::Largest(set, without) => {
                for (range, kept) in pieces(block, model, *set, *without) {
                    isa.run(Product {
                        x: &x[range.clone()],
                        base: &base[range.clone()],
                        weight,
                        kept,
                        products: &mut products[range.clone()],
                        sum: &mut sum[range],
                    });
                }
            }
        }
    }
}

/// The block in pieces over which the same magnitudes stay: it changes where one of the sets ends
/// among equals.
fn pieces(
    block: Stretch,
    model: usize,
    set: Cut,
    without: Option<Cut>,
) -> impl Iterator<Item = (Range<usize>, Kept)> {
    let n = block.operands[0].len();
    let magnitude = move |i: usize| {
        let mut out = [0];
        let (x, base) = (block.operands[model + 1], block.operands[0]);
        Magnitudes { x: &x[i..=i], base: &base[i..=i], out: &mut out }.run();
        out[0]
    };
    let place = |cut: Cut| cut.place(block.first, n, magnitude);
    let (end, hole) = (place(set), without.map_or(n, place));
    let lowest = move |cut: Cut, equals: bool| {
        cut.bits.cast_signed() + i32::from(!equals && cut.bits < i32::MAX as u32)
    };
    let places = [0, end.min(hole), end.max(hole), n];
    places.into_iter().zip(places.into_iter().skip(1)).filter(|(from, to)| from < to).map(
        move |(from, to)| {
            let kept = Kept {
                from: lowest(set, from < end),
                last: without.map_or(i32::MAX, |cut| lowest(cut, from < hole) - 1),
            };
            (from..to, kept)
        },
    )
}

fn scale(learned: &Learned, model: usize) -> f32 {
    match learned {
        Learned::Delta(Found::Scales(scales)) => scales[model],
        _ => 1.0,
    }
}

fn random(args: &Random, model: usize, stretch: Stretch, learned: f32) -> Vec<f32> {
    let density = args.density[model];
    let scale = match args.rescale {
        Rescale::Inverse => (1.0 / density) as f32,
        Rescale::None | Rescale::L1 => learned,
    };
    let mut factors = vec![0.0; stretch.operands[0].len()];
    let mut words = [0; BLOCK];
    for (i, factors) in factors.chunks_mut(BLOCK).enumerate() {
        let words = &mut words[..factors.len()];
        let first = stretch.first + (i * BLOCK) as u64;
        noise::words(stretch.isa, args.keys[model], first, words);
        stretch.isa.run(Noise { words, below: noise::threshold(density), scale, factors });
    }
    factors
}

fn by_rank(args: &Rank, model: usize, stretch: Stretch, learned: f32) -> Vec<f32> {
    let n = stretch.operands[0].len();
    let mut factors = vec![0.0; n];
    let density = args.density[model];
    if density <= 0.0 {
        return factors;
    }
    let row = stretch.row.max(1);
    let chances = chances(density, args.epsilon[model], row);
    let scales: Vec<f32> = match args.rescale {
        Rescale::Inverse => chances.iter().map(|p| (1.0 / p) as f32).collect(),
        Rescale::None | Rescale::L1 => vec![learned; row],
    };
    let below: Vec<u32> = chances.iter().map(|p| noise::threshold(*p)).collect();
    let (mut words, mut ranks) = (vec![0; row], Ranks::new(row));
    let mut magnitudes = vec![0; row];
    for first in (0..n).step_by(row) {
        let range = first..n.min(first + row);
        let (x, base) =
            (&stretch.operands[model + 1][range.clone()], &stretch.operands[0][range.clone()]);
        stretch.isa.run(Magnitudes { x, base, out: &mut magnitudes });
        noise::words(stretch.isa, args.keys[model], stretch.first + first as u64, &mut words);
        let factors = &mut factors[range];
        ranks.for_each(&magnitudes, |rank, column| {
            factors[column] = if words[column] < below[rank] { scales[rank] } else { 0.0 };
        });
    }
    factors
}

/// The probability with which an element stays, by its place in its row.
fn chances(density: f64, epsilon: f64, row: usize) -> Vec<f64> {
    let chance = |rank: usize| (density - epsilon) + rank as f64 / (row - 1) as f64 * 2.0 * epsilon;
    if row == 1 { vec![density] } else { (0..row).map(chance).collect() }
}

/// `d` of a model over a part of a stretch.
pub(super) fn difference(stretch: Stretch, model: usize, part: Range<usize>, out: &mut [f32]) {
    let (x, base) = (&stretch.operands[model + 1][part.clone()], &stretch.operands[0][part]);
    out.iter_mut().zip(x.iter().zip(base)).for_each(|(d, (x, b))| *d = x - b);
}
