//! The matrices of a unit, which are read from its inputs as often as they are needed.

use std::ops::Range;

use crate::linalg::engine::Engine;
use crate::linalg::long::{Long, parts};

/// Elements of the long side that are read at once.
pub const SLAB: usize = 512;

/// Reads matrices of differences, or operands, in f32.
pub trait Read {
    /// Fills `out`, row by row, with some rows and columns of matrix `index`. `None` if that fails, or
    /// the job is over; then nothing else is of use.
    fn read(
        &mut self,
        index: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Option<()>;
}

/// All matrices of a unit: `count` of one shape.
pub struct Operands<'a> {
    source: &'a mut dyn Read,
    engine: Engine<'a>,
    /// How many.
    pub count: usize,
    /// Rows of each.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// The first, if it is the only one and was read.
    held: Option<Long>,
}

impl<'a> Operands<'a> {
    pub fn new(
        source: &'a mut dyn Read,
        engine: Engine<'a>,
        count: usize,
        shape: (usize, usize),
    ) -> Self {
        Self { source, engine, count, rows: shape.0, columns: shape.1, held: None }
    }

    /// The greater side.
    pub fn long(&self) -> usize {
        self.rows.max(self.columns)
    }

    /// The smaller side.
    pub fn short(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// One of them.
    pub fn whole(&mut self, index: usize) -> Option<Long> {
        let mut all = self.empty()?;
        self.source.read(index, 0..self.rows, 0..self.columns, &mut all.values)?;
        Some(all)
    }

    /// The only one, for good.
    pub fn only(&mut self) -> Option<Long> {
        match self.held.take() {
            Some(held) => Some(held),
            None => self.whole(0),
        }
    }

    /// All of them, which are one row or one column each.
    pub fn vectors(&mut self) -> Option<Vec<Vec<f32>>> {
        if let Some(held) = self.held.take() {
            return Some(vec![held.values]);
        }
        (0..self.count).map(|index| Some(self.whole(index)?.values)).collect()
    }

    /// Room for a matrix of the same shape; `None` if there is no memory for it.
    pub fn empty(&self) -> Option<Long> {
        let values = self.engine.zeros(self.rows * self.columns)?;
        Some(Long::new(values, self.rows, self.columns))
    }

    /// Some rows of one, as the long side sees it.
    pub fn slab(&mut self, index: usize, range: Range<usize>) -> Option<Long> {
        if self.rows < self.columns {
            let values = self.piece(index, 0..self.rows, range.clone())?;
            return Some(Long { values, rows: self.rows, columns: range.len(), wide: true });
        }
        let values = self.piece(index, range.clone(), 0..self.columns)?;
        Some(Long { values, rows: range.len(), columns: self.columns, wide: false })
    }

    /// Some rows and columns of one, row by row.
    pub fn piece(
        &mut self,
        index: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Option<Vec<f32>> {
        let mut values = self.engine.zeros(rows.len() * columns.len())?;
        self.source.read(index, rows, columns, &mut values)?;
        Some(values)
    }

    /// How many elements of all are infinite or NaN. If there is one matrix, it is held from then on.
    pub fn count_nonfinite(&mut self, engine: &Engine) -> Option<u64> {
        if self.count == 1 {
            let all = self.whole(0)?;
            let bad = engine.isa.count_nonfinite(&all.values);
            self.held = Some(all);
            return Some(bad);
        }
        let mut bad = 0;
        for index in 0..self.count {
            for rows in slabs(self.rows) {
                let values = self.piece(index, rows, 0..self.columns)?;
                bad += engine.isa.count_nonfinite(&values);
            }
        }
        Some(bad)
    }
}

/// A length in parts of [`SLAB`].
pub fn slabs(length: usize) -> impl Iterator<Item = Range<usize>> {
    parts(0..length, SLAB)
}
