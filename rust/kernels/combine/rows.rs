//! The rules for weights, row by row.

use super::rule::Rule;
use crate::kernels::gram::Gram;
use crate::kernels::kernel::Direct;
use crate::kernels::tile::Tile;
use crate::simd::BLOCK;

/// A rule with each row of the unit as the vector.
///
/// The inner products of a row are summed in f64 over blocks of 1,024 elements from its first, in
/// order. A row is independent of all others, so no pass over the unit comes first.
#[derive(Debug)]
pub struct EachRow(pub Box<dyn Rule>);

impl Direct for EachRow {
    fn check(&self, operands: usize) -> Result<(), String> {
        self.0.check(operands)
    }

    fn by_rows(&self) -> bool {
        true
    }

    fn state_bytes(&self, operands: usize, _: usize) -> u64 {
        Gram::bytes(operands)
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        let mut gram = Gram::new(tile.operands.len());
        let mut operands = vec![&[][..]; tile.operands.len()];
        let mut of = |range: std::ops::Range<usize>, show: &mut dyn FnMut(Tile)| {
            for (part, whole) in operands.iter_mut().zip(tile.operands) {
                *part = &whole[range.clone()];
            }
            show(Tile { first: tile.first + range.start as u64, operands: &operands, ..tile });
        };
        let row = tile.row.max(1);
        for first in (0..out.len()).step_by(row) {
            let end = out.len().min(first + row);
            gram.clear();
            for at in (first..end).step_by(BLOCK) {
                of(at..end.min(at + BLOCK), &mut |block| gram.add(block));
            }
            let weights = self.0.weigh(&gram);
            of(first..end, &mut |row| weights.sum(row, &mut out[first..end]));
        }
    }
}
