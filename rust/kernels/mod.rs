//! Merge formulas on slices of f32: one file per family, an arguments struct with a `map`.
//!
//! A kernel sees one block of each operand, decoded, and fills one block of output; names, paths,
//! dtypes and threads are the business of `exec`. Its doc comment holds the formula, the order of
//! operations, the rounding and the source: together they are what the output bytes mean, so a
//! change there is a change of the numerics version.
//!
//! # How to add one
//! 1. Write `kernels/<family>.rs`: a struct with the arguments as the plan spells them and
//!    `map(&self, isa, operands, out)`.
//! 2. Add its line to [`Kernel`] and to [`Kernel::map`].
//! 3. Write the formula in one line of f64 in `naive.rs` and a test that compares the two.

use crate::simd::Isa;

mod linear;
pub mod mlp;
#[cfg(test)]
mod naive;

pub use linear::Linear;

/// The formula of one unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// A weighted sum.
    Linear(Linear),
}

impl Kernel {
    /// Whether the arguments are usable with this many operands; else what is wrong with them.
    ///
    /// # Errors
    /// A sentence without the place, which the caller knows.
    pub fn check(&self, operands: usize) -> Result<(), String> {
        match self {
            Self::Linear(linear) => linear.check(operands),
        }
    }

    /// Fills `out` from one block of every operand, in the plan's order.
    ///
    /// # Panics
    /// If there are no operands, their number is not the kernel's, or the lengths differ.
    pub fn map(&self, isa: &Isa, operands: &[&[f32]], out: &mut [f32]) {
        match self {
            Self::Linear(linear) => linear.map(isa, operands, out),
        }
    }
}
