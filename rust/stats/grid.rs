//! The grid on which sums are folded, whatever cuts the work.

/// Elements per cell.
pub const CELL: usize = 65_536;
