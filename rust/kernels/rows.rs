//! Weighted sums whose weights follow from norms and angles, row by row.

use serde::Deserialize;

use super::gram::Gram;
use super::{Combine, Stretch};
use crate::simd::BLOCK;

/// The formulas of [`Combine`] with each row of the unit as the vector.
///
/// The inner products of a row are summed in f64 over blocks of 1,024 elements from its first, in
/// order. A row is independent of all others, so no pass over the unit comes first.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct Rows(pub Combine);

impl Rows {
    /// Fills `out` from whole rows.
    pub(super) fn map(&self, stretch: Stretch, out: &mut [f32]) {
        let mut gram = Gram::new(stretch.operands.len());
        let mut operands = vec![&[][..]; stretch.operands.len()];
        let mut of = |range: std::ops::Range<usize>, show: &mut dyn FnMut(Stretch)| {
            for (part, whole) in operands.iter_mut().zip(stretch.operands) {
                *part = &whole[range.clone()];
            }
            show(Stretch {
                first: stretch.first + range.start as u64,
                operands: &operands,
                ..stretch
            });
        };
        let row = stretch.row.max(1);
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
