//! A range of rows of a source: bytes behind a codec, read in windows and decoded run by run.

use std::ops::Range;
use std::sync::Arc;

use super::encoding::columns_of;
use super::opened::{Inputs, expect_equal, too_large};
use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::codec::{Beside, Block, Codec, Run, Side, Sides, Stored};
use crate::format::{Blocks, Header, Tensor};
use crate::io::source::{Source, Window};
use crate::plan::RowsSpec;
use crate::simd::{Isa, prefetch};

const MISSHAPEN: &str = "its shape does not belong to that of the numbers it stands beside; the file is \
                         damaged, or in another format than the plan says";

/// Where windows are read to that are not at hand; taken one by one.
pub type Buffers<'b, 'a> = &'b mut dyn Iterator<Item = &'a mut Vec<u8>>;

/// What decoding needs besides the place for its result.
#[derive(Debug, Default)]
pub struct Room {
    /// Whole blocks of which a part is wanted.
    blocks: Vec<f32>,
}

/// Rows over a range of their elements.
pub struct OpenRows<'a> {
    rows: &'a Rows,
    /// The blocks that are open, from the first of the rows.
    blocks: Range<u64>,
    window: Window<'a>,
    sides: Vec<Window<'a>>,
}

/// A contiguous range of a source and what its bytes mean.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Index into the sources.
    pub source: usize,
    /// Where the range starts in the source.
    pub at: u64,
    /// Its number of elements.
    pub elements: u64,
    /// Index of its first block, counted from the first of the tensor.
    pub first: u64,
    /// What the source's header calls it.
    pub dtype: Dtype,
    /// What turns it into numbers, if anything does.
    pub codec: Option<Arc<dyn Codec>>,
    /// Where the tensors that the codec wants beside it start: source and byte.
    pub sides: Vec<(usize, u64)>,
}

impl Rows {
    /// The rows that a plan names, and how many elements each has.
    pub(super) fn find(spec: &RowsSpec, inputs: &Inputs, here: &str) -> Result<(Self, u64)> {
        let (header, tensor) = inputs.tensor(spec.source, &spec.tensor, here)?;
        let what = format!("{here}: {}", quoted(&spec.tensor));
        let beside = spec.sides.iter().map(|side| inputs.tensor(side.source, &side.tensor, here));
        let beside = beside.collect::<Result<Vec<_>>>()?;
        let sides = beside.iter().map(|(_, side)| Beside { name: &side.name, dtype: side.dtype });
        let sides: Vec<_> = sides.collect();
        let (dtype, columns) = (tensor.dtype, tensor.row_elements());
        let stored = Stored { dtype, rows: tensor.rows(), columns, sides: Some(&sides) };
        let codec = spec.codec.codec(stored, &what)?;
        if let Some(blocks) = header.blocks.get(&spec.tensor) {
            expect_format(blocks, codec.as_deref(), &what)?;
        }
        let columns = columns_of(codec.as_deref(), dtype, columns, &what)?;
        let rows =
            codec.as_ref().and_then(|codec| codec.shape()).map_or(tensor.rows(), |[rows, _]| rows);
        let (start, end) = (spec.start, spec.end);
        if start > end || end > rows {
            let path = inputs.sources[spec.source].path().display();
            let what = format!(
                "{here}: rows {start}..{end} of {} in {path}, which has {rows} rows",
                quoted(&spec.tensor)
            );
            return Err(Error::plan(what));
        }
        let counted = |rows: u64| rows.checked_mul(columns).ok_or_else(|| too_large(here));
        let (source, elements) = (spec.source, counted(end - start)?);
        let mut found = Self { source, at: 0, elements, first: 0, dtype, codec, sides: Vec::new() };
        let block = found.block();
        let before = block.len(counted(start)?).ok_or_else(|| too_large(here))?;
        found.at = header.data_start + tensor.start + before;
        found.first = counted(start)? / block.elements as u64;
        let blocks = counted(rows)?.div_ceil(block.elements as u64);
        found.sides = found.find_sides(spec, &beside, blocks, here)?;
        Ok((found, columns))
    }

    /// Where the tensors `beside` a payload of so many blocks are.
    fn find_sides(
        &self,
        spec: &RowsSpec,
        beside: &[(&Header, &Tensor)],
        blocks: u64,
        here: &str,
    ) -> Result<Vec<(usize, u64)>> {
        let count = self.wanted().len() as u64;
        expect_equal(here, "tensors beside the rows", count, spec.sides.len() as u64)?;
        let sides = self.wanted().iter().zip(&spec.sides).zip(beside);
        let sides = sides.map(|((side, named), (header, tensor))| {
            let what = format!("bytes of {}", quoted(&named.tensor));
            expect_equal(here, &what, side.range(0..blocks).end, tensor.end - tensor.start)
                .map_err(|error| error.hint(MISSHAPEN))?;
            Ok((named.source, header.data_start + tensor.start))
        });
        sides.collect()
    }

    /// How the payload is cut.
    #[must_use]
    pub fn block(&self) -> Block {
        self.codec.as_ref().map_or_else(|| Block::of(self.dtype), |codec| codec.block())
    }

