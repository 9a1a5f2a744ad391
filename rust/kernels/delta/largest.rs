//! Sets of the largest differences: they stay, or all but they.

#![allow(clippy::cast_sign_loss)] // shares of a length are not negative

use std::fmt::Debug;
use std::ops::{ControlFlow, Range};

use serde::Deserialize;

use super::mask::{End, Mask};
use super::mix::Magnitudes;
use super::sparsify::{Everything, Sparsify, expect_shares, thins};
use crate::kernels::kernel::{Step, Sums as _};
use crate::kernels::select::{self, Cut, PASSES, Sample, Search, Target};
use crate::kernels::tile::{Tile, Whole};
use crate::simd::{BLOCK, Isa};

/// The largest stay.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Magnitude {
    /// The shares that stay.
    pub density: Vec<f64>,
}

/// The largest go, and the smallest.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Outliers {
    /// The shares that stay.
    pub density: Vec<f64>,
    /// The shares that go from the top.
    pub gamma: Vec<f64>,
}

/// The ends of sets, with the model each is of; of a model the larger set first.
type Ends = Vec<(usize, Cut)>;

/// What stays is what lies in one set, without what lies in a second if there is one.
pub trait Sets: Clone + Debug + Send + Sync {
    /// How many sets of a model that is thinned there are.
    const EACH: usize;

    /// Whether the arguments are usable with so many models; else what is wrong.
    ///
    /// # Errors
    /// A sentence without the place.
    fn check(&self, models: usize) -> Result<(), String>;

    /// The shares that stay, one for each model.
    fn density(&self) -> &[f64];

    /// The sizes of the sets of a model that is thinned, of `n` elements, the larger set first.
    fn ranks(&self, model: usize, n: u64) -> Vec<u64>;
}

impl Sets for Magnitude {
    const EACH: usize = 1;

    fn check(&self, models: usize) -> Result<(), String> {
        expect_shares("density", &self.density, models)
    }

    fn density(&self) -> &[f64] {
        &self.density
    }

    fn ranks(&self, model: usize, n: u64) -> Vec<u64> {
        let density = self.density[model];
        vec![if density > 0.0 { share(density, n).max(1) } else { 0 }]
    }
}

impl Sets for Outliers {
    const EACH: usize = 2;

    fn check(&self, models: usize) -> Result<(), String> {
        expect_shares("density", &self.density, models)?;
        expect_shares("gamma", &self.gamma, models)
    }

    fn density(&self) -> &[f64] {
        &self.density
    }

    fn ranks(&self, model: usize, n: u64) -> Vec<u64> {
        let kept = share(self.density[model], n);
        let top = share(self.gamma[model], n).min(n - kept);
        vec![top + kept, top]
    }
}

fn share(share: f64, n: u64) -> u64 {
    ((share * n as f64) as u64).min(n)
}

/// The sets to be found of a model, after a sample of it.
fn targets(sets: &impl Sets, model: usize, sample: &Sample) -> Vec<Target> {
    if !thins(sets.density(), model) {
        return Vec::new();
    }
    let ranks = sets.ranks(model, sample.elements());
    ranks.into_iter().map(|rank| Target::new(model, rank, sample)).collect()
}

impl<S: Sets> Sparsify for S {
    type Sums = Search;
    type Learned = Ends;

    fn check(&self, models: usize) -> Result<(), String> {
        Sets::check(self, models)
    }

    fn passes(&self) -> usize {
        PASSES
    }

    fn start(&self, whole: Whole) -> Step<Search, Ends> {
        let models = whole.operands - 1;
        if (0..models).any(|model| thins(self.density(), model)) {
            return Step::Pass(Search::sample(models, whole.elements));
        }
        Step::Known(Vec::new())
    }

    fn reduce(&self, tile: Tile, search: &mut Search) {
        let (base, mut room) = (tile.operands[0], [0; BLOCK]);
        for (model, x) in tile.operands[1..].iter().enumerate() {
            if search.wants(model) {
                let out = &mut room[..x.len()];
                tile.isa.run(Magnitudes { x, base, out });
                search.add(tile.isa, model, tile.first, &room[..x.len()]);
            }
        }
    }

