//! Where the scale of a block stands that tensor cores read in tiles.
//!
//! The scales of 128 rows and 4 neighbours in each are 512 bytes: that of row `r` and neighbour `c` is
//! number `r % 32 * 16 + r / 32 * 4 + c`. Tiles of the same rows follow each other; rows beyond the
//! last are zeros. Source: NVIDIA, cuBLAS, "1D block scaling factors layout"; what `ComfyUI` calls swizzled.

use super::contract::{Side, Sides};

/// Rows of a tile.
const ROWS: u64 = 128;
/// Scales of a row of a tile.
const WIDE: u64 = 4;
/// Bytes of a tile.
const TILE: usize = 512;

/// How scales of one byte stand in a side tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One after the other.
    Rows,
    /// In tiles.
    Tiles,
}

/// One byte for every block, so many blocks in a row.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    layout: Layout,
    blocks: u64,
}

impl Bytes {
    pub(super) fn new(layout: Layout, blocks: u64) -> Self {
        Self { layout, blocks: blocks.max(1) }
    }

    /// The side tensor.
    pub(super) fn side(self) -> Side {
        match self.layout {
            Layout::Rows => Side::Every { blocks: 1, bytes: 1 },
            Layout::Tiles => {
                let tiles = self.blocks.div_ceil(WIDE) as usize;
                Side::Every {
                    blocks: self.blocks.saturating_mul(ROWS),
                    bytes: tiles.saturating_mul(TILE),
                }
            }
        }
    }

    /// Puts a byte for each block, from the first on, into the whole side tensor.
    pub(super) fn fill(self, bytes: impl Iterator<Item = u8>, side: &mut [u8]) {
        let (mut row, mut column, mut start) = (0, 0, self.start(0));
        for byte in bytes {
            if let Some(entry) = side.get_mut(start + self.offset(column)) {
                *entry = byte;
            }
            column += 1;
            if column == self.blocks {
                (row, column) = (row + 1, 0);
                start = self.start(row);
            }
        }
    }

    /// Fills `out` with the bytes of blocks from `first` on, out of the side tensor number `index`; zeros
    /// where it ends.
    pub(super) fn read(self, sides: Sides, index: usize, first: u64, out: &mut [u8]) {
        let side = self.side();
        let (mut row, mut column, mut out) = (first / self.blocks, first % self.blocks, out);
        while !out.is_empty() {
            let count = out.len().min((self.blocks - column) as usize);
            let (now, rest) = out.split_at_mut(count);
            let block = row * self.blocks + column;
            let entries = sides.entries(side, index, block..block + count as u64);
            let start = self.start(row % ROWS);
            for (i, (byte, column)) in now.iter_mut().zip(column..).enumerate() {
                let at = match self.layout {
                    Layout::Rows => i,
                    Layout::Tiles => start + self.offset(column),
                };
                *byte = entries.get(at).copied().unwrap_or(0);
            }
            (row, column, out) = (row + 1, 0, rest);
        }
    }

    /// Where the byte of the first block of a row is.
    fn start(self, row: u64) -> usize {
        match self.layout {
            Layout::Rows => (row * self.blocks) as usize,
            Layout::Tiles => {
                let before = (row / ROWS * self.blocks.div_ceil(WIDE)) as usize * TILE;
                before + (row % 32 * 16 + row % ROWS / 32 * WIDE) as usize
            }
        }
    }

    /// How far behind it that of another is.
    fn offset(self, column: u64) -> usize {
        match self.layout {
            Layout::Rows => column as usize,
            Layout::Tiles => (column / WIDE) as usize * TILE + (column % WIDE) as usize,
        }
    }
}
