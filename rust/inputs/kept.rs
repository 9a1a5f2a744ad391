//! What a worker keeps of a term from part to part of a unit: what every row needs, in f32.

use std::sync::Arc;

use crate::error::Result;
use crate::io::source::Source;
use crate::linalg::thin::{Left, Onto, Right, multiply};
use crate::resolve::rows::Room;
use crate::resolve::{
    Factor, Hadamard, Kronecker, LowRank, Magnitude, Multiplied, Rows, Term, Thin, Values,
};
use crate::simd::Isa;

/// Rows of a product that are made together.
const ROWS: usize = 32;

/// What is kept of a term.
#[derive(Debug)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// `down`.
    Thin(Right),
    /// That of both products; or `up` and `down`, where both are multiplied with.
    Pair([Right; 2]),
    /// Both factors, row by row.
    Factors([Vec<f32>; 2]),
    /// A number for each row.
    Values(Vec<f32>),
}

impl Kept {
    /// Reads what is kept of a term.
    pub fn load(term: &Term, sources: &[Arc<dyn Source>], isa: &Isa) -> Result<Self> {
        let reader = Reader { sources, isa };
        Ok(match term {
            Term::LowRank(LowRank { product, .. }) => Self::Thin(reader.right(product)?),
            Term::Multiplied(Multiplied { product, .. }) => {
                let Thin { up, down, rank } = product;
                let columns = (up.elements / *rank as u64) as usize;
                Self::Pair([reader.rows(up, columns, *rank)?, reader.rows(down, *rank, columns)?])
            }
            Term::Hadamard(Hadamard { left, right, .. }) => {
                Self::Pair([reader.right(left)?, reader.right(right)?])
            }
            Term::Kronecker(Kronecker { left, right, .. }) => {
                Self::Factors([reader.factor(left)?, reader.factor(right)?])
            }
            Term::Magnitude(Magnitude { values, .. }) => {
                Self::Values(reader.matrix(values, values.elements)?)
            }
            Term::Rows(_) | Term::Scaled(_) | Term::Network(_) => Self::Nothing,
        })
    }
}

struct Reader<'a> {
    sources: &'a [Arc<dyn Source>],
    isa: &'a Isa,
}

impl Reader<'_> {
    /// Shows all rows of so many elements, one after the other.
    fn each(&self, rows: &Rows, columns: u64, mut show: impl FnMut(usize, &[f32])) -> Result<()> {
        let mut buffers = vec![Vec::new(); rows.windows()];
        let (mut values, mut room) = (vec![0.0; columns as usize], Room::default());
        for row in 0..rows.elements / columns.max(1) {
            let elements = row * columns..(row + 1) * columns;
            let open = rows.open(self.sources, elements.clone(), &mut buffers.iter_mut())?;
            open.decode(self.isa, elements, &mut room, &mut values);
            show(row as usize, &values);
        }
        Ok(())
    }

    fn right(&self, thin: &Thin) -> Result<Right> {
        let columns = thin.down.elements / thin.rank as u64;
        self.rows(&thin.down, thin.rank, columns as usize)
    }

    fn rows(&self, rows: &Rows, rank: usize, columns: usize) -> Result<Right> {
        let mut right = Right::new(self.isa, rank, columns);
        self.each(rows, columns as u64, |row, values| right.set(row, 0, values))?;
        Ok(right)
    }

    fn matrix(&self, rows: &Rows, columns: u64) -> Result<Vec<f32>> {
        let mut matrix = Vec::with_capacity(rows.elements as usize);
        self.each(rows, columns, |_, values| matrix.extend_from_slice(values))?;
        Ok(matrix)
    }

    fn factor(&self, factor: &Factor) -> Result<Vec<f32>> {
        let thin = match &factor.values {
            Values::Stored(rows) => return self.matrix(rows, factor.columns),
            Values::Product(thin) => thin,
        };
        let (right, columns) = (self.right(thin)?, factor.columns as usize);
        let (rows, rank) = (factor.rows as usize, thin.rank);
        let (mut product, mut left) = (vec![0.0; rows * columns], Left::default());
        self.each(&thin.up, rank as u64, |row, values| {
            let first = row / ROWS * ROWS;
            let count = ROWS.min(rows - first);
            if row == first {
                left.begin(count, rank);
            }
            left.set(row - first, values);
            if row + 1 == first + count {
                let out = &mut product[first * columns..][..count * columns];
                multiply(self.isa, &left, &right, Onto::Set(1.0), out);
            }
        })?;
        Ok(product)
    }
}
