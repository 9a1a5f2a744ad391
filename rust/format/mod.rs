//! File formats: where tensors are in a file, and what their bytes mean.
//!
//! # How to add a container
//! A folder here that makes a [`Header`] of a source and the bytes before the data of a new file; its
//! line in [`Container`], in [`read`] and in the plan's `ContainerSpec`.

pub mod codec;
mod flaw;
mod foreign;
pub mod gguf;
mod header;
mod open;
pub mod safetensors;
mod tensor;

pub use header::{Blocks, Container, Header};
pub use open::read;
pub use tensor::Tensor;
