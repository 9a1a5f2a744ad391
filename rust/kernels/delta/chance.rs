//! Chances that rise with the place of a magnitude in its row.

#![allow(clippy::inline_always)]

use std::cell::RefCell;
use std::sync::Arc;

use super::Rank;
use super::bits::{Bits, WORD};
use super::mix::Magnitudes;
use super::rank::Ranks;
use crate::kernels::{Stretch, noise};
use crate::simd::Body;

/// Elements, about, for which factors are made at once: few enough to stay near the processor.
pub(super) const PART: usize = 8192;
/// Rows up to these lengths have tables of a length that is known when they are looked up in.
const LENGTHS: [usize; 3] = [1 << 12, 1 << 14, 1 << 16];

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
    /// A worker's own: made anew for every stretch it would be given back to the system and taken
    /// again, page by page.
    static CHANCE: RefCell<Chance> = RefCell::default();
}

/// Those that chance leaves of a model.
pub(super) fn chosen(args: &Rank, model: usize, stretch: Stretch) -> Arc<Bits> {
    let (mut chosen, mut row) = (Bits::default(), Vec::new());
    each_row(args, model, stretch, |factors| {
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
pub(super) fn factors(args: &Rank, model: usize, stretch: Stretch) -> Vec<f32> {
    let mut all = Vec::with_capacity(stretch.operands[0].len());
    each_row(args, model, stretch, |factors| all.extend_from_slice(factors));
    all
}

/// Shows the factors of every row of a stretch.
fn each_row(args: &Rank, model: usize, stretch: Stretch, mut show: impl FnMut(&[f32])) {
    let (n, row) = (stretch.operands[0].len(), stretch.row.max(1));
    CHANCE.with_borrow_mut(|chance| {
        let Chance { ranks, magnitudes, words, factors, tables } = chance;
        tables.resize_with(args.density.len().max(tables.len()), Table::default);
        let table = &mut tables[model];
        table.be_of(stretch, [args.density[model], args.epsilon[model]], row);
        for first in (0..n).step_by(row) {
            let range = first..n.min(first + row);
            magnitudes.resize(range.len(), 0);
            words.resize(range.len(), 0);
            factors.resize(range.len(), 0.0);
            let (x, base) =
                (&stretch.operands[model + 1][range.clone()], &stretch.operands[0][range]);
            stretch.isa.run(Magnitudes { x, base, out: magnitudes });
            noise::words(stretch.isa, args.keys[model], stretch.first + first as u64, words);
            let places = ranks.of(stretch.isa, magnitudes);
            stretch.isa.run(Try { places, words, table, factors });
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
    fn be_of(&mut self, stretch: Stretch, of: [f64; 2], row: usize) {
        if (self.of, self.row) == (of, row) {
            return;
        }
        // Beyond the row nothing is looked up.
        let length = LENGTHS.into_iter().find(|length| *length >= row).unwrap_or(row);
        for numbers in [&mut self.below, &mut self.factor] {
            numbers.clear();
            numbers.resize(length, 0);
        }
        (self.of, self.row) = (of, row);
        let (below, factor) = (&mut self.below[..row], &mut self.factor[..row]);
        stretch.isa.run(Tabulate { of, below, factor });
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
