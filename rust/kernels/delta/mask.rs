//! Which differences of a stretch stay, and with what factor.

use std::sync::Arc;

use super::bits::Bits;
use super::chance;
use super::learn::Found;
use super::mix::Noise;
use super::{Delta, Random, Rescale, Sparsify};
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
    /// A factor for those that were chosen.
    Chosen(Arc<Bits>, f32),
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
            Learned::Delta(Found::Lengths(lengths)) => lengths.scale(i),
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
            (Sparsify::Rank(args), _) if args.rescale == Rescale::Inverse => {
                Mask::Factors(chance::factors(args, i, stretch))
            }
            (Sparsify::Rank(args), Learned::Delta(Found::Lengths(lengths))) => {
                let kept = lengths.chosen(i, stretch.first);
                Mask::Chosen(kept.unwrap_or_else(|| chance::chosen(args, i, stretch)), scale)
            }
            (Sparsify::Rank(args), _) => Mask::Chosen(chance::chosen(args, i, stretch), scale),
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
