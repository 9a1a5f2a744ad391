//! Some whole rows of an operand, made together: a factor that every row needs is loaded once for all.

#![allow(clippy::inline_always)]

use std::ops::Range;

use super::kept::Kept;
use super::open::{Open, Scratch, Sum};
use crate::linalg::thin::{Left, Onto, Right, length, multiply};
use crate::plan::Norm;
use crate::resolve::rows::OpenRows;
use crate::resolve::{Kronecker, Magnitude};
use crate::simd::{BLOCK, Body, Isa};

/// The rows of an operand that were made last.
#[derive(Debug, Default)]
pub struct Panel {
    /// The elements that hold what the operand is, counted from the first of the unit.
    pub made: Range<u64>,
    /// The rows they stand in, and the first element of these.
    rows: Range<u64>,
    first: u64,
    values: Vec<f32>,
    /// One product of two that are multiplied.
    other: Vec<f32>,
    left: Left,
    /// A row of `up`.
    up: Vec<f32>,
    /// The lengths of the rows of the first term.
    base: Vec<f32>,
    /// These rows themselves, and what they are times a factor.
    weight: Vec<f32>,
    middle: Vec<f32>,
}

impl Panel {
    /// Elements that were made.
    #[must_use]
    pub fn get(&self, elements: Range<u64>) -> &[f32] {
        let at = (elements.start - self.first) as usize;
        &self.values[at..][..(elements.end - elements.start) as usize]
    }

    /// Make the rows from the one that holds `element` on.
    pub fn make(
        &mut self,
        isa: &Isa,
        sum: &Sum,
        kept: &[Kept],
        element: u64,
        scratch: &mut Scratch,
    ) {
        let columns = sum.columns;
        let row = element / columns;
        self.rows = row..sum.span.end.div_ceil(columns).min(row + sum.panel.unwrap_or(1));
        self.first = self.rows.start * columns;
        let end = self.rows.end * columns;
        self.made = self.first.max(sum.span.start)..end.min(sum.span.end);
        let len = (end - self.first) as usize;
        self.values.resize(len.max(self.values.len()), 0.0);
        let wants_base =
            |term: &Open| matches!(term, Open::Magnitude(Magnitude { norm: Norm::Base, .. }));
        let wants_weight = |term: &Open| matches!(term, Open::Multiplied(_));
        for (at, (term, kept)) in sum.terms.iter().zip(kept).enumerate() {
            self.put(isa, (term, kept), at > 0, columns, scratch);
            if at == 0 && sum.terms.iter().any(wants_weight) {
                self.weight.clear();
                self.weight.extend_from_slice(&self.values[..len]);
            }
            if at == 0 && sum.terms.iter().any(wants_base) {
                let rows = self.values[..len].chunks(columns as usize);
                self.base.clear();
                self.base.extend(rows.map(|row| length(isa, row)));
            }
        }
    }

    fn put(
        &mut self,
        isa: &Isa,
        (term, kept): (&Open, &Kept),
        add: bool,
        columns: u64,
        scratch: &mut Scratch,
    ) {
        let onto = |scale: f32| if add { Onto::Add(scale) } else { Onto::Set(scale) };
        match (term, kept) {
            (Open::LowRank(of, up), Kept::Thin(down)) => {
                self.multiply(isa, (up, down), of.product.rank, onto(of.scale), scratch);
            }
            (Open::Multiplied(of), Kept::Pair(factors)) => {
                self.through(isa, factors, (columns as usize, of.product.rank), onto(of.scale));
            }
            (Open::Hadamard(of, [left, right]), Kept::Pair([left_down, right_down])) => {
                std::mem::swap(&mut self.values, &mut self.other);
                let len = (self.rows.end - self.rows.start) * columns;
                self.values.resize(self.values.len().max(len as usize), 0.0);
                let one = Onto::Set(1.0);
                self.multiply(isa, (left, left_down), of.left.rank, one, scratch);
                self.multiply(isa, (right, right_down), of.right.rank, Onto::Times, scratch);
                std::mem::swap(&mut self.values, &mut self.other);
                let (from, out) = (&self.other[..len as usize], &mut self.values[..len as usize]);
                if add {
                    isa.add_scaled(from, of.scale, out);
                } else {
                    isa.scale(from, of.scale, out);
                }
            }
            (Open::Kronecker(of), Kept::Factors(factors)) => {
                let rows = self.values.chunks_mut(columns as usize);
                for (row, out) in self.rows.clone().zip(rows) {
                    kronecker(isa, of, factors, of.first + row, onto(of.scale), out);
                }
            }
            (Open::Magnitude(of), Kept::Values(values)) => self.rescale(isa, of, values, columns),
            _ => {
                let first = self.first;
                for at in self.made.clone().step_by(BLOCK) {
                    let end = self.made.end.min(at + BLOCK as u64);
                    let out = &mut self.values[(at - first) as usize..(end - first) as usize];
                    term.put(isa, at..end, add, scratch, out);
                }
            }
        }
    }

