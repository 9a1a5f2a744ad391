//! What a kernel gathers over a whole unit, and what it learns from it.

#![allow(clippy::inline_always)]

use super::Stretch;
use super::adaptive::Facts;
use super::delta::{Found, Lengths};
use super::gram::Gram;
use super::matrix::Made;
use super::select::{Sample, Tally};
use crate::simd::{BLOCK, Body};

/// Sums over a stretch of a unit, in the making.
#[derive(Clone, Debug)]
pub enum Sums {
    /// Inner products of the operands.
    Gram(Gram),
    /// Some of the magnitudes.
    Samples(Vec<Sample>),
    /// Counts of magnitudes.
    Tallies(Vec<Tally>),
    /// Sums of magnitudes.
    Lengths(Lengths),
    /// Whole numbers.
    Counts(Vec<u64>),
    /// Sums in f64; none at all stands for as many zeros as there are.
    Totals(Vec<f64>),
    /// A number for each row.
    Rows(Vec<f32>),
}

impl Sums {
    /// Whether they are whole numbers, which add up alike however the stream is cut.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Gram(_) | Self::Lengths(_) | Self::Totals(_) => false,
            // Rows are not added up, but stand in order.
            Self::Samples(_) | Self::Tallies(_) | Self::Counts(_) | Self::Rows(_) => true,
        }
    }

    /// To be called when a stretch of the grid ends: what waits to be counted is counted.
    pub fn settle(&mut self) {
        if let Self::Tallies(tallies) = self {
            tallies.iter_mut().for_each(Tally::settle);
        }
    }

    /// Adds the sums of the next stretch of the grid. Both are of the same kind and size.
    pub fn merge_next(&mut self, next: &Self) {
        match (self, next) {
            (Self::Gram(sums), Self::Gram(next)) => sums.merge_next(next),
            (Self::Lengths(sums), Self::Lengths(next)) => sums.merge_next(next),
            (Self::Samples(sums), Self::Samples(next)) => {
                sums.iter_mut().zip(next).for_each(|(sum, next)| sum.merge(next));
            }
            (Self::Tallies(sums), Self::Tallies(next)) => {
                sums.iter_mut().zip(next).for_each(|(sum, next)| sum.merge(next));
            }
            (Self::Counts(sums), Self::Counts(next)) => {
                sums.iter_mut().zip(next).for_each(|(sum, next)| *sum += next);
            }
            (Self::Totals(sums), Self::Totals(next)) => {
                sums.resize(sums.len().max(next.len()), 0.0);
                sums.iter_mut().zip(next).for_each(|(sum, next)| *sum += next);
            }
            (Self::Rows(rows), Self::Rows(next)) => rows.extend(next),
            _ => debug_assert!(false, "sums of two kinds"),
        }
    }
}

/// What a kernel knows of a unit when it maps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Learned {
    /// Nothing: it never looked, or not yet.
    #[default]
    Nothing,
    /// The weights of a sum over the operands.
    Weights(Weights),
    /// Which differences stay, or with what factor.
    Delta(Found),
    /// How far models differ, and where.
    Adaptive(Facts),
    /// What was made of the whole unit.
    Matrix(Made),
}

impl Learned {
    /// What is unusual about the unit, if anything is.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        match self {
            Self::Nothing | Self::Delta(_) | Self::Adaptive(_) => None,
            Self::Weights(weights) => weights.note,
            Self::Matrix(made) => Some(made.note.as_str()).filter(|note| !note.is_empty()),
        }
    }
}

/// A weighted sum of the operands of a unit, or of what they add to the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    from_base: bool,
    each: Vec<f32>,
    note: Option<&'static str>,
}

impl Weights {
    /// One weight for each operand, or with a base for each but the first; each is rounded to f32.
    #[must_use]
    pub fn new(from_base: bool, weights: &[f64]) -> Self {
        let each = weights.iter().map(|&w| w as f32).collect();
        Self { from_base, each, note: None }
    }

    /// The same, with a remark for the report.
    #[must_use]
    pub fn noting(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }

    /// Fills `out` with `sum_i w_i x_i`, or with a base `x_0 + sum_i w_i (x_i - x_0)`.
    ///
    /// Order: operand by operand. Every difference, product and sum is rounded to f32, and no
    /// multiply-add is fused; an operand of weight 0 is left out.
    ///
    /// # Panics
    /// If there is not one weight for each operand, or the lengths differ.
    pub fn sum(&self, stretch: Stretch, out: &mut [f32]) {
        let operands = stretch.operands;
        assert_eq!(operands.len(), self.each.len() + usize::from(self.from_base), "operands");
        if self.from_base {
            return self.sum_from_base(stretch, out);
        }
        let mut terms = operands.iter().zip(&self.each).filter(|(_, w)| **w != 0.0);
        match (terms.next(), terms.next()) {
            (Some((x0, w0)), Some((x1, w1))) => stretch.isa.blend([x0, x1], [*w0, *w1], out),
            (Some((x, w)), None) => stretch.isa.scale(x, *w, out),
            (None, _) => out.fill(0.0),
        }
        terms.for_each(|(x, w)| stretch.isa.add_scaled(x, *w, out));
    }

    fn sum_from_base(&self, stretch: Stretch, out: &mut [f32]) {
        let base = stretch.operands[0];
        for first in (0..out.len()).step_by(BLOCK) {
            let block = first..out.len().min(first + BLOCK);
            let (out, base) = (&mut out[block.clone()], &base[block.clone()]);
            out.copy_from_slice(base);
            for (x, weight) in stretch.operands[1..].iter().zip(&self.each) {
                if *weight != 0.0 {
                    let x = &x[block.clone()];
                    stretch.isa.run(Add { x, base, weight: *weight, out: &mut *out });
                }
            }
        }
    }
}

/// `out = out + weight * (x - base)`, each step rounded to f32.
struct Add<'a> {
    x: &'a [f32],
    base: &'a [f32],
    weight: f32,
    out: &'a mut [f32],
}

impl Body for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, x), base) in self.out.iter_mut().zip(self.x).zip(self.base) {
            *out += self.weight * (x - base);
        }
    }
}
