//! What bytes mean: runs of blocks, with what stands beside them, to f32 and back.
//!
//! An element of a number format may share its bytes with its neighbours (a block with a scale of
//! its own) or need a tensor of scales beside it. So nothing above this module counts bytes per
//! element: it asks [`Block`] how a range of elements is cut, and a [`Codec`] for the numbers.
//!
//! # How to add one
//! A file here with a type that implements [`Codec`], and its line in [`CodecSpec`].

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;

use crate::dtype::{Dtype, Float, Overflow};
use crate::simd::{BLOCK, Isa, Written};

mod double;
mod plain;

pub use double::{Double, Rounding};
pub use plain::Plain;

/// The fewest neighbours in a row that can be read without others, and the bytes they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Elements.
    pub elements: usize,
    /// Bytes, without those of side tensors.
    pub bytes: usize,
}

impl Block {
    /// Of elements that stand alone, or share no more than a byte (F4, F6).
    #[must_use]
    pub fn of(dtype: Dtype) -> Self {
        let bits = dtype.bits() as usize;
        let elements = (1..=8).find(|n| (n * bits).is_multiple_of(8)).unwrap_or(8);
        Self { elements, bytes: elements * bits / 8 }
    }

    /// Bytes of so many elements, if these are whole blocks.
    #[must_use]
    pub fn len(self, elements: u64) -> Option<u64> {
        let whole = elements.is_multiple_of(self.elements as u64);
        (elements / self.elements as u64).checked_mul(self.bytes as u64).filter(|_| whole)
    }

    /// Bytes of the blocks that a range of elements touches.
    #[must_use]
    pub fn range(self, elements: Range<usize>) -> Range<usize> {
        let first = elements.start / self.elements * self.bytes;
        first..elements.end.div_ceil(self.elements) * self.bytes
    }

    /// The smallest range of whole blocks that holds a range of elements.
    #[must_use]
    pub fn whole(self, elements: Range<u64>) -> Range<u64> {
        let n = self.elements as u64;
        elements.start / n * n..elements.end.div_ceil(n) * n
    }
}

/// A tensor beside the payload: its rows in the order of the payload's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `bytes` that every block needs: a scale of the whole, a code book.
    Whole {
        /// All of them.
        bytes: usize,
    },
    /// `bytes` for every `blocks` of the payload in a row: scales of rows, of groups.
    Every {
        /// Blocks that share an entry.
        blocks: u64,
        /// Bytes of an entry.
        bytes: usize,
    },
}

impl Side {
    /// The bytes of this tensor that the payload's blocks need.
    #[must_use]
    pub fn range(self, blocks: Range<u64>) -> Range<u64> {
        match self {
            Self::Whole { bytes } => 0..bytes as u64,
            Self::Every { blocks: n, bytes } => {
                blocks.start / n * bytes as u64..blocks.end.div_ceil(n) * bytes as u64
            }
        }
    }
}

/// Whole blocks, and what stands beside them.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Index of the first block, from the first of the payload.
    pub first: u64,
    /// The blocks.
    pub bytes: &'a [u8],
    /// Of each side tensor what [`Side::range`] says.
    pub sides: &'a [&'a [u8]],
}

/// One number format.
pub trait Codec: Debug + Send + Sync {
    /// Tells it from all others, its parameters included.
    fn name(&self) -> String;

    /// How its payload is cut.
    fn block(&self) -> Block;

    /// The tensors it wants beside the payload.
    fn sides(&self) -> &[Side] {
        &[]
    }

    /// Decodes whole blocks to f32, exactly or rounded once; `out` holds all their elements.
    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]);

    /// Rounds values once to whole blocks.
    fn encode(&self, isa: &Isa, overflow: Overflow, values: &[f32], out: &mut [u8]);

    /// The smallest magnitude that does not fit.
    fn overflow(&self) -> f32;

    /// What at most [`BLOCK`] values became: whole blocks as written, beside the `reference`.
    fn written(&self, isa: &Isa, bytes: &[u8], reference: &[f32]) -> Written {
        let mut buffer = [0.0; BLOCK];
        let values = &mut buffer[..reference.len()];
        self.decode(isa, Run { first: 0, bytes, sides: &[] }, values);
        let mut plain = [0; 4 * BLOCK];
        let plain = &mut plain[..4 * reference.len()];
        isa.encode(Float::F32, Overflow::Nan, values, plain);
        // Whether one is at the limit, the values before they were rounded tell.
        Written { at_limit: true, ..isa.written(Float::F32, plain, reference) }
    }
}

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
