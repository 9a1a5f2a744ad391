//! Chances that rise with the place of a magnitude in its row.

#![allow(clippy::inline_always)]

use std::cell::RefCell;
use std::sync::Arc;

use serde::Deserialize;

use super::bits::{Bits, WORD};
use super::lengths::{Lengths, Rescale};
use super::mask::Mask;
use super::mix::Magnitudes;
use super::order::Ranks;
use super::sparsify::{Sparsify, expect_keys, expect_shares, thins};
use crate::kernels::kernel::Step;
use crate::kernels::tile::{Tile, Whole};
use crate::math::noise;
use crate::simd::{BLOCK, Body};

/// Elements, about, for which factors are made at once: few enough to stay near the processor.
const PART: usize = 8192;
/// The most bytes that are kept of what a pass chose: 24 MiB are three models' differences of the
/// largest matrix of FLUX.1. Choosing again gives the same, and takes as long again.
const CHOSEN: u64 = 24 << 20;
/// Rows up to these lengths have tables of a length that is known when they are read.
const LENGTHS: [usize; 3] = [1 << 12, 1 << 14, 1 << 16];

/// Chance decides, and favours large magnitudes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Rank {
    /// The shares that stay.
    pub density: Vec<f64>,
    /// How far the probability falls below and rises above the share.
    pub epsilon: Vec<f64>,
    /// The keys of the noise.
    pub keys: Vec<u64>,
    /// What makes up for what went.
    pub rescale: Rescale,
}

impl Rank {
    /// Whether every element has a factor of its own.
    fn weighs(&self) -> bool {
        self.rescale == Rescale::Inverse
    }

    /// Bytes of the elements chosen in a pass, which are kept unless they are too many.
    fn chosen_bytes(&self, elements: u64) -> u64 {
        let thinned = self.density.iter().filter(|density| **density < 1.0).count();
        let bytes = elements.div_ceil(8).saturating_mul(thinned as u64);
        if self.passes() > 0 && bytes <= CHOSEN { bytes } else { 0 }
    }
}

impl Sparsify for Rank {
    type Sums = Lengths;
    type Learned = Option<Lengths>;

    fn check(&self, models: usize) -> Result<(), String> {
        expect_shares("density", &self.density, models)?;
        expect_shares("epsilon", &self.epsilon, models)?;
        let mut pairs = self.density.iter().zip(&self.epsilon);
        let bad =
            |(p, e): &(&f64, &f64)| **p > 0.0 && **p < 1.0 && (*p - *e <= 0.0 || *p + *e >= 1.0);
        if let Some((p, e)) = pairs.find(bad) {
            return Err(format!(
                "density {p} and epsilon {e}, expected their sum and difference between 0 and 1"
            ));
        }
        expect_keys(&self.keys, models)
    }

    fn passes(&self) -> usize {
        usize::from(self.rescale == Rescale::L1)
    }

    fn start(&self, whole: Whole) -> Step<Lengths, Option<Lengths>> {
        let models = whole.operands - 1;
        if self.passes() == 0 || (0..models).all(|model| !thins(&self.density, model)) {
            return Step::Known(None);
        }
        Step::Pass(Lengths::new(models, self.chosen_bytes(whole.elements) > 0))
    }

    fn reduce(&self, tile: Tile, lengths: &mut Lengths) {
        for model in (0..self.density.len()).filter(|model| thins(&self.density, *model)) {
            lengths.measure(model, tile, &Mask::Chosen(chosen(self, model, tile), 1.0));
        }
    }

    fn learn(&self, total: Lengths) -> Step<Lengths, Option<Lengths>> {
        Step::Known(Some(total))
    }

    fn mask(&self, model: usize, tile: Tile, lengths: &Option<Lengths>) -> Mask {
        if !thins(&self.density, model) {
            return Mask::All;
        }
        if self.weighs() {
            return Mask::Factors(factors(self, model, tile));
        }
        let lengths = lengths.as_ref();
        let kept = lengths.and_then(|lengths| lengths.chosen(model, tile.first));
        let scale = lengths.map_or(1.0, |lengths| lengths.scale(model));
        Mask::Chosen(kept.unwrap_or_else(|| chosen(self, model, tile)), scale)
    }

    fn step(&self, row: usize) -> Option<usize> {
        self.weighs().then(|| (PART / row).max(1) * row)
    }

    fn by_rows(&self) -> bool {
        true
    }

    fn state_bytes(&self, models: usize, tile: usize) -> u64 {
        // Beside the masks, what the order of a row takes.
        ((3 * models + 10) * tile.max(BLOCK) * size_of::<f32>()) as u64
    }

    fn kept_bytes(&self, _: usize, elements: u64) -> u64 {
        self.chosen_bytes(elements)
    }

    fn key(&self) -> Option<String> {
        (self.passes() > 0).then(|| format!("{self:?}"))
    }

