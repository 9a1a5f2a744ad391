//! Kernels driven over operands in memory, as a job of many small items does.

use super::runner::Run;
use super::tile::Tile;
use crate::simd::{BLOCK, Isa};

/// Makes all passes that are left, an item of a block at a time; the statistics.
pub(super) fn pass(run: &dyn Run, row: usize, x: &[Vec<f32>]) -> Option<Vec<u64>> {
    let (len, mut found) = (x[0].len(), None);
    for _ in 0..run.passes() {
        for first in (0..len).step_by(BLOCK) {
            let Some(mut sums) = run.pass() else { continue };
            let operands: Vec<_> = x.iter().map(|x| &x[first..len.min(first + BLOCK)]).collect();
            sums.cell(&mut |reduce| reduce(tile(first, row, &operands)));
            sums.flush();
            sums.add();
        }
        found = found.or(run.learn());
    }
    found
}

/// What is made of the first `len` elements, and the note.
pub(super) fn map(
    run: &dyn Run,
    row: usize,
    x: &[Vec<f32>],
    len: usize,
) -> (Vec<f32>, Option<String>) {
    let map = run.map().expect("all is known");
    let operands: Vec<_> = x.iter().map(|x| &x[..len]).collect();
    let mut out = vec![f32::NAN; len];
    map.map(tile(0, row, &operands), &mut out);
    (out, map.note().map(str::to_owned))
}

fn tile<'a>(first: usize, row: usize, operands: &'a [&'a [f32]]) -> Tile<'a> {
    Tile { isa: Isa::best(), first: first as u64, row, around: [0, 0], operands }
}
