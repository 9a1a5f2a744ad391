//! Which differences of a stretch stay, and with what factor.

use super::learn::Found;
use super::mix::{Magnitudes, Noise};
use super::rank::Ranks;
use super::{Delta, Random, Rank, Rescale, Sparsify};
use crate::kernels::select::Cut;
use crate::kernels::sums::Learned;
use crate::kernels::{Stretch, noise};
use crate::simd::BLOCK;

/// What stays of a model over one stretch.
pub(super) enum Mask {
    /// Everything.
    All,
    /// Magnitudes of the first set that are not in the second.
    Largest(End, End),
    /// A factor for each element.
    Factors(Vec<f32>),
}

/// Where a set of the largest ends: all above `bits` are in it, and those that equal `bits` if they
/// come before the place `end` of the stretch.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) bits: i32,
    pub(super) end: i32,
}

impl End {
    fn of(cut: Cut, stretch: Stretch) -> Self {
        let len = stretch.operands[0].len() as u64;
        let end = cut.end.saturating_sub(stretch.first).min(len);
        Self { bits: cut.bits.cast_signed(), end: end as i32 }
    }
}

/// What stays of every model.
pub(super) fn masks(delta: &Delta, stretch: Stretch, learned: &Learned) -> Vec<Mask> {
    let model = |i: usize| {
        if !delta.sparsify.thins(i) {
            return Mask::All;
        }
        let scale = match learned {
            Learned::Delta(Found::Scales(scales)) => scales[i],
            _ => 1.0,
        };
        match (&delta.sparsify, learned) {
            (Sparsify::Magnitude(_) | Sparsify::Outliers(_), Learned::Delta(found)) => {
                let none = End::of(Cut::NONE, stretch);
                match *found.cuts(i) {
                    [set] => Mask::Largest(End::of(set, stretch), none),
                    [set, without, ..] => {
                        Mask::Largest(End::of(set, stretch), End::of(without, stretch))
                    }
                    [] => Mask::All, // an empty unit
                }
            }
            (Sparsify::Random(args), _) => {
                let scale = match args.rescale {
                    Rescale::Inverse => (1.0 / args.density[i]) as f32,
                    Rescale::None | Rescale::L1 => scale,
                };
                Mask::Factors(random(args, i, stretch, scale))
            }
            (Sparsify::Rank(args), _) => Mask::Factors(by_rank(args, i, stretch, scale)),
            _ => Mask::All,
        }
    };
    (0..delta.weights.len()).map(model).collect()
}

fn random(args: &Random, model: usize, stretch: Stretch, scale: f32) -> Vec<f32> {
    let mut factors = vec![0.0; stretch.operands[0].len()];
    let below = noise::threshold(args.density[model]);
    let mut words = [0; BLOCK];
    for (i, factors) in factors.chunks_mut(BLOCK).enumerate() {
        let words = &mut words[..factors.len()];
        noise::words(stretch.isa, args.keys[model], stretch.first + (i * BLOCK) as u64, words);
        stretch.isa.run(Noise { words, below, scale, factors });
    }
    factors
}

fn by_rank(args: &Rank, model: usize, stretch: Stretch, learned: f32) -> Vec<f32> {
    let (n, row) = (stretch.operands[0].len(), stretch.row.max(1));
    let mut factors = vec![0.0; n];
    let density = args.density[model];
    if density <= 0.0 {
        return factors;
    }
    let scale = |p: f64| match args.rescale {
        Rescale::Inverse => (1.0 / p) as f32,
        Rescale::None | Rescale::L1 => learned,
    };
    let chances = chances(density, args.epsilon[model], row);
    let each: Vec<_> = chances.iter().map(|p| (noise::threshold(*p), scale(*p))).collect();
    let (mut words, mut magnitudes, mut ranks) = (vec![0; row], vec![0; row], Ranks::default());
    for first in (0..n).step_by(row) {
        let range = first..n.min(first + row);
        let (x, base) =
            (&stretch.operands[model + 1][range.clone()], &stretch.operands[0][range.clone()]);
        stretch.isa.run(Magnitudes { x, base, out: &mut magnitudes });
        noise::words(stretch.isa, args.keys[model], stretch.first + first as u64, &mut words);
        let factors = &mut factors[range];
        for (key, (below, scale)) in ranks.of(stretch.isa, &magnitudes).iter().zip(&each) {
            let column = *key as u32 as usize;
            factors[column] = if words[column] < *below { *scale } else { 0.0 };
        }
    }
    factors
}

/// The probability with which an element stays, by its place in its row.
fn chances(density: f64, epsilon: f64, row: usize) -> Vec<f64> {
    let chance = |rank: usize| (density - epsilon) + rank as f64 / (row - 1) as f64 * 2.0 * epsilon;
    if row == 1 { vec![density] } else { (0..row).map(chance).collect() }
}
