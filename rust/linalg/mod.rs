//! Linear algebra of this crate's own: sums, products, quotients and square roots in a fixed order, so
//! that the bits depend on nothing but the matrices. In f64, but for the large products of a low-rank
//! factoring. It knows nothing of merging.

#![allow(clippy::inline_always)]
#![allow(clippy::many_single_char_names)] // the letters of the books

pub mod cholesky;
pub mod common;
pub mod eigen;
pub mod engine;
pub mod factors;
pub mod gemm;
pub mod inverse;
pub mod lanes;
pub mod long;
pub mod polar;
pub mod power;
pub mod recompress;
pub mod residual;
pub mod sketch;
pub mod spectrum;
mod sweeps;
pub mod thin;
mod tridiagonal;
