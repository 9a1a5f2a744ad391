//! The second model where it matters most.

#![allow(clippy::inline_always)]

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Deserialize;

use crate::kernels::check::expect_operands;
use crate::kernels::each::Each;
use crate::kernels::kernel::{Kernel, Next, Step, Sums};
use crate::kernels::select::{self, Cut, LONGEST, PASSES_FOR_VALUE, Sample, Search, Target};
use crate::kernels::tile::{Tile, Whole};
use crate::math::exp::{exp, ln};
use crate::simd::{BLOCK, Body};

/// `out = b + (x - b) [g >= h]` of a base `b` and a model `x`, with the importance `g = |x - b| D`.
///
/// `D` is the divergence of the element's row, `sum_j p_j ln(p_j / q_j)`, where `p` and `q` are the
/// softmax of the row of `x` and of `b`, plus 1e-8 each; in f64 from the first element on, at least
/// 0, rounded to f32. In a unit of one dimension, which is one row, it is 1: a factor common to all
/// changes no choice.
///
/// The threshold is `h = m + 1.5 (u - l)`, in f32, where `l`, `m` and `u` are the importances at
/// the places `floor(k (n - 1) / 4)`, `k` = 1, 2, 3, of all `n` in rising order, found exactly.
///
/// Source: Arcee Fusion as in mergekit 0.1.5, which estimates the three from a random sample of one
/// million where there are more, and sums in f32.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ArceeFusion {}

/// How many quartiles there are.
const QUARTILES: usize = 3;

/// What a pass sums: first the divergence of every row, then what finds the quartiles.
#[derive(Clone, Debug)]
pub struct Seen {
    elements: u64,
    /// The divergences of the rows that were seen.
    rows: Vec<f32>,
    /// All divergences, once they are known, and counts of importances.
    search: Option<(Divergences, Search)>,
    /// The quartiles, if an earlier job found them.
    quartiles: Option<Quartiles>,
}

type Divergences = Arc<Vec<f32>>;
type Quartiles = [Cut; QUARTILES];

/// What is known of a unit.
#[derive(Debug)]
pub struct Facts {
    divergences: Divergences,
    quartiles: Quartiles,
}

impl Sums for Seen {
    fn is_exact(&self) -> bool {
        true // rows are not added up, but stand in order
    }

    fn flush(&mut self) {
        self.search.iter_mut().for_each(|(_, search)| search.flush());
    }

    fn add_next(&mut self, next: Self) {
        self.rows.extend(next.rows);
        let searches = self.search.iter_mut().zip(next.search);
        searches.for_each(|((_, sum), (_, next))| sum.add_next(next));
    }
}

impl ArceeFusion {
    /// Shows the importances of whole rows, as bits, a block at most at once.
    fn importances(tile: Tile, divergences: &[f32], mut show: impl FnMut(usize, &[u32])) {
        let (base, x) = (tile.operands[0], tile.operands[1]);
        let row = if tile.row > 1 { tile.row } else { base.len().max(1) };
        let mut room = [0; BLOCK];
        for (i, first) in (0..base.len()).step_by(row).enumerate() {
            let end = base.len().min(first + row);
            let divergence = Self::divergence(tile, divergences, i);
            for at in (first..end).step_by(BLOCK) {
                let block = at..end.min(at + BLOCK);
                let out = &mut room[..block.len()];
                tile.isa.run(Importance {
                    base: &base[block.clone()],
                    x: &x[block],
                    divergence,
                    out,
                });
                show(at, out);
            }
        }
    }

    /// That of the i-th row of a tile.
    fn divergence(tile: Tile, divergences: &[f32], i: usize) -> f32 {
        if tile.row <= 1 { 1.0 } else { divergences[(tile.first / tile.row as u64) as usize + i] }
    }
}

