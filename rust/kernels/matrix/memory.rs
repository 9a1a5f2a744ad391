//! What a worker holds of a unit that is worked on as a whole.

use super::operands::SLAB;
use super::{Make, Matrix, PANEL, spectrum};

/// Bytes that packing, rotations and counts take beside the matrices.
const ROOM: u64 = 24 << 20;

impl Matrix {
    /// Bytes that a worker holds of a unit with so many rows, elements in a row and bytes of output.
    ///
    /// What is greatest of: the decomposition, with the matrix it is of if that is held; what is made, in f32, and the
    /// matrix that makes it, beside parts of the operands; what is made and the output.
    #[must_use]
    pub fn state_bytes(&self, rows: u64, columns: u64, output: u64) -> u64 {
        let all = rows.saturating_mul(columns).saturating_mul(4);
        let short = rows.min(columns);
        if short <= 1 {
            // The votes on vectors are of copies.
            let copies = if matches!(self.make, Make::Shared(_)) { 2 } else { 1 };
            return (all * copies).saturating_mul(self.matrices() as u64).saturating_add(output);
        }
        let (solved, made, parts) = match self.make {
            Make::Rank(rank) => (all + vectors_of(rank, rows, columns), 0, 0),
            Make::Energy(_) => (all + square(short), 0, 0),
            Make::Isotropic {} => (all + 2 * square(short), 0, 0),
            Make::Decorrelated { .. } => self.decorrelated(rows, columns),
            Make::Rotated(how) => {
                let powers = u64::from(how.alpha != 0.0) + u64::from(1.0 - how.alpha != 0.0);
                let between = how.alignment > 0.0 && how.alignment < 1.0;
                // The copy that is inverted and its inverse; or the parts, and half turns.
                let solved = if between { (7 + 2 * powers).max(8) } else { 6 };
                let parts = (8 * SLAB + 32 * PANEL) as u64 * short;
                (solved * square(short) / 2, powers.max(1) * square(short), parts)
            }
            Make::Shared(_) => self.shared(rows, columns),
        };
        let panels = (16 * PANEL) as u64 * short + ROOM;
        let later = all + output.max(made + parts + panels);
        later.max(solved + parts + panels)
    }

    fn decorrelated(&self, rows: u64, columns: u64) -> (u64, u64, u64) {
        let short = rows.min(columns);
        let models = self.matrices() as u64;
        let rank = self.rank_of_each(short as usize);
        let count = rank as u64 * models;
        let vectors = 8 * count * short;
        let found = 4 * rows * columns + vectors + vectors_of(rank, rows, columns);
        let solved = found.max(3 * square(count) + vectors);
        let parts = (4 * SLAB) as u64 * models * short + (16 * PANEL) as u64 * count;
        (solved, 2 * vectors, parts)
    }

    fn shared(&self, rows: u64, columns: u64) -> (u64, u64, u64) {
        let models = self.matrices() as u64;
        let beside = models * columns;
        if rows <= beside {
            let held = if self.thins() { 4 * rows * columns } else { 0 };
            let parts = (24 + 4 * models) * rows * SLAB as u64;
            return (square(rows) + held, square(rows), parts);
        }
        let turn = 8 * beside * columns;
        let parts = (4 * beside + 12 * columns) * SLAB as u64;
        (square(beside) + turn, turn, parts)
    }

    /// How many directions of each model are decorrelated.
    pub(super) fn rank_of_each(&self, short: usize) -> usize {
        match self.make {
            Make::Decorrelated { rank: Some(rank) } => rank.min(short),
            _ => (short / self.weights.len().max(1)).max(1),
        }
    }
}

/// Bytes of a square matrix in f64.
fn square(n: u64) -> u64 {
    n.saturating_mul(n).saturating_mul(8)
}

/// Bytes that are held to find so many directions.
fn vectors_of(rank: usize, rows: u64, columns: u64) -> u64 {
    let (short, long) = (rows.min(columns), rows.max(columns));
    if spectrum::is_few(rank, short as usize) {
        8 * spectrum::guarded(rank) as u64 * (long + 3 * short)
    } else {
        square(short)
    }
}
