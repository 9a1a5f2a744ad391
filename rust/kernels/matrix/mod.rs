//! Formulas of whole matrices: what singular values and vectors make of what models add to a base.
//!
//! A unit of `m` rows of `n` elements is one matrix. At most one matrix is held whole; what is made of
//! several reads them again and again, part by part.

#![allow(clippy::inline_always)]

use super::family::family;
use super::tile::Whole;

mod differences;
mod make;
mod operands;
mod rotation;
mod shared;
mod solver;
mod spectral;
mod tasks;

pub use self::differences::Matrix;
pub use self::operands::Read;
pub use self::shared::{Vote, bytes as vote_bytes};
pub use self::solver::{Solve, Solving, solver};

family! {
    /// What is made of a matrix `D = U S V^T`.
    Making: solver(make, matrix: Matrix<()>, whole: Whole) -> Solving { solver(matrix, make, whole) }
    /// `sum_{i <= rank} s_i u_i v_i^T`: the nearest matrix of this rank (Eckart and Young 1936). Where
    /// the rank is few of many, by subspace iteration from a fixed random start, until the energy it
    /// captures grows by less than 1e-7 of the whole in a step, or 12 steps are done.
    "rank" => Rank(spectral::Rank),
    /// The same with the least rank that holds this share of `sum s_i^2`.
    "energy" => Energy(spectral::Energy),
    /// `mean(s) U V^T`: all directions at one strength, those left out whose singular value is below
    /// 1e-6 of the largest. A vector (one row or one column) is divided by the number of models.
    /// Marczak et al. 2025, "No task left behind", arXiv:2502.04959.
    "isotropic" => Isotropic(spectral::Isotropic),
    /// `polar(U) S polar(V)^T` of the strongest directions `U`, `S`, `V` of every `w_i (x_i - c)` by
    /// itself, side by side; `polar(X) = X (X^T X)^-1/2`, over the directions whose singular value
    /// is above 1e-6 of the largest. Of a vector the mean of all is taken. Gargiulo et al. 2025,
    /// "Task singular vectors", arXiv:2412.00081.
    "decorrelated" => Decorrelated(tasks::Decorrelated),
    /// `U vote(S V_1^T, ..., S V_T^T)` with `[D_1 | ... | D_T] = U S [V_1 | ... | V_T]^T`, `D_i = x_i - c`
    /// side by side along the rows. The blocks are rounded to f32 and voted on as `delta` does with a
    /// base of 0, over the directions whose singular value is above 1e-6 of the largest, in falling order
    /// and row by row; the largest element of every vector of the shorter side is positive. A vector
    /// is voted on as it is. Stoica et al. 2024, "Model merging with SVD to tie the
    /// `KnOTS`", arXiv:2410.19735.
    "shared" => Shared(shared::Vote),
    /// `(1 - alpha) x_0 R^t + alpha x_1 R^(t-1)`, with the orthogonal `R` of the short side that brings `x_0`
    /// nearest to `x_1` (on the left of a wide matrix); no turn along what neither determines. Rounded to
    /// f32 once, and neither multiplied nor added. Of two models, both of which are operands; a vector
    /// is not turned.
    "rotated" => Rotated(rotation::Turned),
}

impl Matrix<Making> {
    /// At work on a unit.
    ///
    /// # Errors
    /// A sentence without the place: what is wrong with the arguments.
    pub fn solver(self, whole: Whole) -> Solving {
        let make = self.make.clone();
        make.solver(self.with(()), whole)
    }
}