    fn learn(&self, total: Search) -> Step<Search, Ends> {
        match total.next(|model, sample| targets(self, model, sample)) {
            ControlFlow::Continue(search) => Step::Pass(search),
            ControlFlow::Break(ends) => Step::Known(ends),
        }
    }

    fn mask(&self, model: usize, tile: Tile, ends: &Ends) -> Mask {
        let mut cuts = ends.iter().filter(|(of, _)| *of == model).map(|(_, cut)| *cut);
        let Some(set) = cuts.next() else { return Mask::All };
        let without = cuts.next().unwrap_or(Cut::NONE);
        Mask::Largest(End::of(set, tile), End::of(without, tile))
    }

    fn spans(&self, search: &Search, part: Range<u64>) -> Vec<Range<u64>> {
        search.spans(part)
    }

    fn state_bytes(&self, models: usize, _: usize) -> u64 {
        select::state_bytes((S::EACH * models) as u64)
    }

    fn kept_bytes(&self, models: usize, _: u64) -> u64 {
        select::kept_bytes(models as u64, (S::EACH * models) as u64)
    }

    fn key(&self) -> Option<String> {
        Some(format!("{self:?}")) // the shortest digits that mean the same numbers
    }

    fn statistics(&self, ends: &Ends) -> Option<Vec<u64>> {
        Some(ends.iter().flat_map(|(_, cut)| cut.numbers()).collect())
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Ends> {
        let (pairs, rest) = statistics.as_chunks::<2>();
        let thinned = (0..whole.operands - 1).filter(|model| thins(self.density(), *model));
        let models: Vec<_> = thinned.flat_map(|model| vec![model; S::EACH]).collect();
        if !rest.is_empty() || pairs.len() != models.len() {
            return None;
        }
        let end =
            |(model, pair): (usize, &[u64; 2])| Some((model, Cut::of(*pair, whole.elements)?));
        models.into_iter().zip(pairs).map(end).collect()
    }
}

/// A sparsifier for differences that someone else holds.
pub trait Held: Sparsify {
    /// What is known of them, a model of `n` elements at a time; `None` if `differences` gives none, or
    /// `stop` says so.
    fn hold(
        &self,
        on: (&Isa, &dyn Fn() -> bool),
        sizes: (usize, usize),
        differences: &mut dyn FnMut(usize) -> Option<Vec<f32>>,
    ) -> Option<Self::Learned>;
}

impl Held for Everything {
    fn hold(
        &self,
        _: (&Isa, &dyn Fn() -> bool),
        _: (usize, usize),
        _: &mut dyn FnMut(usize) -> Option<Vec<f32>>,
    ) -> Option<()> {
        Some(())
    }
}

impl Held for Magnitude {
    fn hold(
        &self,
        (isa, stop): (&Isa, &dyn Fn() -> bool),
        (models, n): (usize, usize),
        differences: &mut dyn FnMut(usize) -> Option<Vec<f32>>,
    ) -> Option<Ends> {
        let mut ends = Vec::new();
        for model in (0..models).filter(|model| thins(&self.density, *model)) {
            let held = differences(model)?;
            let mut search = Search::sample(1, n as u64);
            loop {
                if stop() {
                    return None;
                }
                for (i, block) in held.chunks(BLOCK).enumerate() {
                    let bits = block.iter().map(|x| x.to_bits() & i32::MAX as u32);
                    search.add(isa, 0, (i * BLOCK) as u64, &bits.collect::<Vec<_>>());
                }
                search.flush();
                let one = |_, sample: &Sample| {
                    let rank = self.ranks(model, n as u64);
                    rank.into_iter().map(|rank| Target::new(0, rank, sample)).collect()
                };
                match search.next(one) {
                    ControlFlow::Continue(next) => search = next,
                    ControlFlow::Break(found) => {
                        ends.extend(found.into_iter().map(|(_, cut)| (model, cut)));
                        break;
                    }
                }
            }
        }
        Some(ends)
    }
}
