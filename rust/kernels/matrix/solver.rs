//! A formula of whole matrices at work on one unit: the one place where its type is forgotten.

use std::fmt::{self, Debug};

use super::differences::Matrix;
use super::make::{Made, Make};
use super::operands::{Operands, Read};
use crate::kernels::runner::Map;
use crate::kernels::tile::{Tile, Whole};
use crate::linalg::engine::{Engine, PANEL};

/// Bytes that packing, rotations and counts take beside the matrices.
const ROOM: u64 = 24 << 20;

/// A formula of a whole unit, which is solved before it is mapped.
pub trait Solve: Debug + Send + Sync {
    /// Fills some elements of matrix `index`.
    fn gather(&self, tile: Tile, index: usize, out: &mut [f32]);

    /// Makes of the matrices, so many rows of so many elements, what can be mapped.
    ///
    /// # Errors
    /// A sentence without the place: values that are not finite; no way to what is asked for; they
    /// could not be read, or the engine was stopped.
    fn solve(
        &self,
        engine: &Engine,
        source: &mut dyn Read,
        shape: (usize, usize),
    ) -> Result<Box<dyn Map + '_>, String>;

    /// Bytes that a worker holds of a unit with so many rows, elements in a row and bytes of output.
    ///
    /// What is greatest of: the decomposition, with the matrix it is of if that is held; what is made, in
    /// f32, and the matrix that makes it, beside parts of the operands; what is made and the output.
    fn state_bytes(&self, rows: u64, columns: u64, output: u64) -> u64;
}

/// A solver, or what is wrong with the arguments.
pub type Solving = Result<Box<dyn Solve>, String>;

struct Solver<M> {
    of: Matrix<()>,
    make: M,
}

/// A solver for arguments that fit.
///
/// # Errors
/// A sentence without the place.
pub fn solver<M: Make + 'static>(of: Matrix<()>, make: M, whole: Whole) -> Solving {
    of.check(whole.operands)?;
    make.check(&of)?;
    Ok(Box::new(Solver { of, make }))
}

impl<M: Make> Solver<M> {
    fn matrices(&self) -> usize {
        self.make.matrices(self.of.weights.len())
    }
}

impl<M: Make> Debug for Solver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.make.fmt(f)
    }
}

impl<M: Make> Solve for Solver<M> {
    fn gather(&self, tile: Tile, index: usize, out: &mut [f32]) {
        self.make.gather(&self.of, tile, index, out);
    }

    fn solve(
        &self,
        engine: &Engine,
        source: &mut dyn Read,
        shape: (usize, usize),
    ) -> Result<Box<dyn Map + '_>, String> {
        let over = "the decomposition did not end, expected it to";
        let mut operands = Operands::new(source, *engine, self.matrices(), shape);
        let bad = operands.count_nonfinite(engine).ok_or(over)?;
        if bad > 0 {
            return Err(format!(
                "{bad} elements of {} are not finite, expected none: one would spread over the \
                 whole matrix",
                self.make.subject()
            ));
        }
        let made = if operands.short() <= 1 {
            self.make.vectors(&self.of, engine, operands.vectors().ok_or(over)?).ok_or(over)?
        } else {
            self.make.solve(&self.of, engine, &mut operands).ok_or(over)??
        };
        if engine.stopped() {
            return Err(over.to_owned());
        }
        Ok(Box::new(Solved { solver: self, made }))
    }

    fn state_bytes(&self, rows: u64, columns: u64, output: u64) -> u64 {
        let all = rows.saturating_mul(columns).saturating_mul(4);
        let short = rows.min(columns);
        if short <= 1 {
            let copies = self.make.copies().saturating_mul(self.matrices() as u64);
            return all.saturating_mul(copies).saturating_add(output);
        }
        let held = self.make.bytes(self.of.weights.len(), rows, columns);
        let parts = held.parts + (16 * PANEL) as u64 * short + ROOM;
        let later = all + output.max(held.made + parts);
        later.max(held.solved + parts)
    }
}

/// What was made of a unit.
struct Solved<'a, M> {
    solver: &'a Solver<M>,
    made: Made,
}

impl<M: Make> Map for Solved<'_, M> {
    fn map(&self, tile: Tile, out: &mut [f32]) {
        let first = tile.first as usize;
        let made = &self.made.values[first..first + out.len()];
        self.solver.make.map(&self.solver.of, tile, made, out);
    }

    fn note(&self) -> Option<&str> {
        Some(self.made.note.as_str()).filter(|note| !note.is_empty())
    }
}
