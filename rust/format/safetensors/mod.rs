//! Safetensors headers, read strictly and written exactly.
//!
//! A file is `u64 length (little endian) | length bytes of JSON | tensor data`. The JSON is one
//! object: an optional `__metadata__` map of strings, then one entry per tensor with `dtype`,
//! `shape` and `data_offsets` (a half-open byte range inside the data). Source: the format section
//! of the safetensors README, and the behaviour of the `safetensors` crate where that is silent.
//!
//! Reading is a total function over hostile bytes: every size is checked with 64-bit arithmetic
//! against the size of the file before memory is asked for, and what is allocated stays within a
//! small multiple of the header's length. What is refused although the `safetensors` crate takes it
//! is ambiguous (duplicate names, unknown fields, entries that are not objects) or beyond the
//! limits below; nothing is accepted that the crate refuses, but for its fixed limit of 100 MB.

mod json;
mod open;
mod parse;
mod tensor;
mod write;

pub use super::header::Header;
pub use super::tensor::Tensor;
pub use open::read;
pub use parse::parse;
pub use write::encode;
