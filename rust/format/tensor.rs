//! One tensor of a file.

use crate::dtype::Dtype;

/// One tensor of a file: what its bytes mean and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name as in the file. It may hold any characters: print it with
    /// [`crate::error::quoted`], never use it as a path.
    pub name: String,
    /// The type of one element.
    pub dtype: Dtype,
    /// Dimensions, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte, counted from the beginning of the data section.
    pub start: u64,
    /// One past the last byte, counted from the beginning of the data section.
    pub end: u64,
}

impl Tensor {
    /// Rows: the first dimension, 1 for a scalar.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of one row, 1 for a vector or a scalar. Saturates; a header with such a shape is
    /// refused when it is read and when it is written.
    #[must_use]
    pub fn row_elements(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |product, &n| product.saturating_mul(n))
    }

    /// Elements of the whole tensor. Saturates like [`Tensor::row_elements`].
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.rows().saturating_mul(self.row_elements())
    }
}