impl Kernel for ArceeFusion {
    type Sums = Seen;
    type Learned = Facts;

    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("arcee fusion", operands, operands == 2, "a base and a model")
    }

    fn by_rows(&self) -> bool {
        true
    }

    fn longest(&self) -> u64 {
        LONGEST
    }

    fn passes(&self) -> usize {
        1 + PASSES_FOR_VALUE
    }

    fn start(&self, whole: Whole) -> Next<Self> {
        let elements = whole.elements;
        Step::Pass(Seen { elements, rows: Vec::new(), search: None, quartiles: None })
    }

    fn reduce(&self, tile: Tile, Seen { rows, search, .. }: &mut Seen) {
        if let Some((divergences, search)) = search {
            Self::importances(tile, divergences, |at, importances| {
                search.add(tile.isa, 0, tile.first + at as u64, importances);
            });
        } else if tile.row > 1 {
            let mut room = vec![0.0; 2 * tile.row];
            let (base, x) = (tile.operands[0], tile.operands[1]);
            for (base, x) in base.chunks(tile.row).zip(x.chunks(tile.row)) {
                rows.push(tile.isa.run(Divergence { base, x, room: &mut room }));
            }
        }
    }

    fn learn(&self, seen: Seen) -> Next<Self> {
        let Seen { elements, rows, search, quartiles } = seen;
        let (divergences, search) = match (search, quartiles) {
            (None, Some(quartiles)) => {
                return Step::Known(Facts { divergences: Arc::new(rows), quartiles });
            }
            (None, None) => (Arc::new(rows), ControlFlow::Continue(Search::sample(1, elements))),
            (Some((divergences, search)), _) => (divergences, search.next(targets)),
        };
        match search {
            ControlFlow::Continue(search) => {
                let search = Some((divergences, search));
                Step::Pass(Seen { elements, rows: Vec::new(), search, quartiles })
            }
            ControlFlow::Break(ends) => {
                let quartiles = [0, 1, 2].map(|k: usize| ends[k].1);
                Step::Known(Facts { divergences, quartiles })
            }
        }
    }

    fn key(&self) -> Option<String> {
        Some("arcee quartiles".to_owned())
    }

    fn statistics(&self, facts: &Facts) -> Option<Vec<u64>> {
        Some(facts.quartiles.iter().flat_map(|cut| cut.numbers()).collect())
    }

    /// A number for each row is too much to keep: the rows are seen once more.
    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Next<Self>> {
        let (pairs, rest) = statistics.as_chunks::<2>();
        let cuts = pairs.iter().map(|pair| Cut::of(*pair, whole.elements));
        let quartiles = cuts.collect::<Option<Vec<_>>>()?.try_into().ok();
        let elements = whole.elements;
        let begun = Seen { elements, rows: Vec::new(), search: None, quartiles };
        (rest.is_empty() && quartiles.is_some()).then_some(Step::Pass(begun))
    }

    fn state_bytes(&self, _: usize, tile: usize) -> u64 {
        (2 * tile * size_of::<f64>()) as u64 + select::state_bytes(QUARTILES as u64)
    }

    fn kept_bytes(&self, _: Whole) -> u64 {
        select::kept_bytes(1, QUARTILES as u64)
    }

    fn map(&self, tile: Tile, facts: &Facts, out: &mut [f32]) {
        let (base, x) = (tile.operands[0], tile.operands[1]);
        let [lower, middle, upper] = facts.quartiles.map(|cut| f32::from_bits(cut.bits));
        let threshold = middle + 1.5 * (upper - lower);
        let mut taken = [0.0; BLOCK];
        Self::importances(tile, &facts.divergences, |at, importances| {
            let part = at..at + importances.len();
            for (taken, importance) in taken.iter_mut().zip(importances) {
                *taken = f32::from(u8::from(f32::from_bits(*importance) >= threshold));
            }
            let x = [&base[part.clone()], &x[part.clone()], &taken[..part.len()]];
            let formula = |[b, x, taken]: [f32; 3]| b + (x - b) * taken;
            tile.isa.run(Each { x, formula, out: &mut out[part] });
        });
    }
}

/// The quartiles that are searched.
fn targets(_: usize, sample: &Sample) -> Vec<Target> {
    let last = sample.elements().saturating_sub(1);
    let rank = |k: u64| last + 1 - k * last / 4;
    [1, 2, 3].map(|k| Target::value(rank(k), sample)).to_vec()
}

/// `|x - base| divergence`, as bits.
struct Importance<'a> {
    base: &'a [f32],
    x: &'a [f32],
    divergence: f32,
    out: &'a mut [u32],
}

impl Body for Importance<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, (x, b)) in self.out.iter_mut().zip(self.x.iter().zip(self.base)) {
            *out = ((x - b).abs() * self.divergence).to_bits() & i32::MAX as u32;
        }
    }
}

/// That of one row, with room for two numbers for each of its elements.
struct Divergence<'a> {
    base: &'a [f32],
    x: &'a [f32],
    room: &'a mut [f64],
}

impl Body for Divergence<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        const LEAST: f64 = 1e-8;
        let (p, q) = self.room.split_at_mut(self.x.len());
        let (of_x, of_base) = (powers(self.x, p), powers(self.base, q));
        for (p, q) in p.iter_mut().zip(&*q) {
            let (of_p, of_q) = (*p / of_x + LEAST, q / of_base + LEAST);
            *p = of_p * ln(of_p / of_q);
        }
        // Apart from the terms, so that those are formed side by side.
        let sum = p.iter().fold(0.0, |sum, term| sum + term);
        if sum < 0.0 { 0.0 } else { sum as f32 }
    }
}

/// Fills `out` with `e^(x_j - largest)` of a row; their sum.
#[inline(always)]
fn powers(row: &[f32], out: &mut [f64]) -> f64 {
    let top = row.iter().fold(f32::NEG_INFINITY, |top, x| if *x > top { *x } else { top });
    let top = f64::from(top);
    for (out, x) in out.iter_mut().zip(row) {
        *out = exp(f64::from(*x) - top);
    }
    out.iter().fold(0.0, |sum, power| sum + power)
}