    fn multiply(
        &mut self,
        isa: &Isa,
        (up, down): (&OpenRows, &Right),
        rank: usize,
        onto: Onto,
        scratch: &mut Scratch,
    ) {
        let Self { rows, values, left, up: factors, .. } = self;
        let count = (rows.end - rows.start) as usize;
        left.begin(count, rank);
        factors.resize(rank.max(factors.len()), 0.0);
        let factors = &mut factors[..rank];
        for (at, row) in rows.clone().enumerate() {
            let place = row * rank as u64..(row + 1) * rank as u64;
            up.decode(isa, place, &mut scratch.room, factors);
            left.set(at, factors);
        }
        multiply(isa, left, down, onto, &mut values[..count * down.columns()]);
    }

    /// The rows of the first term times one factor, and that times the other.
    fn through(
        &mut self,
        isa: &Isa,
        [up, down]: &[Right; 2],
        (columns, rank): (usize, usize),
        onto: Onto,
    ) {
        let Self { values, left, weight, middle, .. } = self;
        let count = weight.len() / columns;
        left.begin(count, columns);
        weight.chunks_exact(columns).enumerate().for_each(|(at, row)| left.set(at, row));
        middle.resize((count * rank).max(middle.len()), 0.0);
        let middle = &mut middle[..count * rank];
        multiply(isa, left, up, Onto::Set(1.0), middle);
        left.begin(count, rank);
        middle.chunks_exact(rank).enumerate().for_each(|(at, row)| left.set(at, row));
        multiply(isa, left, down, onto, &mut values[..count * columns]);
    }

    /// Sets the lengths of rows; all of them are whole.
    fn rescale(&mut self, isa: &Isa, of: &Magnitude, values: &[f32], columns: u64) {
        let rows = self.values.chunks_mut(columns as usize);
        for (at, (row, out)) in self.rows.clone().zip(rows).enumerate() {
            let norm = match of.norm {
                Norm::Sum => length(isa, out),
                Norm::Base => self.base[at],
            };
            let ratio = values[row as usize] / (norm + of.epsilon);
            let factor = of.strength * (ratio - 1.0) + 1.0;
            isa.run(Rescale { factor, out });
        }
    }
}

/// One row of a Kronecker product.
fn kronecker(
    isa: &Isa,
    of: &Kronecker,
    [left, right]: &[Vec<f32>; 2],
    row: u64,
    onto: Onto,
    out: &mut [f32],
) {
    let (wide, narrow) = (of.left.columns as usize, of.right.columns as usize);
    let (repeated, within) = ((row / of.right.rows) as usize, (row % of.right.rows) as usize);
    let left = &left[repeated * wide..][..wide];
    let right = &right[within * narrow..][..narrow];
    isa.run(Repeat { left, right, onto, out });
}

/// `out = out · factor`.
struct Rescale<'a> {
    factor: f32,
    out: &'a mut [f32],
}

impl Body for Rescale<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for x in self.out {
            *x *= self.factor;
        }
    }
}

/// A row, repeated with each element of another.
struct Repeat<'a> {
    left: &'a [f32],
    right: &'a [f32],
    onto: Onto,
    out: &'a mut [f32],
}

impl Body for Repeat<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (factor, out) in self.left.iter().zip(self.out.chunks_mut(self.right.len().max(1))) {
            let pairs = out.iter_mut().zip(self.right);
            match self.onto {
                Onto::Set(scale) => pairs.for_each(|(out, x)| *out = factor * x * scale),
                Onto::Add(scale) => pairs.for_each(|(out, x)| *out += factor * x * scale),
                Onto::Times => pairs.for_each(|(out, x)| *out *= factor * x),
            }
        }
    }
}
