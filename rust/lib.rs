//! The core of submerge: reads windows of safetensors files, combines them with SIMD kernels and
//! writes complete, verified files with constant memory.
//!
//! The core knows no model family, no default value and no Python object outside `python.rs`.
//! Modules stand on floors and import only downwards:
//! `error -> {dtype, memory} -> simd -> {io, math} -> {linalg, format} -> kernels -> {plan, stats, reader} ->
//! {resolve, schedule, report} -> {inputs, sink} -> compute -> exec -> python`.

pub mod compute;
pub mod dtype;
pub mod error;
pub mod exec;
pub mod format;
pub mod inputs;
pub mod io;
pub mod kernels;
mod linalg;
mod math;
pub mod memory;
pub mod plan;
#[cfg(feature = "python")]
mod python;
pub mod reader;
pub mod report;
pub mod resolve;
pub mod schedule;
pub mod simd;
pub mod sink;
pub mod stats;

pub use error::{Error, Result};

/// The version of the arithmetic: the same recipe and inputs give the same bytes as long as it stays.
pub const NUMERICS: u32 = 2;
