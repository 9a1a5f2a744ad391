//! The second model where it matters most.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use super::{Facts, Formula, expect_operands};
use crate::kernels::each::Each;
use crate::kernels::exp::{exp, ln};
use crate::kernels::select::{Cut, LOOKS_FOR_VALUE, Sample, Tally, Target};
use crate::kernels::sums::Sums;
use crate::kernels::{Stretch, Whole};
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

/// Passes before the quartiles are looked for.
const BEFORE: usize = 1;

impl ArceeFusion {
    /// Shows the importances of whole rows, as bits, a block at most at once.
    fn importances(stretch: Stretch, facts: &Facts, mut show: impl FnMut(usize, &[u32])) {
        let [base, x] = stretch.operands else { return };
        let row = if stretch.row > 1 { stretch.row } else { base.len().max(1) };
        let mut room = [0; BLOCK];
        for (i, first) in (0..base.len()).step_by(row).enumerate() {
            let end = base.len().min(first + row);
            let divergence = Self::divergence(stretch, facts, i);
            for at in (first..end).step_by(BLOCK) {
                let block = at..end.min(at + BLOCK);
                let out = &mut room[..block.len()];
                stretch.isa.run(Importance {
                    base: &base[block.clone()],
                    x: &x[block],
                    divergence,
                    out,
                });
                show(at, out);
            }
        }
    }

    /// That of the i-th row of a stretch.
    fn divergence(stretch: Stretch, facts: &Facts, i: usize) -> f32 {
        if stretch.row <= 1 {
            return 1.0;
        }
        let first = stretch.first / stretch.row as u64;
        facts.numbers.get(first as usize + i).copied().unwrap_or(f32::NAN)
    }

    fn threshold(facts: &Facts) -> f32 {
        let value = |target: &Target| target.cut().map_or(f32::NAN, |cut| f32::from_bits(cut.bits));
        match facts.targets.as_slice() {
            [lower, middle, upper] => value(middle) + 1.5 * (value(upper) - value(lower)),
            _ => f32::NAN,
        }
    }
}

impl Formula for ArceeFusion {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("arcee fusion", operands, operands == 2, "a base and a model")
    }

    fn by_rows(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        BEFORE + LOOKS_FOR_VALUE
    }

    fn start(&self, pass: usize, whole: Whole, facts: &Facts) -> Option<Sums> {
        match pass {
            0 => Some(Sums::Rows(Vec::new())),
            BEFORE => Some(Sums::Samples(vec![Sample::new(whole.elements)])),
            _ => facts.open().then(|| Sums::Tallies(vec![Tally::new(self.targets()); 3])),
        }
    }

    fn reduce(&self, _: usize, stretch: Stretch, facts: &Facts, sums: &mut Sums) {
        match sums {
            Sums::Rows(rows) if stretch.row > 1 => {
                let [base, x] = stretch.operands else { return };
                let mut room = vec![0.0; 2 * stretch.row];
                for (base, x) in base.chunks(stretch.row).zip(x.chunks(stretch.row)) {
                    rows.push(stretch.isa.run(Divergence { base, x, room: &mut room }));
                }
            }
            Sums::Samples(samples) => Self::importances(stretch, facts, |at, importances| {
                samples[0].add(stretch.first + at as u64, importances);
            }),
            Sums::Tallies(tallies) => Self::importances(stretch, facts, |at, importances| {
                for (target, tally) in facts.targets.iter().zip(&mut *tallies) {
                    if target.cut().is_none() {
                        let first = stretch.first + at as u64;
                        target.count(stretch.isa, first, importances, tally);
                    }
                }
            }),
            _ => {}
        }
    }

    fn learn(&self, _: usize, sums: &Sums, facts: &Facts) -> Facts {
        match sums {
            // The quartiles are here already if an earlier job told them.
            Sums::Rows(rows) => Facts { numbers: rows.clone(), targets: facts.targets.clone() },
            Sums::Samples(samples) => {
                let last = samples[0].elements().saturating_sub(1);
                let rank = |k: u64| last + 1 - k * last / 4;
                let target = |k| Target::value(rank(k), &samples[0]);
                Facts { numbers: facts.numbers.clone(), targets: [1, 2, 3].map(target).to_vec() }
            }
            Sums::Tallies(tallies) => {
                let both = facts.targets.iter().zip(tallies);
                let targets = both.map(|(target, tally)| target.learn(tally)).collect();
                Facts { numbers: facts.numbers.clone(), targets }
            }
            _ => facts.clone(),
        }
    }

    fn targets(&self) -> u64 {
        3
    }

    fn never_recalled(&self) -> usize {
        BEFORE
    }

    fn look(&self) -> Option<String> {
        Some("arcee quartiles".to_owned())
    }

    fn statistics(&self, sums: &Sums, facts: &Facts) -> Option<Vec<u64>> {
        if let Sums::Rows(_) = sums {
            return None;
        }
        let cuts: Option<Vec<_>> = facts.targets.iter().map(Target::cut).collect();
        Some(cuts?.into_iter().flat_map(Cut::numbers).collect())
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Facts> {
        let (pairs, rest) = statistics.as_chunks::<2>();
        let known = |pair: &[u64; 2]| Some(Target::known(0, Cut::of(*pair, whole.elements)?));
        let right = pairs.len() as u64 == self.targets() && rest.is_empty();
        let targets = right.then(|| pairs.iter().map(known).collect::<Option<_>>())??;
        Some(Facts { targets, ..Facts::default() })
    }

    fn state_bytes(&self, _: usize, stretch: usize) -> u64 {
        (2 * stretch * size_of::<f64>()) as u64
    }

    fn map(&self, stretch: Stretch, facts: &Facts, out: &mut [f32]) {
        let [base, x] = stretch.operands else { return };
        let threshold = Self::threshold(facts);
        let mut taken = [0.0; BLOCK];
        Self::importances(stretch, facts, |at, importances| {
            let part = at..at + importances.len();
            for (taken, importance) in taken.iter_mut().zip(importances) {
                *taken = f32::from(u8::from(f32::from_bits(*importance) >= threshold));
            }
            let x = [&base[part.clone()], &x[part.clone()], &taken[..part.len()]];
            let formula = |[b, x, taken]: [f32; 3]| b + (x - b) * taken;
            stretch.isa.run(Each { x, formula, out: &mut out[part] });
        });
    }
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
