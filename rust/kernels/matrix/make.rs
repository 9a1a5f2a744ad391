//! What is made of the matrices of a unit.

use std::fmt::Debug;

use super::differences::Matrix;
use super::operands::Operands;
use crate::kernels::tile::Tile;
use crate::linalg::engine::Engine;

/// What was made of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// `f(D)`, row by row; of a rotation what comes out.
    pub values: Vec<f32>,
    /// What there is to say about it.
    pub note: String,
}

/// What a worker holds beside the operands.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// While it solves.
    pub solved: u64,
    /// Of what makes the result, beside the result.
    pub made: u64,
    /// Of parts of the operands.
    pub parts: u64,
}

/// `None` if it was stopped or did not end; a sentence if there is no way to what is asked for.
pub type Outcome<T> = Option<Result<T, String>>;

/// A formula of whole matrices.
pub trait Make: Debug + Send + Sync {
    /// Whether the arguments are usable; else what is wrong.
    ///
    /// # Errors
    /// A sentence without the place.
    fn check(&self, of: &Matrix<()>) -> Result<(), String>;

    /// Matrices that are read, of so many models.
    fn matrices(&self, models: usize) -> usize;

    /// Fills some of the elements of matrix `index`.
    fn gather(&self, of: &Matrix<()>, tile: Tile, index: usize, out: &mut [f32]);

    /// What is made of all matrices, whose sides have two elements at least.
    fn solve(&self, of: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made>;

    /// What is made of one row or one column of each.
    fn vectors(&self, of: &Matrix<()>, engine: &Engine, all: Vec<Vec<f32>>) -> Option<Made>;

    /// Bytes that are held of matrices of this shape.
    fn bytes(&self, models: usize, rows: u64, columns: u64) -> Bytes;

    /// How many copies there are of vectors.
    fn copies(&self) -> u64 {
        1
    }

    /// What the matrices are of, in words.
    fn subject(&self) -> &'static str {
        "the difference"
    }

    /// Fills a tile of the output.
    fn map(&self, of: &Matrix<()>, tile: Tile, made: &[f32], out: &mut [f32]) {
        of.map(tile, made, out);
    }
}

/// The mean of the differences of vectors, which have no directions.
pub fn mean(of: &Matrix<()>, all: Vec<Vec<f32>>) -> Option<Made> {
    let mut all = all.into_iter();
    let mut values = all.next()?;
    for other in all {
        values.iter_mut().zip(other).for_each(|(sum, d)| *sum += d);
    }
    let count = of.weights.len() as f32;
    for d in &mut values {
        *d /= count;
    }
    Some(Made { values, note: "vectors: mean of the differences".to_owned() })
}

/// Bytes of a square matrix in f64.
pub fn square(n: u64) -> u64 {
    n.saturating_mul(n).saturating_mul(8)
}
