//! File formats: where tensors are in a file, and what their bytes mean.

pub mod codec;
pub mod safetensors;
