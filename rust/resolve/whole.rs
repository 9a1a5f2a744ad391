//! What units whose formula needs them whole ask for.

use super::{Action, Unit};
use crate::kernels::matrix::Solve;

impl Unit {
    /// The formula, if it needs the whole unit at once.
    #[must_use]
    pub fn solve(&self) -> Option<&dyn Solve> {
        match &self.action {
            Action::Solve(solve) => Some(&**solve),
            _ => None,
        }
    }

    /// Elements that an item must hold together: a cell, or the whole unit.
    #[must_use]
    pub fn grain(&self) -> u64 {
        if self.solve().is_some() { self.elements } else { self.cell() as u64 }
    }

    /// Bytes that a worker holds of a whole unit; 0 if its formula does not need it whole.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        self.solve().map_or(0, |solve| {
            let row = self.row_elements.max(1) as u64;
            let output = self.block().len(self.elements).unwrap_or(u64::MAX);
            solve.state_bytes(self.elements / row, row, output)
        })
    }
}
