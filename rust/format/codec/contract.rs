//! What a number format is to the core.

#![allow(clippy::inline_always)]

use std::fmt::Debug;
use std::ops::Range;

use crate::dtype::{Dtype, Overflow};
use crate::simd::{BLOCK, Body, Isa, Written};

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
                let at = |entry: u64| entry.saturating_mul(bytes as u64);
                at(blocks.start / n)..at(blocks.end.div_ceil(n))
            }
        }
    }
}

/// The tensors beside a payload, open from where some of its blocks need them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sides<'a> {
    /// Index of the first block they are open for, from the first of the payload.
    pub first: u64,
    /// Of each side tensor what [`Side::range`] says of the blocks from there on.
    pub bytes: &'a [&'a [u8]],
}

impl<'a> Sides<'a> {
    /// What the side tensor number `index`, which is a `side`, says of a block; empty past its end.
    #[must_use]
    pub fn entry(self, side: Side, index: usize, block: u64) -> &'a [u8] {
        self.entries(side, index, block..block + 1)
    }

    /// [`Sides::entry`] of blocks in a row.
    #[must_use]
    pub fn entries(self, side: Side, index: usize, blocks: Range<u64>) -> &'a [u8] {
        let begun = side.range(self.first..self.first).start;
        let entries = side.range(blocks);
        let range = (entries.start - begun) as usize..(entries.end - begun) as usize;
        self.bytes.get(index).and_then(|bytes| bytes.get(range)).unwrap_or_default()
    }
}

/// Whole blocks, and what stands beside them.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Index of the first block, from the first of the payload.
    pub first: u64,
    /// The blocks.
    pub bytes: &'a [u8],
    /// What stands beside them.
    pub sides: Sides<'a>,
}

/// Values of whole blocks, on their way to them.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Index of the first block, from the first of the payload.
    pub first: u64,
    /// The values.
    pub values: &'a [f32],
    /// What stands beside the blocks: made before, and read back with them.
    pub sides: Sides<'a>,
    /// What a value out of range becomes.
    pub overflow: Overflow,
}

/// What must be seen of the values before any of them is encoded: one number for each group of them,
/// the largest finite magnitude unless [`Codec::observe`] says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: a block follows from its own values.
    Nothing,
    /// All values are one group.
    Whole,
    /// The values of so many blocks in a row are a group: of one, of a row.
    Every {
        /// Blocks of a group.
        blocks: u64,
    },
}

impl Need {
    /// The groups that some blocks are in.
    #[must_use]
    pub fn groups(self, blocks: Range<u64>) -> Range<u64> {
        match self {
            Self::Nothing => 0..0,
            Self::Whole => 0..1,
            Self::Every { blocks: n } => blocks.start / n..blocks.end.div_ceil(n),
        }
    }

    /// The first block that is in another group than this one.
    #[must_use]
    pub fn next(self, block: u64) -> u64 {
        match self {
            Self::Nothing | Self::Whole => u64::MAX,
            Self::Every { blocks: n } => (block / n + 1).saturating_mul(n),
        }
    }

    /// Cuts values of whole blocks of `elements`, the first of which is number `first`, into groups and
    /// keeps of each the larger of what was `seen` and what `largest` says of its values.
    pub fn observe(
        self,
        first: u64,
        elements: usize,
        values: &[f32],
        seen: &mut [f32],
        mut largest: impl FnMut(&[f32]) -> f32,
    ) {
        let (mut at, end) = (first, first + (values.len() / elements) as u64);
        let mut seen = seen.iter_mut();
        while at < end {
            let next = self.next(at).min(end);
            let of = (at - first) as usize * elements..(next - first) as usize * elements;
            if let Some(seen) = seen.next() {
                *seen = seen.max(largest(&values[of]));
            }
            at = next;
        }
    }
}

/// The largest finite magnitude; 0 of none.
pub struct Largest<'a>(pub &'a [f32]);

impl Body for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        // The bits of magnitudes are in their order.
        let magnitude = |x: &f32| x.to_bits() & 0x7FFF_FFFF;
        let finite = |bits: u32| if bits < f32::INFINITY.to_bits() { bits } else { 0 };
        f32::from_bits(self.0.iter().map(|x| finite(magnitude(x))).fold(0, u32::max))
    }
}

/// The largest magnitude; infinite where a value is no finite number.
pub struct LargestOrNone<'a>(pub &'a [f32]);

impl Body for LargestOrNone<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let largest = self.0.iter().map(|x| x.to_bits() & 0x7FFF_FFFF).fold(0, u32::max);
        f32::from_bits(largest.min(f32::INFINITY.to_bits()))
    }
}

/// One number format.
pub trait Codec: Debug + Send + Sync {
    /// Tells it from all others, its parameters included.
    fn name(&self) -> String;

    /// How its payload is cut. To be written, its elements must divide [`BLOCK`].
    fn block(&self) -> Block;

    /// The tensors it wants beside the payload.
    fn sides(&self) -> &[Side] {
        &[]
    }

    /// Rows and elements of each, where the payload's shape does not say them.
    fn shape(&self) -> Option<[u64; 2]> {
        None
    }

    /// Decodes whole blocks to f32, exactly or rounded once; `out` holds all their elements.
    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]);

    /// What it must see before it encodes.
    fn needs(&self) -> Need {
        Need::Nothing
    }

    /// Adds what it must see of whole blocks, the first of which is number `first`, to what was seen
    /// before: `seen` has a number for each of their groups, at first 0, and the larger one stays.
    fn observe(&self, isa: &Isa, first: u64, values: &[f32], seen: &mut [f32]) {
        let elements = self.block().elements;
        self.needs().observe(first, elements, values, seen, |of| isa.run(Largest(of)));
    }

    /// Makes the side tensors of a whole payload: `largest` has what [`Codec::observe`] saw, group by
    /// group, and each of `sides` is as long as [`Side::range`] says.
    fn fill_sides(&self, largest: &[f32], sides: &mut [Vec<u8>]) {
        let _ = (largest, sides);
    }

    /// Whether numbers can be written in it; if not, it is read and copied.
    fn writes(&self) -> bool {
        true
    }

    /// Rounds values to whole blocks.
    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]);

    /// The smallest magnitude that does not fit.
    fn overflow(&self) -> f32;

    /// What at most [`BLOCK`] values became: whole blocks as written, beside the `reference`.
    fn written(&self, isa: &Isa, run: Run, reference: &[f32]) -> Written {
        let mut buffer = [0.0; BLOCK];
        let values = &mut buffer[..reference.len()];
        self.decode(isa, run, values);
        isa.run(Compare { values, reference })
    }
}

/// What values are beside a reference. Whether one is at the limit, the values before they were rounded
/// tell.
struct Compare<'a> {
    values: &'a [f32],
    reference: &'a [f32],
}

impl Body for Compare<'_> {
    type Output = Written;

    #[inline(always)]
    fn run(self) -> Written {
        const INFINITY: u32 = f32::INFINITY.to_bits();
        let (mut changed, mut largest) = (0_u32, 0);
        for (x, r) in self.values.iter().zip(self.reference) {
            changed += u32::from(x.to_bits() != r.to_bits());
            largest = largest.max(x.to_bits() & !(1 << 31));
        }
        let mut seen = Written { changed: changed.into(), nonfinite: 0, at_limit: true };
        if largest >= INFINITY {
            for (x, r) in self.values.iter().zip(self.reference) {
                seen.nonfinite += u64::from(!x.is_finite());
                let alike = x.is_nan() && r.is_nan() && x.to_bits() != r.to_bits();
                seen.changed -= u64::from(alike);
            }
        }
        seen
    }
}
