//! What is learned of a unit's differences before they are mixed: the ends of the sets of the
//! largest, or what makes up for what chance took.

#![allow(clippy::cast_sign_loss)] // shares of a length are not negative

use std::ops::Range;
use std::sync::Arc;

use super::bits::{Bits, WORD};
use super::mask::{Mask, masks};
use super::mix::{Expand, Magnitudes, Measure, magnitudes};
use super::{Delta, Outliers, Sparsify};
use crate::kernels::select::{Cut, Sample, Tally, Target, sampled};
use crate::kernels::sums::{Learned, Sums};
use crate::kernels::{Stretch, Whole};
use crate::simd::{BLOCK, Isa};

/// What is known of the differences of a unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Sets of the largest, one or two for each thinned model.
    Largest(Vec<Target>),
    /// The lengths before and after, from which a factor for each model follows.
    Lengths(Lengths),
}

impl Found {
    /// The ends of the sets of a model, the larger set first.
    pub(super) fn cuts(&self, model: usize) -> Vec<Cut> {
        match self {
            Self::Largest(targets) => {
                targets.iter().filter(|t| t.stream == model).filter_map(Target::cut).collect()
            }
            Self::Lengths(_) => Vec::new(),
        }
    }
}

/// Sums of the magnitudes of every model's differences, in f64 on the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Of all, and of those that stayed.
    each: Vec<[f64; 2]>,
    /// Those that stayed, stretch by stretch, so that they need not be chosen again.
    chosen: Vec<Vec<(u64, Arc<Bits>)>>,
    /// Whether they are kept.
    keeps: bool,
}

impl Lengths {
    fn new(models: usize, keeps: bool) -> Self {
        Self { each: vec![[0.0; 2]; models], chosen: vec![Vec::new(); models], keeps }
    }

    fn add(&mut self, model: usize, [all, left]: [f64; 2]) {
        self.each[model][0] += all;
        self.each[model][1] += left;
    }

    /// Adds the next cell of the grid.
    pub fn merge_next(&mut self, next: &Self) {
        next.each.iter().enumerate().for_each(|(model, sums)| self.add(model, *sums));
        self.chosen.iter_mut().zip(&next.chosen).for_each(|(chosen, next)| {
            chosen.extend_from_slice(next);
        });
    }

    /// The sums, as bits.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.each.iter().flatten().map(|sum| sum.to_bits()).collect()
    }

    /// Those of an earlier look.
    pub(super) fn recall(sums: &[f64]) -> Self {
        let each = sums.as_chunks().0.to_vec();
        Self { chosen: vec![Vec::new(); each.len()], each, keeps: false }
    }

    /// What makes up for what went from a model.
    pub(super) fn scale(&self, model: usize) -> f32 {
        let [all, left] = self.each[model];
        if all < 1e-7 || left < 1e-7 { 1.0 } else { (all / left) as f32 }
    }

    /// What stayed of a model in the stretch that starts at `first`, if that was kept.
    pub(super) fn chosen(&self, model: usize, first: u64) -> Option<Arc<Bits>> {
        let chosen = &self.chosen[model];
        let at = chosen.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        Some(Arc::clone(&chosen[at].1))
    }
}

pub(super) fn start(delta: &Delta, pass: usize, whole: Whole, learned: &Learned) -> Option<Sums> {
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
            let tally = Tally::new(targets.len() as u64);
            open.then(|| Sums::Tallies(vec![tally; targets.len()]))
        }
        (Sparsify::Magnitude(_) | Sparsify::Outliers(_), _) => {
            Some(Sums::Samples(vec![Sample::new(whole.elements); models]))
        }
        _ => {
            let keeps = delta.chosen_bytes(whole.elements) > 0;
            Some(Sums::Lengths(Lengths::new(models, keeps)))
        }
    }
}

/// What a pass must see of `part`.
pub(super) fn spans(
    delta: &Delta,
    whole: Whole,
    learned: &Learned,
    part: Range<u64>,
) -> Vec<Range<u64>> {
    match (&delta.sparsify, learned) {
        (
            Sparsify::Magnitude(_) | Sparsify::Outliers(_),
            Learned::Delta(Found::Largest(targets)),
        ) => {
            let seen = |target: &Target| {
                let span = target.span();
                span.start.max(part.start)..span.end.min(part.end)
            };
            let mut spans: Vec<_> = targets.iter().map(seen).filter(|s| !s.is_empty()).collect();
            spans.sort_unstable_by_key(|span| span.start);
            spans.dedup_by(|next, span| {
                let touches = next.start <= span.end;
                span.end = if touches { span.end.max(next.end) } else { span.end };
                touches
            });
            spans
        }
        (Sparsify::Magnitude(_) | Sparsify::Outliers(_), _) => {
            sampled(whole.elements, part).collect()
        }
        _ => vec![part],
    }
}

/// Adds a block to the sample, or to the counts.
pub(super) fn count(stretch: Stretch, learned: &Learned, sums: &mut Sums) {
    let (mut room, n) = ([0; BLOCK], stretch.operands[0].len());
    let of = |model: usize, room: &mut [u32; BLOCK]| {
        let (x, base) = (stretch.operands[model + 1], stretch.operands[0]);
        stretch.isa.run(Magnitudes { x, base, out: &mut room[..n] });
    };
    match (sums, learned) {
        (Sums::Samples(samples), _) => {
            for (model, sample) in samples.iter_mut().enumerate() {
                of(model, &mut room);
                sample.add(stretch.first, &room[..n]);
            }
        }
        (Sums::Tallies(tallies), Learned::Delta(Found::Largest(targets))) => {
            let mut shown = None;
            for (target, tally) in targets.iter().zip(tallies) {
                if target.cut().is_none() {
                    if shown.replace(target.stream) != Some(target.stream) {
                        of(target.stream, &mut room);
                    }
                    target.count(stretch.isa, stretch.first, &room[..n], tally);
                }
            }
        }
        _ => {}
    }
}

