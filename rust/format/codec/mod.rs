//! What bytes mean: runs of blocks, with what stands beside them, to f32 and back.
//!
//! An element of a number format may share its bytes with its neighbours (a block with a scale of
//! its own) or need a tensor of scales beside it. So nothing above this module counts bytes per
//! element: it asks [`Block`] how a range of elements is cut, and a [`Codec`] for the numbers. Before
//! it is asked to encode, a codec is shown what it [`Need`]s of all values.
//!
//! # How to add one
//! A file here with a type that implements [`Codec`], and its line in [`CodecSpec`].

use std::sync::Arc;

use serde::Deserialize;

use crate::dtype::Dtype;

mod contract;
mod double;
mod ggml;
mod plain;
mod scaled;

pub use contract::{Block, Codec, Need, Run, Side, Sides, Values};
pub use double::{Double, Rounding};
pub use ggml::Ggml;
pub use plain::Plain;
pub use scaled::Scaled;

/// How a plan says what the bytes of a tensor mean.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodecSpec {
    /// Its dtype says all.
    #[default]
    Plain,
    /// FP8, with one scale for all, an F32 tensor beside it.
    Scaled,
    /// FP8, with a scale for each row, an F32 tensor beside it.
    ScaledRows,
    /// Blocks of ggml, as U8.
    #[serde(untagged)]
    Ggml(Ggml),
}

impl CodecSpec {
    /// The codec of a tensor whose header says `dtype` and so many elements in a row; `None` if they
    /// can only be copied.
    ///
    /// # Errors
    /// The dtype that this codec is of, where that is another.
    pub fn codec(self, dtype: Dtype, columns: u64) -> Result<Option<Arc<dyn Codec>>, &'static str> {
        let blocks = match self {
            Self::Plain => return Ok(plain(dtype)),
            Self::Ggml(format) if dtype == Dtype::U8 => return Ok(Some(format.codec())),
            Self::Ggml(_) => return Err("U8"),
            Self::Scaled => None,
            Self::ScaledRows => Some(columns.max(1)),
        };
        let float = dtype.float().filter(|float| float.bytes() == 1);
        let float = float.ok_or("F8_E4M3 or F8_E5M2")?;
        Ok(Some(Arc::new(Scaled::new(float, blocks))))
    }
}

/// The codec of a tensor whose dtype says all; `None` if its elements can only be copied.
#[must_use]
pub fn plain(dtype: Dtype) -> Option<Arc<dyn Codec>> {
    if dtype == Dtype::F64 {
        return Some(Arc::new(Double(Rounding::Nearest)));
    }
    dtype.float().map(|float| Arc::new(Plain(float)) as Arc<dyn Codec>)
}
