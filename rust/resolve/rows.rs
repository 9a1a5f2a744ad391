//! Rows that are open: windows of the payload and of what stands beside it, decoded run by run.

use std::ops::Range;
use std::sync::Arc;

use super::Rows;
use crate::error::{Error, Result};
use crate::format::codec::Run;
use crate::io::source::{Source, Window};
use crate::simd::{Isa, prefetch};

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
        let (open, blocks) = (first + self.blocks.start, first + blocks.start..first + blocks.end);
        let sides = codec.sides().iter().zip(&self.sides).map(|(side, window)| {
            let begun = side.range(open..open).start;
            let range = side.range(blocks.clone());
            &window[(range.start - begun) as usize..(range.end - begun) as usize]
        });
        let sides: Vec<&[u8]> = sides.collect();
        let run = Run { first: blocks.start, bytes: &self.window[bytes], sides: &sides };
        codec.decode(isa, run, out);
    }
}
