//! GGUF headers, read strictly and written exactly.
//!
//! A file is `GGUF`, a version, the number of tensors and of key-values, the key-values, an entry for
//! each tensor (name, dimensions fastest first, type, offset) and, aligned, their data. Source: the
//! specification in ggml's docs/gguf.md, and ggml's gguf.cpp where that is silent. Versions 2 and 3 of
//! it are equal but for byte order; only little endian is read.
//!
//! Reading is a total function over hostile bytes: nothing is allocated for a number that the file
//! merely claims, every size is checked with 64-bit arithmetic against the size of the file, and each
//! byte of the header is looked at once. What an array holds is skipped, but for the shapes of tensors
//! that were flattened. Tensors tile the data up to the padding that their alignment asks for.

mod cursor;
mod form;
mod keys;
mod open;
mod types;
mod write;

pub use form::{ALIGNMENT, MAGIC, aligned};
pub use open::read;
pub use types::Type;
pub use write::{Entry, MAX_NAME, encode};
