//! What an operand is made of, as a plan writes it.

use serde::Deserialize;

use crate::format::codec::CodecSpec;

/// The first of an operand; what is added to those before it; or what these are multiplied by.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TermSpec {
    /// Rows of an input tensor.
    Rows(RowsSpec),
    /// The same, multiplied by a number.
    Scaled(ScaledSpec),
    /// The product of two thin matrices.
    LowRank(LowRankSpec),
    /// What the first term is multiplied by, as a product of two thin matrices; it is added.
    Multiplied(LowRankSpec),
    /// The product, element by element, of two such products.
    Hadamard(HadamardSpec),
    /// The Kronecker product of two matrices.
    Kronecker(KroneckerSpec),
    /// What sets the length of every row: it multiplies the sum so far.
    Magnitude(MagnitudeSpec),
    /// The output of a small network, one value per element of the unit.
    Network(NetworkSpec),
}

/// Rows of an input tensor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsSpec {
    /// Index into `sources`.
    pub source: usize,
    /// Name of the tensor.
    pub tensor: String,
    /// First row.
    pub start: u64,
    /// One past the last row.
    pub end: u64,
    /// What its bytes mean.
    #[serde(default)]
    pub codec: CodecSpec,
    /// The tensors that the codec wants beside it.
    #[serde(default)]
    pub sides: Vec<SideSpec>,
}

/// A tensor beside another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideSpec {
    /// Index into `sources`.
    pub source: usize,
    /// Name of the tensor.
    pub tensor: String,
}

/// `scale · rows`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaledSpec {
    /// As many as the unit has.
    pub rows: RowsSpec,
    /// What they are multiplied by.
    pub scale: f64,
}

/// `scale · up · down`, (rows of the unit, elements of its row).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowRankSpec {
    /// (rows, rank).
    pub up: RowsSpec,
    /// (rank, columns).
    pub down: RowsSpec,
    /// What the product is multiplied by.
    pub scale: f64,
}

/// `up · down`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThinSpec {
    /// (rows, rank).
    pub up: RowsSpec,
    /// (rank, columns).
    pub down: RowsSpec,
}

/// `scale · left ∘ right`: two products of the unit's shape, multiplied element by element.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HadamardSpec {
    /// One product.
    pub left: ThinSpec,
    /// The other.
    pub right: ThinSpec,
    /// What both are multiplied by.
    pub scale: f64,
}

/// Rows of `scale · left ⊗ right`, from `first` on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KroneckerSpec {
    /// The matrix whose elements multiply.
    pub left: FactorSpec,
    /// The matrix that is repeated.
    pub right: FactorSpec,
    /// The row of the product that is the first of the unit.
    pub first: u64,
    /// What the product is multiplied by.
    pub scale: f64,
}

/// A factor of a Kronecker product.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactorSpec {
    /// A matrix as it is stored.
    Rows(RowsSpec),
    /// A product of two thin ones.
    LowRank(ThinSpec),
}

/// Row by row, the sum so far is multiplied by `strength · (value / (norm + epsilon) - 1) + 1`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MagnitudeSpec {
    /// A number for each row of the unit.
    pub values: RowsSpec,
    /// What has a number.
    pub axis: Axis,
    /// Whose length is divided by.
    pub norm: Norm,
    /// 1 sets the length, 0 leaves it.
    pub strength: f64,
    /// What is added to the length.
    pub epsilon: f64,
}

/// What a magnitude has a number for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Every row.
    Rows,
    /// Every column.
    Columns,
}

/// Whose length a magnitude divides by.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// That of the sum so far.
    Sum,
    /// That of the first term.
    Base,
}

/// Layers that follow each other, applied to one vector; see [`crate::resolve::network`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The input vector.
    pub input: Vec<f64>,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// One affine layer and what its output goes through.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSpec {
    /// The matrix, (out, in).
    pub weight: MixSpec,
    /// The bias, (out).
    pub bias: MixSpec,
    /// What every output goes through.
    pub activation: Activation,
}

/// A function of single values.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The value itself.
    None,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// A weighted sum of tensors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixSpec {
    /// The tensors.
    pub operands: Vec<RowsSpec>,
    /// Their weights.
    pub weights: Vec<f64>,
}
