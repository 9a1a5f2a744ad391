//! Merge formulas on slices of f32: one type each, the arguments as the plan spells them.
//!
//! A kernel sees one tile of each operand, decoded, and fills one tile of output; names, paths,
//! dtypes and threads are the business of `exec`. Its doc comment holds the formula, the order of
//! operations, the rounding and the source: together they are what the output bytes mean, so a
//! change there is a change of the numerics version.
//!
//! Most kernels need nothing but the elements in front of them ([`kernel::Direct`]). Others see the
//! whole unit first, in passes whose sums teach what the map needs ([`kernel::Kernel`]), or solve it as one
//! matrix ([`matrix::Make`]).
//!
//! # How to add one
//! 1. Write its file in the folder of its family: a struct with the arguments, its formula, and the
//!    trait of the family.
//! 2. Add its row to the table of the family: from that come the name a plan may use, how it is run,
//!    and what `build_info` lists.
//! 3. Write the formula in one line of f64 in a test and compare the two.

pub(crate) mod adaptive;
mod check;
pub(crate) mod combine;
pub(crate) mod delta;
#[cfg(test)]
mod driven;
mod each;
pub(crate) mod family;
mod gram;
pub(crate) mod kernel;
pub(crate) mod linear;
pub(crate) mod matrix;
#[cfg(test)]
mod naive;
pub(crate) mod pointwise;
#[cfg(test)]
mod recall;
pub mod runner;
mod select;
pub(crate) mod smooth;
pub mod tile;
mod weights;
