//! What a unit's operands and output are like: counts, norms and distances on a fixed grid.
//!
//! A unit is cut into cells of [`CELL`] elements and a cell into blocks of [`BLOCK`]. Blocks are
//! added in order into their cell, cells in order into the unit, both in f64. The grid is counted
//! from the unit's first element, so threads, chunks and the machine change no bit.

#![allow(clippy::inline_always)]

use serde::Serialize;

pub use self::analysis::{Analysis, Analyze, matrix, pieces};
pub use self::grid::CELL;

use crate::format::codec::{Codec, Run};
use crate::simd::{BLOCK, Body, Isa, LANES, total};

pub use crate::simd::Pair;

mod analysis;
mod grid;
mod sketch;
#[cfg(test)]
mod tests;

/// Of how many blocks of a cell one is sampled for the energy of rounding: all would cost the
/// statistics of two bf16 operands half as much again.
pub const SAMPLE: usize = 16;

/// One tile of a unit on its way to the output.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    /// Each operand, decoded.
    pub operands: &'a [&'a [f32]],
    /// What was added to what the formula gave.
    pub added: &'a [&'a [f32]],
    /// What that made, before it was rounded.
    pub values: &'a [f32],
    /// What the output is written with.
    pub to: &'a dyn Codec,
    /// The elements as written.
    pub run: Run<'a>,
}

/// The statistics of one unit, or of one cell of it. Sums run over finite elements only; how many
/// were left out is in `nonfinite`. Elements are counted from the first of the unit, or the cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnitStats {
    /// Elements of the output.
    pub elements: u64,
    /// Elements whose written value differs from the first operand's; +0 and -0 differ, NaNs do not.
    pub changed: u64,
    /// Infinite and NaN elements of each operand.
    pub nonfinite: Vec<u64>,
    /// The first of them.
    pub first_nonfinite: Vec<Option<u64>>,
    /// Infinite and NaN elements as written.
    pub nonfinite_out: u64,
    /// The first of them.
    pub first_nonfinite_out: Option<u64>,
    /// Elements whose operands are finite and whose value the output's dtype cannot hold.
    pub overflowed: u64,
    /// The first of them.
    pub first_overflowed: Option<u64>,
    /// Whether every element as written has the value of this operand's.
    pub equal: Vec<bool>,
    /// Whether every element of each operand is 0; its norm may be without: small squares vanish.
    pub zero: Vec<bool>,
    /// Elements the next three sums were taken of: one block of every [`SAMPLE`] of a cell, the first.
    pub sampled: u64,
    /// `|written - value|^2`: what rounding to the output's dtype changed.
    pub rounding2: f64,
    /// `|value - x_0|^2`: what the formula changed.
    pub change2: f64,
    /// `|value|^2`: what the formula made.
    pub value2: f64,
    /// `|x_i|^2` of each operand.
    pub norm2: Vec<f64>,
    /// `<x_i, x_0>` of each operand.
    pub dot: Vec<f64>,
    /// `|x_i - x_0|^2` of each operand: of the differences, not a difference of norms.
    pub delta2: Vec<f64>,
    /// What an analysis of the unit found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Box<Analysis>>,
}

impl UnitStats {
    /// Nothing seen yet, of a unit with this many operands.
    #[must_use]
    pub fn new(operands: usize) -> Self {
        Self {
            elements: 0,
            changed: 0,
            nonfinite: vec![0; operands],
            first_nonfinite: vec![None; operands],
            nonfinite_out: 0,
            first_nonfinite_out: None,
            overflowed: 0,
            first_overflowed: None,
            equal: vec![true; operands],
            zero: vec![true; operands],
            sampled: 0,
            rounding2: 0.0,
            change2: 0.0,
            value2: 0.0,
            norm2: vec![0.0; operands],
            dot: vec![0.0; operands],
            delta2: vec![0.0; operands],
            analysis: None,
        }
    }

