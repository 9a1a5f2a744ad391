//! Merge formulas on slices of f32: one file per family, an arguments struct with a `map`.
//!
//! A kernel sees one stretch of each operand, decoded, and fills one stretch of output; names,
//! paths, dtypes and threads are the business of `exec`. Its doc comment holds the formula, the
//! order of operations, the rounding and the source: together they are what the output bytes mean,
//! so a change there is a change of the numerics version.
//!
//! Most kernels need nothing but the elements in front of them. Some first look at the whole unit:
//! they name a number of passes, make [`Sums`] of every stretch in each, and turn the total of a
//! pass into what they have [`Learned`]. Others need whole rows at once ([`Kernel::by_rows`]), or
//! the whole unit ([`Matrix`]).
//!
//! # How to add one
//! 1. Write `kernels/<family>.rs`: a struct with the arguments as the plan spells them, `check` and
//!    `map`, and `passes`, `start`, `reduce` and `learn` if it looks first.
//!    If what its looks find is a few numbers, `recall.rs` says how a later job is told them.
//! 2. Add its line to [`Kernel`], to the matches below, and to the plan's operations.
//! 3. Write the formula in one line of f64 in `naive.rs` and a test that compares the two.

use std::ops::Range;

use self::gram::Gram;
use crate::simd::Isa;

mod adaptive;
mod combine;
mod delta;
mod each;
mod exp;
pub mod gram;
mod linear;
pub mod matrix;
pub mod mlp;
#[cfg(test)]
mod naive;
pub mod noise;
mod pointwise;
mod recall;
mod rows;
mod select;
mod smooth;
mod sums;
mod trig;

pub use adaptive::Adaptive;
pub use combine::Combine;
pub use delta::Delta;
pub use linear::Linear;
pub use matrix::Matrix;
pub use pointwise::Pointwise;
pub use rows::Rows;
pub use smooth::Smooth;
pub use sums::{Learned, Sums, Weights};

/// The formula of one unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// A weighted sum.
    Linear(Linear),
    /// A weighted sum whose weights follow from norms and angles.
    Combine(Combine),
    /// The same, row by row.
    Rows(Rows),
    /// What models add to a base.
    Delta(Delta),
    /// A formula of single elements.
    Pointwise(Pointwise),
    /// A formula of single elements, with numbers that follow from the whole unit.
    Adaptive(Adaptive),
    /// A formula of an element and its neighbours.
    Smooth(Smooth),
    /// A formula of whole matrices.
    Matrix(Matrix),
}

/// One stretch of every operand of a unit, decoded.
#[derive(Clone, Copy)]
pub struct Stretch<'a> {
    /// The kernels' arithmetic.
    pub isa: &'static Isa,
    /// Index of the first element in the unit: what random masks and tie rules count from.
    pub first: u64,
    /// Elements of one row of the unit.
    pub row: usize,
    /// Elements shown before and after those to fill, as far as the kernel's halo and the unit go.
    pub around: [usize; 2],
    /// The operands, in the plan's order, all of one length.
    pub operands: &'a [&'a [f32]],
}

impl<'a> Stretch<'a> {
    /// The operands without what is shown around the elements to fill, if there is anything.
    #[must_use]
    pub fn inner(&self) -> Option<Vec<&'a [f32]>> {
        let [before, after] = self.around;
        let inner = |x: &&'a [f32]| &x[before..x.len() - after];
        (before + after > 0).then(|| self.operands.iter().map(inner).collect())
    }
}

/// A unit as a whole, to a kernel that looks at it first.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// How many operands it has.
    pub operands: usize,
    /// How many elements.
    pub elements: u64,
}

impl Kernel {
    /// Whether the arguments are usable with this many operands; else what is wrong with them.
    ///
    /// # Errors
    /// A sentence without the place, which the caller knows.
    pub fn check(&self, operands: usize) -> Result<(), String> {
        match self {
            Self::Linear(linear) => linear.check(operands),
            Self::Combine(combine) | Self::Rows(Rows(combine)) => combine.check(operands),
            Self::Delta(delta) => delta.check(operands),
            Self::Pointwise(pointwise) => pointwise.check(operands),
            Self::Adaptive(adaptive) => adaptive.check(operands),
            Self::Smooth(smooth) => smooth.check(operands),
            Self::Matrix(matrix) => matrix.check(operands),
        }
    }

    /// Whether `map` must see whole rows.
    #[must_use]
    pub fn by_rows(&self) -> bool {
        match self {
            Self::Linear(_) | Self::Combine(_) | Self::Pointwise(_) | Self::Matrix(_) => false,
            Self::Rows(_) | Self::Smooth(_) => true,
            Self::Delta(delta) => delta.by_rows(),
            Self::Adaptive(adaptive) => adaptive.by_rows(),
        }
    }

