//! Functions of single numbers, the same bits on every machine: powers, sines, noise.

pub mod exp;
pub mod noise;
pub mod trig;