    fn statistics(&self, lengths: &Option<Lengths>) -> Option<Vec<u64>> {
        lengths.as_ref().map(Lengths::numbers)
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Option<Lengths>> {
        self.key()?;
        Lengths::recall(whole.operands - 1, statistics).map(Some)
    }
}

/// Room to try chances, kept from row to row.
#[derive(Default)]
struct Chance {
    ranks: Ranks,
    magnitudes: Vec<u32>,
    words: Vec<u32>,
    /// What the elements that stay are multiplied by.
    factors: Vec<f32>,
    /// The last of each model.
    tables: Vec<Table>,
}

thread_local! {
    /// A worker's own: made anew for every tile it would be given back to the system and taken
    /// again, page by page.
    static CHANCE: RefCell<Chance> = RefCell::default();
}

/// Those that chance leaves of a model.
fn chosen(args: &Rank, model: usize, tile: Tile) -> Arc<Bits> {
    let (mut chosen, mut row) = (Bits::default(), Vec::new());
    each_row(args, model, tile, |factors| {
        row.clear();
        row.extend(factors.chunks(WORD).map(|factors| {
            let stays = |(lane, factor): (usize, &f32)| u32::from(factor.to_bits() > 0) << lane;
            factors.iter().enumerate().map(stays).fold(0, |bits, bit| bits | bit)
        }));
        chosen.push(&row, factors.len());
    });
    Arc::new(chosen)
}

/// A factor for each: one over the chance with which it stayed, or 0.
fn factors(args: &Rank, model: usize, tile: Tile) -> Vec<f32> {
    let mut all = Vec::with_capacity(tile.operands[0].len());
    each_row(args, model, tile, |factors| all.extend_from_slice(factors));
    all
}

/// Shows the factors of every row of a tile.
fn each_row(args: &Rank, model: usize, tile: Tile, mut show: impl FnMut(&[f32])) {
    let (n, row) = (tile.operands[0].len(), tile.row.max(1));
    CHANCE.with_borrow_mut(|chance| {
        let Chance { ranks, magnitudes, words, factors, tables } = chance;
        tables.resize_with(args.density.len().max(tables.len()), Table::default);
        let table = &mut tables[model];
        table.be_of(tile, [args.density[model], args.epsilon[model]], row);
        for first in (0..n).step_by(row) {
            let range = first..n.min(first + row);
            magnitudes.resize(range.len(), 0);
            words.resize(range.len(), 0);
            factors.resize(range.len(), 0.0);
            let (x, base) = (&tile.operands[model + 1][range.clone()], &tile.operands[0][range]);
            tile.isa.run(Magnitudes { x, base, out: magnitudes });
            noise::words(tile.isa, args.keys[model], tile.first + first as u64, words);
            let places = ranks.of(tile.isa, magnitudes);
            tile.isa.run(Try { places, words, table, factors });
            show(factors);
        }
    });
}

/// What follows from a place in a row.
#[derive(Default)]
struct Table {
    /// Density and epsilon.
    of: [f64; 2],
    row: usize,
    /// The word from which on an element goes.
    below: Vec<u32>,
    /// The bits of one over the chance to stay.
    factor: Vec<u32>,
}

impl Table {
    fn be_of(&mut self, tile: Tile, of: [f64; 2], row: usize) {
        if (self.of, self.row) == (of, row) {
            return;
        }
        // Beyond the row nothing is read.
        let length = LENGTHS.into_iter().find(|length| *length >= row).unwrap_or(row);
        for numbers in [&mut self.below, &mut self.factor] {
            numbers.clear();
            numbers.resize(length, 0);
        }
        (self.of, self.row) = (of, row);
        let (below, factor) = (&mut self.below[..row], &mut self.factor[..row]);
        tile.isa.run(Tabulate { of, below, factor });
    }
}

struct Tabulate<'a> {
    of: [f64; 2],
    below: &'a mut [u32],
    factor: &'a mut [u32],
}

impl Body for Tabulate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let ([density, epsilon], row) = (self.of, self.below.len());
        let even = density <= 0.0 || row == 1;
        for (place, (below, factor)) in self.below.iter_mut().zip(self.factor).enumerate() {
            let rises = (density - epsilon) + place as f64 / (row - 1) as f64 * 2.0 * epsilon;
            let chance = if even { density } else { rises };
            *below = noise::threshold(chance);
            *factor = ((1.0 / chance) as f32).to_bits();
        }
    }
}

/// `factors = ` what the table says where the word is below what it says, else 0.
struct Try<'a> {
    places: &'a [u32],
    words: &'a [u32],
    table: &'a Table,
    factors: &'a mut [f32],
}

impl Body for Try<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.table.below.len() {
            n if n == LENGTHS[0] => self.of_length::<{ LENGTHS[0] }>(),
            n if n == LENGTHS[1] => self.of_length::<{ LENGTHS[1] }>(),
            n if n == LENGTHS[2] => self.of_length::<{ LENGTHS[2] }>(),
            _ => self.of_any_length(),
        }
    }
}

impl Try<'_> {
    /// The remainder changes nothing, and spares a check for each element.
    #[inline(always)]
    fn of_length<const N: usize>(self) {
        let Table { below, factor, .. } = self.table;
        let (Some(below), Some(factor)) = (below.first_chunk::<N>(), factor.first_chunk::<N>())
        else {
            return self.of_any_length();
        };
        for ((out, place), word) in self.factors.iter_mut().zip(self.places).zip(self.words) {
            let place = *place as usize % N;
            *out = f32::from_bits(factor[place] & all_if_below(*word, below[place]));
        }
    }

    #[inline(always)]
    fn of_any_length(self) {
        let Table { below, factor, .. } = self.table;
        for ((out, place), word) in self.factors.iter_mut().zip(self.places).zip(self.words) {
            let place = *place as usize;
            *out = f32::from_bits(factor[place] & all_if_below(*word, below[place]));
        }
    }
}

/// All bits if `word < below`, else none: without a branch, which would be wrong every other time.
#[inline(always)]
fn all_if_below(word: u32, below: u32) -> u32 {
    (u64::from(word).wrapping_sub(u64::from(below)) >> 32) as u32
}
