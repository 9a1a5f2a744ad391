//! What units whose formula needs them whole ask for.

use super::{Action, Unit, byte_len};
use crate::kernels::{Kernel, Matrix};

impl Unit {
    /// The formula, if it needs the whole unit at once.
    #[must_use]
    pub fn matrix(&self) -> Option<&Matrix> {
        match &self.action {
            Action::Compute(Kernel::Matrix(matrix)) => Some(matrix),
            _ => None,
        }
    }

    /// Elements that an item must hold together: a cell, or the whole unit.
    #[must_use]
    pub fn grain(&self) -> u64 {
        if self.matrix().is_some() { self.elements } else { self.cell() as u64 }
    }

    /// Bytes that a worker holds of a whole unit; 0 if its formula does not need it whole.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        self.matrix().map_or(0, |matrix| {
            let row = self.row_elements.max(1) as u64;
            let output = byte_len(self.elements, self.dtype).unwrap_or(u64::MAX);
            matrix.state_bytes(self.elements / row, row, output)
        })
    }
}