/// Adds a stretch to the sums of magnitudes.
pub(super) fn measure(delta: &Delta, stretch: Stretch, lengths: &mut Lengths) {
    let (isa, n) = (stretch.isa, stretch.operands[0].len());
    let masks = masks(delta, stretch, &Learned::Nothing);
    for (model, mask) in masks.iter().enumerate() {
        let mut room = [0.0; BLOCK];
        for first in (0..n).step_by(BLOCK) {
            let block = first..n.min(first + BLOCK);
            let (x, base) =
                (&stretch.operands[model + 1][block.clone()], &stretch.operands[0][block.clone()]);
            let factors = match mask {
                Mask::Factors(factors) => &factors[block], // 0 or 1
                Mask::Chosen(bits, _) => {
                    let factors = &mut room[..block.len()];
                    isa.run(Expand { words: &bits.words()[first / WORD..], factors });
                    factors
                }
                Mask::All | Mask::Largest(..) => continue,
            };
            let sums = isa.run(Measure { x, base, factors });
            let finite = sums.iter().all(|sum| sum.is_finite());
            lengths.add(model, if finite { sums } else { in_f64(isa, x, base, factors) });
        }
        if let Mask::Chosen(bits, _) = mask
            && lengths.keeps
        {
            lengths.chosen[model].push((stretch.first, Arc::clone(bits)));
        }
    }
}

/// The same sums without the differences that are not finite, when f32 could not hold one.
#[cold]
fn in_f64(isa: &Isa, x: &[f32], base: &[f32], factors: &[f32]) -> [f64; 2] {
    let d = &magnitudes(x, base)[..x.len()];
    [isa.dot(d, &[1.0; BLOCK][..x.len()]), isa.dot(d, factors)]
}

pub(super) fn learn(delta: &Delta, sums: &Sums, learned: &Learned) -> Learned {
    let found = match (sums, learned) {
        (Sums::Tallies(tallies), Learned::Delta(Found::Largest(targets))) => {
            let targets = targets.iter().zip(tallies);
            Found::Largest(targets.map(|(target, tally)| target.learn(tally)).collect())
        }
        (Sums::Samples(samples), _) => Found::Largest(targets(delta, samples)),
        (Sums::Lengths(lengths), _) => Found::Lengths(lengths.clone()),
        _ => return learned.clone(),
    };
    Learned::Delta(found)
}

/// The sets to be found, after a sample of every model.
fn targets(delta: &Delta, samples: &[Sample]) -> Vec<Target> {
    let ranks = |model: usize| {
        let n = samples[model].elements();
        ranks(delta, model, n).into_iter().map(move |rank| (model, rank))
    };
    let ranks: Vec<_> = (0..samples.len()).flat_map(ranks).collect();
    let target = |&(model, rank): &(usize, u64)| Target::new(model, rank, &samples[model]);
    ranks.iter().map(target).collect()
}

/// The sizes of the sets of a model that is thinned, the larger set first.
fn ranks(delta: &Delta, model: usize, n: u64) -> Vec<u64> {
    if !delta.sparsify.thins(model) {
        return Vec::new();
    }
    let share = |share: f64| ((share * n as f64) as u64).min(n);
    match &delta.sparsify {
        Sparsify::Magnitude(args) if args.density[model] > 0.0 => {
            vec![share(args.density[model]).max(1)]
        }
        Sparsify::Outliers(Outliers { density, gamma }) => {
            let kept = share(density[model]);
            let top = share(gamma[model]).min(n - kept);
            vec![top + kept, top]
        }
        _ => vec![0],
    }
}

/// The sets of the largest of differences that are held, one model at a time: `n` elements, which
/// `differences` gives. `None` as soon as it gives none, or `stop` says so.
pub(super) fn look(
    delta: &Delta,
    (isa, stop): (&Isa, &dyn Fn() -> bool),
    n: usize,
    mut differences: impl FnMut(usize) -> Option<Vec<f32>>,
) -> Option<Learned> {
    let mut found = Vec::new();
    for model in 0..delta.weights.len() {
        let ranks = ranks(delta, model, n as u64);
        if ranks.is_empty() {
            continue;
        }
        let held = differences(model)?;
        let bits = |x: &f32| x.to_bits() & i32::MAX as u32;
        let blocks = || {
            let block = |(i, block): (usize, &[f32])| {
                ((i * BLOCK) as u64, block.iter().map(bits).collect::<Vec<_>>())
            };
            held.chunks(BLOCK).enumerate().map(block)
        };
        let mut sample = Sample::new(n as u64);
        blocks().for_each(|(first, magnitudes)| sample.add(first, &magnitudes));
        for rank in ranks {
            let mut target = Target::new(model, rank, &sample);
            while target.cut().is_none() {
                if stop() {
                    return None;
                }
                let mut tally = Tally::new(1);
                for (first, magnitudes) in blocks() {
                    target.count(isa, first, &magnitudes, &mut tally);
                }
                tally.settle();
                target = target.learn(&tally);
            }
            found.push(target);
        }
    }
    Some(Learned::Delta(Found::Largest(found)))
}