    /// How many rows above and below those to fill `map` must see.
    #[must_use]
    pub fn halo(&self) -> usize {
        match self {
            Self::Smooth(_) => smooth::HALO,
            _ => 0,
        }
    }

    /// The most elements of a unit.
    #[must_use]
    pub fn longest(&self) -> u64 {
        match self {
            Self::Delta(_) | Self::Adaptive(_) => select::LONGEST,
            _ => u64::MAX,
        }
    }

    /// How often the whole unit is looked at before it is mapped.
    #[must_use]
    pub fn passes(&self) -> usize {
        match self {
            Self::Linear(_)
            | Self::Rows(_)
            | Self::Pointwise(_)
            | Self::Smooth(_)
            | Self::Matrix(_) => 0,
            Self::Combine(_) => 1,
            Self::Delta(delta) => delta.passes(),
            Self::Adaptive(adaptive) => adaptive.passes(),
        }
    }

    /// Empty sums of a pass; `None` when what was learned makes the pass needless.
    #[must_use]
    pub fn start(&self, pass: usize, whole: Whole, learned: &Learned) -> Option<Sums> {
        match (self, pass, learned) {
            (Self::Combine(_), 0, _) => Some(Sums::Gram(Gram::new(whole.operands))),
            (Self::Delta(delta), ..) => delta.start(pass, whole, learned),
            (Self::Adaptive(adaptive), ..) => adaptive.start(pass, whole, learned),
            _ => None,
        }
    }

    /// The elements of `part` that the next pass must see; all of it, unless the sums are exact.
    #[must_use]
    pub fn spans(&self, whole: Whole, learned: &Learned, part: Range<u64>) -> Vec<Range<u64>> {
        match self {
            Self::Delta(delta) => delta.spans(whole, learned, part),
            _ => vec![part],
        }
    }

    /// Adds a stretch to the sums of a pass.
    pub fn reduce(&self, pass: usize, stretch: Stretch, learned: &Learned, sums: &mut Sums) {
        match (self, sums) {
            (Self::Combine(_), Sums::Gram(gram)) => gram.add(stretch),
            (Self::Delta(delta), sums) => delta.reduce(pass, stretch, learned, sums),
            (Self::Adaptive(adaptive), sums) => adaptive.reduce(pass, stretch, learned, sums),
            _ => {}
        }
    }

    /// What the total of a pass teaches.
    #[must_use]
    pub fn learn(&self, pass: usize, sums: &Sums, learned: &Learned) -> Learned {
        match (self, sums) {
            (Self::Combine(combine), Sums::Gram(gram)) => Learned::Weights(combine.weigh(gram)),
            (Self::Delta(delta), sums) => delta.learn(pass, sums, learned),
            (Self::Adaptive(adaptive), sums) => adaptive.learn(pass, sums, learned),
            _ => learned.clone(),
        }
    }

    /// Bytes that a worker holds besides the operands, of which it sees `stretch` elements at once.
    #[must_use]
    pub fn state_bytes(&self, operands: usize, stretch: usize) -> u64 {
        match self {
            Self::Linear(_) | Self::Pointwise(_) | Self::Matrix(_) => 0,
            Self::Delta(delta) => delta.state_bytes(stretch),
            Self::Adaptive(adaptive) => adaptive.state_bytes(operands, stretch),
            Self::Smooth(_) => Smooth::state_bytes(stretch),
            Self::Combine(_) | Self::Rows(_) => Gram::bytes(operands),
        }
    }

    /// Bytes of what is known of a unit while it is made, whatever the number of workers.
    #[must_use]
    pub fn kept_bytes(&self, whole: Whole) -> u64 {
        match self {
            Self::Delta(delta) => delta.kept_bytes(whole.elements),
            Self::Adaptive(adaptive) => adaptive.kept_bytes(),
            Self::Combine(_) => Gram::bytes(whole.operands),
            _ => 0,
        }
    }

    /// Fills `out` from one stretch of every operand.
    ///
    /// # Panics
    /// If there are no operands, their number is not the kernel's, or the lengths differ by other than
    /// [`Stretch::around`].
    pub fn map(&self, stretch: Stretch, learned: &Learned, out: &mut [f32]) {
        match self {
            Self::Linear(linear) => linear.map(stretch.isa, stretch.operands, out),
            Self::Combine(_) => match learned {
                Learned::Weights(weights) => weights.sum(stretch, out),
                _ => out.fill(f32::NAN),
            },
            Self::Rows(rows) => rows.map(stretch, out),
            Self::Delta(delta) => delta.map(stretch, learned, out),
            Self::Pointwise(pointwise) => pointwise.map(stretch, out),
            Self::Adaptive(adaptive) => adaptive.map(stretch, learned, out),
            Self::Smooth(smooth) => smooth.map(stretch, out),
            Self::Matrix(matrix) => match learned {
                Learned::Matrix(made) => matrix.map(stretch, made, out),
                _ => out.fill(f32::NAN),
            },
        }
    }
}