    /// Adds the next block. Every block but the last of a unit has [`BLOCK`] elements.
    ///
    /// # Panics
    /// If the number of operands is not the one given to [`UnitStats::new`] or the lengths differ.
    fn add_block(&mut self, isa: &Isa, made: Made) {
        let Made { operands, to, run, .. } = made;
        debug_assert!((self.elements as usize).is_multiple_of(BLOCK), "a short block came before");
        self.add_operands(isa, operands);
        let reference = operands[0];
        let written = to.written(isa, run, reference);
        if written.at_limit {
            self.look_for_overflow(isa, made);
        }
        if written.nonfinite > 0 && self.first_nonfinite_out.is_none() {
            let found = first_nonfinite(decoded(isa, made, &mut [0.0; BLOCK]));
            self.first_nonfinite_out = found.map(|at| at + self.elements);
        }
        self.equal[0] &= written.changed == 0;
        for (equal, x) in self.equal.iter_mut().zip(operands).skip(1) {
            // Once a block of the cell differs, the others are not compared.
            *equal = *equal && to.written(isa, run, x).changed == 0;
        }
        if (self.elements as usize / BLOCK).is_multiple_of(SAMPLE) {
            let [rounding2, change2, value2] = Energies::of(isa, made);
            self.sampled += reference.len() as u64;
            self.rounding2 += rounding2;
            self.change2 += change2;
            self.value2 += value2;
        }
        self.elements += reference.len() as u64;
        self.changed += written.changed;
        self.nonfinite_out += written.nonfinite;
    }

    /// Adds the norms, products and distances of the next operands; counts no elements.
    /// Whether all of them are finite.
    ///
    /// # Panics
    /// If the number of operands is not the one given to [`UnitStats::new`] or the lengths differ.
    pub fn add_operands(&mut self, isa: &Isa, operands: &[&[f32]]) -> bool {
        assert_eq!(operands.len(), self.nonfinite.len(), "operands of the statistics");
        let mut all_finite = true;
        for (i, x) in operands.iter().enumerate() {
            let pair = if i == 0 { isa.norm2(x) } else { isa.gram(x, operands[0]) };
            if pair.nonfinite > 0 && self.first_nonfinite[i].is_none() {
                self.first_nonfinite[i] = first_nonfinite(x).map(|at| at + self.elements);
            }
            all_finite &= pair.nonfinite == 0;
            let nothing = pair.norm2 == 0.0 && pair.nonfinite == 0;
            self.zero[i] = self.zero[i] && nothing && x.iter().all(|x| *x == 0.0);
            self.nonfinite[i] += pair.nonfinite;
            self.norm2[i] += pair.norm2;
            self.dot[i] += pair.dot;
            self.delta2[i] += pair.delta2;
        }
        all_finite
    }

    /// Ends the unit.
    pub fn finish(&mut self) {
        self.analysis.iter_mut().for_each(|analysis| analysis.finish());
    }

    fn look_for_overflow(&mut self, isa: &Isa, made: Made) {
        let limit = made.to.overflow();
        if isa.run(Within(made.values, limit)) {
            return;
        }
        let overflowed = |made: Made, i: usize| {
            let fits = made.values[i].abs() < limit; // not a NaN
            !fits && made.operands.iter().chain(made.added).all(|x| x[i].is_finite())
        };
        let count = (0..made.values.len()).filter(|i| overflowed(made, *i)).count();
        self.overflowed += count as u64;
        if self.first_overflowed.is_none() {
            let found = first_where(made, overflowed);
            self.first_overflowed = found.map(|at| at + self.elements);
        }
    }

    /// Adds the next tile of a cell, block by block.
    pub fn add<'a>(&mut self, isa: &Isa, made: Made<'a>) {
        let Made { operands, added, values, to, run } = made;
        let n = values.len();
        if n <= BLOCK {
            return self.add_block(isa, made);
        }
        for first in (0..n).step_by(BLOCK) {
            let block = first..n.min(first + BLOCK);
            let of =
                |all: &[&'a [f32]]| -> Vec<_> { all.iter().map(|x| &x[block.clone()]).collect() };
            let (operands, added) = (&of(operands), &of(added));
            let first = run.first + (block.start / to.block().elements) as u64;
            let run = Run { first, bytes: &run.bytes[to.block().range(block.clone())], ..run };
            let values = &values[block.clone()];
            self.add_block(isa, Made { operands, added, values, to, run });
        }
    }

    /// Adds what of a copied tile can be seen in its decoded elements.
    pub fn add_copied(&mut self, isa: &Isa, values: &[f32]) {
        let count = isa.count_nonfinite(values);
        if count > 0 && self.first_nonfinite_out.is_none() {
            self.first_nonfinite_out = first_nonfinite(values).map(|at| at + self.elements);
        }
        self.nonfinite_out += count;
        self.elements += values.len() as u64;
    }

    /// Adds the next cell of the grid. Cells are added in grid order.
    pub fn merge_next(&mut self, cell: &Self) {
        let before = self.elements;
        for (first, next) in self.first_nonfinite.iter_mut().zip(&cell.first_nonfinite) {
            *first = first.or(next.map(|at| at + before));
        }
        let firsts = [
            (&mut self.first_nonfinite_out, cell.first_nonfinite_out),
            (&mut self.first_overflowed, cell.first_overflowed),
        ];
        for (first, next) in firsts {
            *first = first.or(next.map(|at| at + before));
        }
        self.elements += cell.elements;
        self.changed += cell.changed;
        self.nonfinite_out += cell.nonfinite_out;
        self.overflowed += cell.overflowed;
        self.sampled += cell.sampled;
        self.rounding2 += cell.rounding2;
        self.change2 += cell.change2;
        self.value2 += cell.value2;
        self.equal.iter_mut().zip(&cell.equal).for_each(|(equal, next)| *equal &= next);
        self.zero.iter_mut().zip(&cell.zero).for_each(|(zero, next)| *zero &= next);
        add(&mut self.nonfinite, &cell.nonfinite);
        add(&mut self.norm2, &cell.norm2);
        add(&mut self.dot, &cell.dot);
        add(&mut self.delta2, &cell.delta2);
        if let (Some(sums), Some(cell)) = (&mut self.analysis, &cell.analysis) {
            sums.merge_next(cell);
        }
    }
}

