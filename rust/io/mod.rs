//! Files: windowed reads (`source`), outputs that are not yet real (`unpublished`, and whole ones in
//! `transaction`), and the system calls behind them (`sys`). Nothing here knows a tensor.

pub mod admission;
pub mod source;
mod staging;
pub mod sys;
pub mod target;
pub mod transaction;
pub mod unpublished;
