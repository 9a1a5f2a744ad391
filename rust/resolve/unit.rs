//! One unit whose every reference is known to be good, and how it is looked at.

use crate::dtype::Dtype;
use crate::kernels::{Kernel, Learned, Whole};
use crate::simd::BLOCK;
use crate::stats::{Analyze, CELL, matrix};

/// A contiguous range of one output file and what fills it.
#[derive(Debug)]
pub struct Unit {
    /// Name for messages.
    pub name: String,
    /// Index into the files.
    pub file: usize,
    /// Number of elements.
    pub elements: u64,
    /// Elements of one row.
    pub row_elements: usize,
    /// Dtype of the output.
    pub dtype: Dtype,
    /// How it is filled.
    pub action: Action,
    /// What goes in.
    pub operands: Vec<Operand>,
    /// What looks would teach, if an earlier job has told.
    pub recalled: Option<Learned>,
}

/// How a unit is filled.
#[derive(Debug)]
pub enum Action {
    /// The bytes of the only operand.
    Copy,
    /// The bytes of the first operand, to which all others must be equal.
    Same,
    /// A formula in f32, rounded once.
    Compute(Kernel),
    /// Nothing is made of the operands; they are looked at beside each other.
    Analyze(Analyze),
}

/// Something a unit is made of.
#[derive(Debug)]
pub enum Operand {
    /// A contiguous range of an input file.
    Rows {
        /// Index into the sources.
        source: usize,
        /// Where the range starts in the file.
        at: u64,
        /// Dtype of its elements.
        dtype: Dtype,
    },
    /// One value per element.
    Values(Vec<f32>),
}

impl Unit {
    /// Elements per cell of the unit's grid: [`CELL`], or as many whole rows as it holds.
    #[must_use]
    pub fn cell(&self) -> usize {
        match &self.action {
            Action::Compute(kernel) if kernel.by_rows() => {
                let row = self.row_elements.max(1);
                (CELL / row).max(1) * row
            }
            Action::Analyze(_) => self.matrix_row().map_or(CELL, |row| CELL / row * row),
            _ => CELL,
        }
    }

    /// Elements decoded at once.
    #[must_use]
    pub fn stretch(&self) -> usize {
        match &self.action {
            Action::Compute(kernel) if kernel.by_rows() => self.cell() + 2 * self.halo(),
            _ => BLOCK,
        }
    }

    /// Its formula, if there is one.
    #[must_use]
    pub fn kernel(&self) -> Option<&Kernel> {
        match &self.action {
            Action::Compute(kernel) => Some(kernel),
            Action::Copy | Action::Same | Action::Analyze(_) => None,
        }
    }

    /// Elements before and after those it fills that a part must see.
    #[must_use]
    pub fn halo(&self) -> usize {
        self.kernel().map_or(0, |kernel| kernel.halo() * self.row_elements.max(1))
    }

    /// How often the unit is looked at before it is combined.
    #[must_use]
    pub fn passes(&self) -> usize {
        let passes = if self.recalled.is_some() { Kernel::never_recalled } else { Kernel::passes };
        self.kernel().map_or(0, passes)
    }

    /// Bytes of what is known of the unit while it is made.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let whole = Whole { operands: self.operands.len(), elements: self.elements };
        self.kernel().map_or(0, |kernel| kernel.kept_bytes(whole))
    }

    /// Bytes of sums that a worker holds while it looks.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let operands = self.operands.len();
        self.kernel().map_or(0, |kernel| kernel.state_bytes(operands, self.stretch()))
    }

    /// Elements of a row, if an analysis sees the unit as a matrix.
    #[must_use]
    pub fn matrix_row(&self) -> Option<usize> {
        matrix(self.elements, self.row_elements)
    }

    /// Bytes that the findings of one cell take until their turn has come.
    #[must_use]
    pub fn cell_bytes(&self) -> u64 {
        match &self.action {
            Action::Analyze(_) => Analyze::cell_bytes(self.operands.len()),
            Action::Compute(_) | Action::Copy | Action::Same => 0,
        }
    }
}
