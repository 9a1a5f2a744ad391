//! What bytes mean: runs of blocks, with what stands beside them, to f32 and back.
//!
//! An element of a number format may share its bytes with its neighbours (a block with a scale of
//! its own) or need a tensor of scales beside it. So nothing above this module counts bytes per
//! element: it asks [`Block`] how a range of elements is cut, and a [`Codec`] for the numbers.
//!
//! # How to add one
//! A file here with a type that implements [`Codec`], and its line in [`CodecSpec`].

use std::sync::Arc;

use serde::Deserialize;

use crate::dtype::Dtype;

mod contract;
mod double;
mod plain;

pub use contract::{Block, Codec, Run, Side};
pub use double::{Double, Rounding};
pub use plain::Plain;

/// How a plan says what the bytes of a tensor mean.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodecSpec {
    /// Its dtype says all.
    #[default]
    Plain,
}

impl CodecSpec {
    /// The codec of a tensor whose header says `dtype`; `None` if its elements can only be copied.
    #[must_use]
    pub fn codec(self, dtype: Dtype) -> Option<Arc<dyn Codec>> {
        match self {
            Self::Plain if dtype == Dtype::F64 => Some(Arc::new(Double(Rounding::Nearest))),
            Self::Plain => dtype.float().map(|float| Arc::new(Plain(float)) as Arc<dyn Codec>),
        }
    }
}
