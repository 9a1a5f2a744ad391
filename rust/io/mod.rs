//! Files: windowed reads (`source`), outputs that are not yet real (`sink`, `transaction`), and the
//! system calls behind them (`sys`). Nothing here knows a tensor.

mod admission;
pub mod sink;
pub mod source;
pub mod sys;
pub mod transaction;
