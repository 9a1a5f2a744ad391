//! Chances that rise with the place of a magnitude in its row.

use std::sync::Arc;

use super::Rank;
use super::bits::{Bits, WORD};
use super::mix::Magnitudes;
use super::rank::Ranks;
use crate::kernels::{Stretch, noise};

/// Elements, about, for which factors are made at once: few enough to stay near the processor.
pub(super) const PART: usize = 8192;

/// Room to try chances, kept from row to row.
#[derive(Default)]
pub(super) struct Chance {
    ranks: Ranks,
    magnitudes: Vec<u32>,
    words: Vec<u32>,
    /// For each model, by place: the word from which on an element goes, and the bits of the factor of
    /// one that stays.
    tables: Vec<Vec<(u32, u32)>>,
}

impl Chance {
    /// Those that chance leaves.
    pub(super) fn chosen(&mut self, args: &Rank, model: usize, stretch: Stretch) -> Arc<Bits> {
        let (mut chosen, mut row) = (Bits::default(), Vec::new());
        self.each_row(args, model, stretch, |ranks, words, table| {
            row.clear();
            row.resize(words.len().div_ceil(WORD), 0);
            for (i, (place, word)) in ranks.places().zip(words).enumerate() {
                let (below, _) = table[place];
                row[i / WORD] |= (all_if_below(*word, below) & 1) << (i % WORD);
            }
            chosen.push(&row, words.len());
        });
        Arc::new(chosen)
    }

    /// A factor for each: one over the chance with which it stayed, or 0.
    pub(super) fn factors(&mut self, args: &Rank, model: usize, stretch: Stretch) -> Vec<f32> {
        let mut factors = Vec::with_capacity(stretch.operands[0].len());
        self.each_row(args, model, stretch, |ranks, words, table| {
            factors.extend(ranks.places().zip(words).map(|(place, word)| {
                let (below, factor) = table[place];
                f32::from_bits(factor & all_if_below(*word, below))
            }));
        });
        factors
    }

    /// Shows every row of a stretch in order, with its noise and the table of the model.
    fn each_row(
        &mut self,
        args: &Rank,
        model: usize,
        stretch: Stretch,
        mut show: impl FnMut(&Ranks, &[u32], &[(u32, u32)]),
    ) {
        let (n, row) = (stretch.operands[0].len(), stretch.row.max(1));
        let Self { ranks, magnitudes, words, tables } = self;
        tables.resize_with(args.density.len(), Vec::new);
        if tables[model].len() != row {
            tables[model] = table(args, model, row);
        }
        for first in (0..n).step_by(row) {
            let range = first..n.min(first + row);
            magnitudes.resize(range.len(), 0);
            words.resize(range.len(), 0);
            let (x, base) =
                (&stretch.operands[model + 1][range.clone()], &stretch.operands[0][range]);
            stretch.isa.run(Magnitudes { x, base, out: magnitudes });
            noise::words(stretch.isa, args.keys[model], stretch.first + first as u64, words);
            ranks.order(stretch.isa, magnitudes);
            show(ranks, words, &tables[model]);
        }
    }
}

/// By place: the word from which on an element goes, and the bits of one over its chance to stay.
fn table(args: &Rank, model: usize, row: usize) -> Vec<(u32, u32)> {
    let (density, epsilon) = (args.density[model], args.epsilon[model]);
    let chance = |place: usize| {
        if density <= 0.0 || row == 1 {
            density
        } else {
            (density - epsilon) + place as f64 / (row - 1) as f64 * 2.0 * epsilon
        }
    };
    let entry = |p: f64| (noise::threshold(p), ((1.0 / p) as f32).to_bits());
    (0..row).map(|place| entry(chance(place))).collect()
}

/// All bits if `word < below`, else none: without a branch, which would be wrong every other time.
#[inline]
fn all_if_below(word: u32, below: u32) -> u32 {
    (u64::from(word).wrapping_sub(u64::from(below)) >> 32) as u32
}