    /// The tensors beside the payload, as the codec wants them.
    #[must_use]
    pub fn wanted(&self) -> &[Side] {
        self.codec.as_ref().map_or(&[], |codec| codec.sides())
    }

    /// Bytes that `elements` of it take at most, with what is beside them in proportion.
    #[must_use]
    pub fn bytes_of(&self, elements: u64) -> u64 {
        let block = self.block();
        elements.div_ceil(block.elements as u64) * block.bytes as u64 + self.beside(elements)
    }

    /// Bytes of entries beside `elements` of it at most.
    pub(super) fn beside(&self, elements: u64) -> u64 {
        let blocks = elements.div_ceil(self.block().elements as u64);
        let of = |side: &Side| match side {
            Side::Whole { .. } => 0,
            Side::Every { blocks: n, bytes } => {
                (blocks.div_ceil(*n) + 1).saturating_mul(*bytes as u64)
            }
        };
        self.wanted().iter().map(of).fold(0, u64::saturating_add)
    }

    pub(super) fn whole_sides(&self) -> u64 {
        let of = |side: &Side| if let Side::Whole { bytes } = side { *bytes as u64 } else { 0 };
        self.wanted().iter().map(of).sum()
    }

    pub(super) fn name(&self) -> String {
        self.codec.as_ref().map_or_else(|| self.dtype.name().to_owned(), |codec| codec.name())
    }
}

impl Rows {
    /// How many windows it takes to open them.
    #[must_use]
    pub fn windows(&self) -> usize {
        1 + self.sides.len()
    }

    /// Open windows of the blocks that hold a range of elements.
    pub fn open<'a>(
        &'a self,
        sources: &'a [Arc<dyn Source>],
        elements: Range<u64>,
        buffers: Buffers<'_, 'a>,
    ) -> Result<OpenRows<'a>> {
        let mut window = |source: usize, at: u64, bytes: Range<u64>| {
            let misfit = || Error::internal("rows: a range that does not fit them");
            let buffer = buffers.next().ok_or_else(misfit)?;
            let len = usize::try_from(bytes.end - bytes.start).map_err(|_| misfit())?;
            sources[source].window(at + bytes.start, len, buffer)
        };
        let block = self.block();
        let elements = block.whole(elements);
        let n = block.elements as u64;
        let blocks = elements.start / n..elements.end / n;
        let size = block.bytes as u64;
        let payload = window(self.source, self.at, blocks.start * size..blocks.end * size)?;
        let numbered = self.first + blocks.start..self.first + blocks.end;
        let sides = self.wanted().iter().zip(&self.sides);
        let sides =
            sides.map(|(side, (source, at))| window(*source, *at, side.range(numbered.clone())));
        let sides = sides.collect::<Result<Vec<_>>>()?;
        Ok(OpenRows { rows: self, blocks, window: payload, sides })
    }
}

impl OpenRows<'_> {
    /// The payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.window
    }

    /// Bytes of all windows.
    #[must_use]
    pub fn read(&self) -> u64 {
        let sides: usize = self.sides.iter().map(|side| side.len()).sum();
        (self.window.len() + sides) as u64
    }

    /// Decode a range of the elements that are open, counted from the first of the rows.
    pub fn decode(&self, isa: &Isa, elements: Range<u64>, room: &mut Room, out: &mut [f32]) {
        let whole = self.rows.block().whole(elements.clone());
        if whole == elements {
            return self.decode_blocks(isa, whole, out);
        }
        // A part of a block cannot be decoded alone.
        let count = (whole.end - whole.start) as usize;
        room.blocks.resize(count.max(room.blocks.len()), 0.0);
        let skipped = (elements.start - whole.start) as usize;
        self.decode_blocks(isa, whole, &mut room.blocks[..count]);
        out.copy_from_slice(&room.blocks[skipped..][..out.len()]);
    }

    fn decode_blocks(&self, isa: &Isa, elements: Range<u64>, out: &mut [f32]) {
        // `resolve` lets nothing but numbers be computed with.
        let Some(codec) = &self.rows.codec else { return };
        let block = codec.block();
        let n = block.elements as u64;
        let blocks = elements.start / n..elements.end / n;
        let at = |index: u64| (index - self.blocks.start) as usize * block.bytes;
        let bytes = at(blocks.start)..at(blocks.end);
        // What was read was touched by the copy; mapped bytes never were.
        if let Window::Mapped(window) = &self.window {
            prefetch(&window[bytes.end..window.len().min(bytes.end + bytes.len())]);
        }
        let first = self.rows.first;
        let sides: Vec<&[u8]> = self.sides.iter().map(|window| &**window).collect();
        let sides = Sides { first: first + self.blocks.start, bytes: &sides };
        let run = Run { first: first + blocks.start, bytes: &self.window[bytes], sides };
        codec.decode(isa, run, out);
    }
}

/// Refuse a codec that is not the one the container names.
fn expect_format(blocks: &Blocks, codec: Option<&dyn Codec>, here: &str) -> Result<()> {
    let named = codec.map(Codec::name);
    if named.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(blocks.format)) {
        return Ok(());
    }
    let got = named.unwrap_or_else(|| "none".to_owned());
    let what = format!("{here}: another codec, expected that of {}, got {got}", blocks.format);
    Err(Error::plan(what).hint("make the plan again with this version of submerge"))
}