fn first_nonfinite(values: &[f32]) -> Option<u64> {
    values.iter().position(|x| !x.is_finite()).map(|at| at as u64)
}

fn first_where(made: Made, holds: impl Fn(Made, usize) -> bool) -> Option<u64> {
    (0..made.values.len()).find(|i| holds(made, *i)).map(|at| at as u64)
}

/// Whether all magnitudes are below a limit, and none is a NaN.
struct Within<'a>(&'a [f32], f32);

impl Body for Within<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        self.0.iter().fold(true, |within, x| within & (x.abs() < self.1))
    }
}

/// `sum (written - value)^2`, `sum (value - reference)^2` and `sum value^2` of one block, each difference
/// rounded to f32 and the sums formed as [`Isa::gram`] forms them.
struct Energies<'a> {
    written: &'a [f32],
    values: &'a [f32],
    reference: &'a [f32],
}

impl Energies<'_> {
    fn of(isa: &Isa, made: Made) -> [f64; 3] {
        let mut buffer = [0.0; BLOCK];
        let written = decoded(isa, made, &mut buffer);
        let energies = Energies { written, values: made.values, reference: made.operands[0] };
        let sums = isa.run(Energies { ..energies });
        if sums.iter().all(|sum| sum.is_finite()) { sums } else { energies.in_f64() }
    }

    /// In f64, without the elements of which anything is not finite.
    #[cold]
    fn in_f64(&self) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for ((w, x), r) in self.written.iter().zip(self.values).zip(self.reference) {
            if w.is_finite() && x.is_finite() && r.is_finite() {
                let (w, x, r) = (f64::from(*w), f64::from(*x), f64::from(*r));
                sums[0] += (w - x) * (w - x);
                sums[1] += (x - r) * (x - r);
                sums[2] += x * x;
            }
        }
        sums
    }
}

impl Body for Energies<'_> {
    type Output = [f64; 3];

    #[inline(always)]
    fn run(self) -> [f64; 3] {
        let (mut rounding2, mut change2, mut value2) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut add = |lane: usize, w: f32, x: f32, r: f32| {
            rounding2[lane] += (w - x) * (w - x);
            change2[lane] += (x - r) * (x - r);
            value2[lane] += x * x;
        };
        let (w_rows, w_rest) = self.written.as_chunks::<LANES>();
        let (x_rows, x_rest) = self.values.as_chunks::<LANES>();
        let (r_rows, r_rest) = self.reference.as_chunks::<LANES>();
        for ((w, x), r) in w_rows.iter().zip(x_rows).zip(r_rows) {
            for lane in 0..LANES {
                add(lane, w[lane], x[lane], r[lane]);
            }
        }
        for (lane, ((w, x), r)) in w_rest.iter().zip(x_rest).zip(r_rest).enumerate() {
            add(lane, *w, *x, *r);
        }
        [total(&rounding2), total(&change2), total(&value2)]
    }
}

/// The elements as written.
fn decoded<'a>(isa: &Isa, made: Made, buffer: &'a mut [f32; BLOCK]) -> &'a [f32] {
    let written = &mut buffer[..made.values.len()];
    made.to.decode(isa, made.run, written);
    written
}

fn add<T: Copy + std::ops::AddAssign>(sums: &mut [T], next: &[T]) {
    assert_eq!(sums.len(), next.len(), "operands of two cells");
    for (sum, next) in sums.iter_mut().zip(next) {
        *sum += *next;
    }
}
