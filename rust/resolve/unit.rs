//! One unit whose every reference is known to be good, and what is made of it at once.

use std::sync::Arc;

use super::operand::{Operand, Term};
use super::rows::Rows;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::codec::{Block, Codec};
use crate::kernels::runner::Run;
use crate::plan::Action;
use crate::simd::BLOCK;
use crate::stats::{Analyze, CELL, matrix};

/// A contiguous range of one output file and what fills it.
#[derive(Debug)]
pub struct Unit {
    /// Name for messages.
    pub name: String,
    /// Index into the files.
    pub file: usize,
    /// Index into the outputs: of the one it is a part of, or stands beside.
    pub output: usize,
    /// Where its bytes start in that file.
    pub at: u64,
    /// Number of elements.
    pub elements: u64,
    /// Elements of one row.
    pub row_elements: usize,
    /// Index of its first block, counted from the first of its output.
    pub first_block: u64,
    /// Dtype of the output.
    pub dtype: Dtype,
    /// What writes numbers in it; none if elements of this dtype can only be copied.
    pub codec: Option<Arc<dyn Codec>>,
    /// How it is filled.
    pub action: Action,
    /// What goes in.
    pub operands: Vec<Operand>,
    /// What is added to the result, each of one term.
    pub added: Vec<Operand>,
}

impl Unit {
    /// Bytes of so many elements of the output.
    ///
    /// # Errors
    /// They are not whole blocks: a defect of the schedule.
    pub fn bytes_of(&self, elements: usize) -> Result<usize> {
        let bytes = self.block().len(elements as u64).and_then(|bytes| usize::try_from(bytes).ok());
        bytes.ok_or_else(|| {
            let name = self.dtype.name();
            Error::internal(format!("`{}`: {elements} of {name}, a cut inside a block", self.name))
        })
    }

    /// How the output is cut.
    #[must_use]
    pub fn block(&self) -> Block {
        self.codec.as_ref().map_or_else(|| Block::of(self.dtype), |codec| codec.block())
    }

    /// Whether its values are numbers that its output's codec writes.
    #[must_use]
    pub fn is_encoded(&self) -> bool {
        matches!(self.action, Action::Compute(_) | Action::Solve(_))
    }

    /// All operands, and what is added to the result.
    pub fn read(&self) -> impl Iterator<Item = &Operand> {
        self.operands.iter().chain(&self.added)
    }

    /// Windows and buffers as wide as an item: one for each term of rows, and the output.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.read().map(Operand::streams).sum::<u64>() + 1
    }

    /// The most bytes of an element in any of them.
    #[must_use]
    pub fn widest(&self) -> u64 {
        let rows = self.read().flat_map(Operand::streamed);
        let each = |rows: &Rows| rows.block().bytes.div_ceil(rows.block().elements) as u64;
        let output = self.block();
        rows.map(each).fold(output.bytes.div_ceil(output.elements) as u64, u64::max)
    }

    /// Bytes that are open beside them, of products, magnitudes and side tensors.
    #[must_use]
    pub fn beside(&self, elements: u64) -> u64 {
        let row = self.row_elements as u64;
        self.read().map(|operand| operand.beside(elements, row)).fold(0, u64::saturating_add)
    }

    /// Bytes of what workers keep of its terms from part to part, as they are stored.
    #[must_use]
    pub fn kept_terms_bytes(&self) -> u64 {
        let kept = self.read().flat_map(|operand| &operand.terms).flat_map(Term::kept);
        kept.map(|rows| rows.bytes_of(rows.elements) + rows.whole_sides()).sum()
    }

    /// Elements per cell of the unit's grid: [`CELL`], or as many whole rows as it holds.
    #[must_use]
    pub fn cell(&self) -> usize {
        match &self.action {
            Action::Compute(run) if run.by_rows() => {
                let row = self.row_elements.max(1);
                (CELL / row).max(1) * row
            }
            Action::Analyze(_) => self.matrix_row().map_or(CELL, |row| CELL / row * row),
            _ => CELL,
        }
    }

    /// Elements decoded at once.
    #[must_use]
    pub fn tile(&self) -> usize {
        if self.by_rows() { self.cell() + 2 * self.halo() } else { BLOCK }
    }

    /// Whether a tile must be whole rows.
    #[must_use]
    pub fn by_rows(&self) -> bool {
        self.run().is_some_and(Run::by_rows)
    }

    /// Its formula at work, if there is one that is not of the whole at once.
    #[must_use]
    pub fn run(&self) -> Option<&dyn Run> {
        match &self.action {
            Action::Compute(run) => Some(&**run),
            Action::Copy
            | Action::Same
            | Action::Solve(_)
            | Action::Beside(_)
            | Action::Text(_)
            | Action::Analyze(_) => None,
        }
    }

    /// Elements before and after those it fills that a part must see.
    #[must_use]
    pub fn halo(&self) -> usize {
        self.run().map_or(0, |run| run.halo() * self.row_elements.max(1))
    }

    /// How many passes there are before the unit is mapped.
    #[must_use]
    pub fn passes(&self) -> usize {
        self.run().map_or(0, Run::passes)
    }

    /// Bytes of what is known of the unit while it is made.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.run().map_or(0, Run::kept_bytes)
    }

    /// Bytes of sums that a worker holds in a pass.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.run().map_or(0, |run| run.state_bytes(self.tile()))
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
            _ => 0,
        }
    }
}
