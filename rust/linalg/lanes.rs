//! Vectors of f64.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::engine::Engine;
use crate::simd::{Body, fold};

/// f64 accumulators per sum.
pub const LANES: usize = 16;

/// The inner product, over fixed lanes.
pub fn dot(engine: &Engine, x: &[f64], y: &[f64]) -> f64 {
    engine.run(Dot { x, y })
}

struct Dot<'a> {
    x: &'a [f64],
    y: &'a [f64],
}

impl Body for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0; LANES];
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let (y, y_rest) = self.y.as_chunks::<LANES>();
        for (x, y) in x.iter().zip(y) {
            for lane in 0..LANES {
                sums[lane] += x[lane] * y[lane];
            }
        }
        for (sum, (x, y)) in sums.iter_mut().zip(x_rest.iter().zip(y_rest)) {
            *sum += x * y;
        }
        fold(sums)
    }
}

/// `out = out + factor x`.
pub struct Axpy<'a> {
    /// What is added.
    pub x: &'a [f64],
    /// How often.
    pub factor: f64,
    /// To what.
    pub out: &'a mut [f64],
}

impl Body for Axpy<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out += self.factor * x;
        }
    }
}
