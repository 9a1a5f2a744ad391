//! What bytes mean: runs of blocks, with what stands beside them, to f32 and back.
//!
//! An element of a number format may share its bytes with its neighbours (a block with a scale of
//! its own) or need a tensor of scales beside it. So nothing above this module counts bytes per
//! element: it asks [`Block`] how a range of elements is cut, and a [`Codec`] for the numbers. Before
//! it is asked to encode, a codec is shown what it [`Need`]s of all values.
//!
//! # How to add one
//! A file here with a type that implements [`Codec`], and its line in [`CodecSpec`].

mod bnb4;
mod codes;
mod contract;
mod double;
mod ggml;
mod mxfp8;
mod nvfp4;
mod plain;
mod rotation;
mod scaled;
mod spec;
mod tiles;

pub use bnb4::{Bnb4, Nested};
pub use codes::Code;
pub use contract::{Block, Codec, Need, Run, Side, Sides, Values};
pub use double::{Double, Rounding};
pub use ggml::Ggml;
pub use mxfp8::Mxfp8;
pub use nvfp4::Nvfp4;
pub use plain::Plain;
pub use scaled::Scaled;
pub use spec::{Beside, CodecSpec, Stored};
pub use tiles::Layout;
