//! What a unit's operands and output are like: counts, norms and distances on a fixed grid.
//!
//! A unit is cut into cells of [`CELL`] elements and a cell into blocks of [`BLOCK`]. Blocks are
//! added in order into their cell, cells in order into the unit, both in f64. The grid is counted
//! from the unit's first element, so threads, chunks and the machine change no bit.

use serde::Serialize;

use crate::simd::{BLOCK, Isa};

pub use crate::simd::Pair;

/// Elements per cell of the reduction grid.
pub const CELL: usize = 65_536;

/// The statistics of one unit, or of one cell of it. Sums run over finite elements only; how many
/// were left out is in `nonfinite`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnitStats {
    /// Elements of the output.
    pub elements: u64,
    /// Elements whose written value differs from the first operand's; +0 and -0 differ, NaNs do not.
    pub changed: u64,
    /// Infinite and NaN elements of each operand.
    pub nonfinite: Vec<u64>,
    /// Infinite and NaN elements as written.
    pub nonfinite_out: u64,
    /// `|x_i|^2` of each operand.
    pub norm2: Vec<f64>,
    /// `<x_i, x_0>` of each operand.
    pub dot: Vec<f64>,
    /// `|x_i - x_0|^2` of each operand: of the differences, not a difference of norms.
    pub delta2: Vec<f64>,
}

impl UnitStats {
    /// Nothing seen yet, of a unit with this many operands.
    #[must_use]
    pub fn new(operands: usize) -> Self {
        Self {
            elements: 0,
            changed: 0,
            nonfinite: vec![0; operands],
            nonfinite_out: 0,
            norm2: vec![0.0; operands],
            dot: vec![0.0; operands],
            delta2: vec![0.0; operands],
        }
    }

    /// Adds the next block: each operand decoded, and the output as written, decoded again. Every
    /// block but the last of a unit has [`BLOCK`] elements.
    ///
    /// # Panics
    /// If the number of operands is not the one given to [`UnitStats::new`] or the lengths differ.
    pub fn add_block(&mut self, isa: &Isa, operands: &[&[f32]], written: &[f32]) {
        assert_eq!(operands.len(), self.nonfinite.len(), "operands of the statistics");
        debug_assert!((self.elements as usize).is_multiple_of(BLOCK), "a short block came before");
        let reference = operands[0];
        for (i, x) in operands.iter().enumerate() {
            let pair = isa.gram(x, reference);
            self.nonfinite[i] += isa.count_nonfinite(x);
            self.norm2[i] += pair.norm2;
            self.dot[i] += pair.dot;
            self.delta2[i] += pair.delta2;
        }
        self.elements += written.len() as u64;
        self.changed += isa.count_changed(written, reference);
        self.nonfinite_out += isa.count_nonfinite(written);
    }

    /// Adds the next cell of the grid. Cells are added in grid order.
    pub fn merge_next(&mut self, cell: &Self) {
        self.elements += cell.elements;
        self.changed += cell.changed;
        self.nonfinite_out += cell.nonfinite_out;
        add(&mut self.nonfinite, &cell.nonfinite);
        add(&mut self.norm2, &cell.norm2);
        add(&mut self.dot, &cell.dot);
        add(&mut self.delta2, &cell.delta2);
    }
}

fn add<T: Copy + std::ops::AddAssign>(sums: &mut [T], next: &[T]) {
    assert_eq!(sums.len(), next.len(), "operands of two cells");
    for (sum, next) in sums.iter_mut().zip(next) {
        *sum += *next;
    }
}
