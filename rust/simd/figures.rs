//! What is found out about a block.

/// Elements per call: three f32 buffers of this length fit the first-level cache. Also the block
/// of the statistics.
pub const BLOCK: usize = 1024;

/// Sums over one block of an operand `x` and a reference `r`, `delta = x - r` rounded to f32.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pair {
    /// `sum x * x` over the finite `x`.
    pub norm2: f64,
    /// `sum x * r` where both are finite.
    pub dot: f64,
    /// `sum delta * delta` where both are finite.
    pub delta2: f64,
    /// How many `x` are infinite or NaN.
    pub nonfinite: u64,
}

/// What a block of output looks like beside its first operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Elements that differ in value from the reference; +0 and -0 differ, any two NaNs are equal.
    pub changed: u64,
    /// Infinite and NaN elements.
    pub nonfinite: u64,
    /// Whether any element is as large as the dtype's largest finite one, or larger.
    pub at_limit: bool,
}
