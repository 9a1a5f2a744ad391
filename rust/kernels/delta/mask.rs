//! Which differences of a tile stay, and with what factor.

use std::sync::Arc;

use super::bits::Bits;
use crate::kernels::select::Cut;
use crate::kernels::tile::Tile;

/// What stays of a model over one tile.
pub enum Mask {
    /// Everything.
    All,
    /// Magnitudes of the first set that are not in the second.
    Largest(End, End),
    /// A factor for each element.
    Factors(Vec<f32>),
    /// A factor for those that were chosen.
    Chosen(Arc<Bits>, f32),
}

/// Where a set of the largest ends: all above `bits` are in it, and those that equal `bits` if they
/// come before the place `end` of the tile.
#[derive(Clone, Copy)]
pub struct End {
    pub bits: i32,
    pub end: i32,
}

impl End {
    pub fn of(cut: Cut, tile: Tile) -> Self {
        let len = tile.operands[0].len() as u64;
        let end = cut.end.saturating_sub(tile.first).min(len);
        Self { bits: cut.bits.cast_signed(), end: end as i32 }
    }
}
