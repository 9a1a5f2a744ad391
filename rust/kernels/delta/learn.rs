//! What is learned of a unit's differences before they are mixed: the ends of the sets of the
//! largest, or what makes up for what chance took.

#![allow(clippy::cast_sign_loss)] // shares of a length are not negative

use super::mask::{Masks, difference};
use super::mix::Magnitudes;
use super::{Delta, Outliers, Sparsify};
use crate::kernels::Stretch;
use crate::kernels::select::{Cut, Tally, Target};
use crate::kernels::sums::{Learned, Sums};
use crate::simd::BLOCK;

/// What is known of the differences of a unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Sets of the largest, one or two for each thinned model.
    Largest(Vec<Target>),
    /// A factor for each model.
    Scales(Vec<f32>),
}

impl Found {
    /// The ends of the sets of a model, the larger set first.
    pub(super) fn cuts(&self, model: usize) -> Vec<Cut> {
        match self {
            Self::Largest(targets) => {
                targets.iter().filter(|t| t.stream == model).filter_map(Target::cut).collect()
            }
            Self::Scales(_) => Vec::new(),
        }
    }
}

/// Sums of the magnitudes of every model's differences, in f64 on the grid.
#[derive(Clone, Debug)]
pub struct Lengths {
    /// Of all, and of those that stayed.
    each: Vec<[f64; 2]>,
}

impl Lengths {
    fn new(models: usize) -> Self {
        Self { each: vec![[0.0; 2]; models] }
    }

    fn add(&mut self, model: usize, all: f64, left: f64) {
        self.each[model][0] += all;
        self.each[model][1] += left;
    }

    /// Adds the next cell of the grid.
    pub fn merge_next(&mut self, next: &Self) {
        next.each.iter().enumerate().for_each(|(model, [all, left])| self.add(model, *all, *left));
    }

    fn scales(&self) -> Vec<f32> {
        let scale = |[all, left]: &[f64; 2]| {
            if *all < 1e-7 || *left < 1e-7 { 1.0 } else { (all / left) as f32 }
        };
        self.each.iter().map(scale).collect()
    }
}

pub(super) fn start(delta: &Delta, pass: usize, learned: &Learned) -> Option<Sums> {
    let models = delta.weights.len();
    if !(0..models).any(|model| delta.sparsify.thins(model)) || pass >= delta.passes() {
        return None;
    }
    match (&delta.sparsify, learned) {
        (
            Sparsify::Magnitude(_) | Sparsify::Outliers(_),
            Learned::Delta(Found::Largest(targets)),
        ) => {
            let open = targets.iter().any(|target| target.cut().is_none());
            open.then(|| Sums::Tallies(vec![Tally::default(); targets.len()]))
        }
        (Sparsify::Magnitude(_) | Sparsify::Outliers(_), _) => {
            Some(Sums::Tallies(vec![Tally::default(); models]))
        }
        _ => Some(Sums::Lengths(Lengths::new(models))),
    }
}

/// Adds a block to the counts.
pub(super) fn count(
    delta: &Delta,
    pass: usize,
    stretch: Stretch,
    learned: &Learned,
    tallies: &mut [Tally],
) {
    let mut room = [0; BLOCK];
    let mut magnitudes = |model: usize| {
        let n = stretch.operands[0].len();
        let (x, base) = (stretch.operands[model + 1], stretch.operands[0]);
        stretch.isa.run(Magnitudes { x, base, out: &mut room[..n] });
        room
    };
    let n = stretch.operands[0].len();
    if pass == 0 {
        for (model, tally) in tallies.iter_mut().enumerate() {
            if delta.sparsify.thins(model) {
                tally.sample(&magnitudes(model)[..n]);
            }
        }
        return;
    }
    let Learned::Delta(Found::Largest(targets)) = learned else { return };
    for (target, tally) in targets.iter().zip(tallies) {
        if target.cut().is_none() {
            let magnitudes = magnitudes(target.stream);
            target.count(stretch.isa, stretch.first, &magnitudes[..n], tally);
        }
    }
}

/// Adds a stretch to the sums of magnitudes.
pub(super) fn measure(delta: &Delta, stretch: Stretch, lengths: &mut Lengths) {
    let masks = Masks::new(delta, stretch, &Learned::Nothing);
    let n = stretch.operands[0].len();
    let mut room = [0.0; BLOCK];
    for model in (0..delta.weights.len()).filter(|model| delta.sparsify.thins(*model)) {
        for first in (0..n).step_by(BLOCK) {
            let block = first..n.min(first + BLOCK);
            let room = &mut room[..block.len()];
            difference(stretch, model, block.clone(), room);
            for d in room.iter_mut() {
                *d = d.abs();
            }
            // With a factor of 0 or 1 the products are exact.
            let ones = &[1.0; BLOCK][..block.len()];
            let all = stretch.isa.dot(room, ones);
            let left = stretch.isa.dot(room, masks.factors(model, block));
            lengths.add(model, all, left);
        }
    }
}

pub(super) fn learn(delta: &Delta, pass: usize, sums: &Sums, learned: &Learned) -> Learned {
    let found = match (sums, learned) {
        (Sums::Tallies(tallies), Learned::Delta(Found::Largest(targets))) if pass > 0 => {
            let targets = targets.iter().zip(tallies);
            Found::Largest(targets.map(|(target, tally)| target.learn(tally)).collect())
        }
        (Sums::Tallies(tallies), _) => Found::Largest(targets(delta, tallies)),
        (Sums::Lengths(lengths), _) => Found::Scales(lengths.scales()),
        _ => return learned.clone(),
    };
    Learned::Delta(found)
}

/// The sets to be found, after a sample of every thinned model.
fn targets(delta: &Delta, samples: &[Tally]) -> Vec<Target> {
    let mut targets = Vec::new();
    for (model, sample) in samples.iter().enumerate() {
        if !delta.sparsify.thins(model) {
            continue;
        }
        let n = sample.seen();
        let share = |share: f64| ((share * n as f64) as u64).min(n);
        let ranks = match &delta.sparsify {
            Sparsify::Magnitude(args) if args.density[model] > 0.0 => {
                vec![share(args.density[model]).max(1)]
            }
            Sparsify::Outliers(Outliers { density, gamma }) => {
                let kept = share(density[model]);
                let top = share(gamma[model]).min(n - kept);
                vec![top + kept, top]
            }
            _ => vec![0],
        };
        targets.extend(ranks.iter().map(|rank| Target::new(model, *rank, sample)));
    }
    targets
}
