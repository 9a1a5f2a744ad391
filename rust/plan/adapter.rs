//! An adapter as the result: what is written instead of the outputs of a plan.

use serde::Deserialize;

use crate::dtype::Dtype;
use crate::kernels::matrix::Vote;

/// The modules of an adapter, in the order of the outputs they are made of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterSpec {
    /// Together they take every output.
    pub modules: Vec<ModuleSpec>,
}

/// One tensor of the model and what an adapter has for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// Name for messages and the report.
    pub name: String,
    /// What it is made of.
    pub made: MadeSpec,
}

/// What is made of the next outputs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MadeSpec {
    /// The next output under its own name; nothing if it is zero.
    Difference {},
    /// The second of the next two outputs under its own name; nothing if the first is zero.
    Whole {},
    /// The factors of the next output, a matrix in F32; nothing if it is zero.
    Matrix(MatrixSpec),
    /// The factors of a sum of products; nothing if it is zero.
    Products(ProductsSpec),
}

impl MadeSpec {
    /// How many outputs it takes.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Self::Difference {} => 1,
            Self::Whole {} => 2,
            Self::Matrix(spec) => 1 + usize::from(spec.bias),
            Self::Products(spec) => 2 * spec.products.len() + usize::from(spec.bias),
        }
    }
}

/// A matrix, and a bias that goes with it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixSpec {
    /// What is written of it.
    pub factors: FactorsSpec,
    /// Whether the output after it is its bias, which is written under its own name unless it is
    /// zero; where the matrix is, it stands beside factors of rank 1 that are.
    pub bias: bool,
}

/// The sum of products of the next outputs in F32, `up_0`, `down_0`, `up_1`, ..., and a bias as that of
/// a matrix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductsSpec {
    /// Rows of the sum.
    pub rows: u64,
    /// The products.
    pub products: Vec<ProductSpec>,
    /// What is written. Where the rank is that of all products together they are written side by
    /// side, each `down` times its scale. Columns of `up` that are zero are left out.
    pub factors: FactorsSpec,
    /// Whether the last output is a bias.
    pub bias: bool,
    /// How they are merged where they are not added up.
    pub shared: Option<SharedSpec>,
}

/// Products of several adapters, voted on in the directions that all share.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedSpec {
    /// How.
    pub vote: Vote,
    /// One finite weight for each adapter.
    pub weights: Vec<f64>,
    /// How many of the products each adapter has, in their order.
    pub each: Vec<usize>,
}

/// `scale · up · down`, as rows of a sum.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductSpec {
    /// What it is multiplied by.
    pub scale: f64,
    /// The first row of the sum that it adds to.
    pub first: u64,
}

/// Factors as they are written: `up · down` with `rank` columns and rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorsSpec {
    /// Name of the tensor (rows, rank).
    pub up: String,
    /// Name of the tensor (rank, columns).
    pub down: String,
    /// A number in F32 beside them, if one is wanted.
    pub alpha: Option<AlphaSpec>,
    /// The dtype of both factors.
    pub dtype: Dtype,
    /// The rank, at most.
    pub rank: usize,
    /// The share of the sum of squares that is enough: the smallest rank that holds it is taken.
    pub energy: Option<f64>,
    /// Chooses the random numbers.
    pub key: u64,
}

/// A number in F32 that is so many times the rank.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlphaSpec {
    /// Its name.
    pub name: String,
    /// How many times: what readers multiply the product by.
    pub scale: f64,
}
