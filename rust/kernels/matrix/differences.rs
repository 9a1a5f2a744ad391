//! What models add to a base, as matrices.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::tile::Tile;
use crate::simd::Body;

/// `out = x_0 + lambda f(D)`, with `D = sum_i w_i (x_i - c)`: the models' differences from a base `c`,
/// which is `x_0`, or operand 1 if `apart`.
///
/// `D` is formed in f32, each step rounded, models in the plan's order; `f(D)` in f64, rounded to f32
/// once; then `f(D) lambda` and the sum, each rounded to f32.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Matrix<M> {
    /// One finite weight for each model.
    pub weights: Vec<f64>,
    /// What the result is multiplied by.
    pub lambda: f64,
    /// Whether operand 1, and not operand 0, is what differences are taken from.
    pub apart: bool,
    /// What is made of the differences.
    pub make: M,
}

impl<M> Matrix<M> {
    /// The same differences, of which something else is made.
    pub fn with<N>(self, make: N) -> Matrix<N> {
        let Self { weights, lambda, apart, .. } = self;
        Matrix { weights, lambda, apart, make }
    }
}

impl Matrix<()> {
    /// Whether there are so many operands, and finite numbers.
    pub fn check(&self, operands: usize) -> Result<(), String> {
        let (models, bases) = (self.weights.len(), 1 + usize::from(self.apart));
        if models == 0 || operands != models + bases {
            return Err(format!(
                "{models} weights for {operands} operands, expected one for each but the bases"
            ));
        }
        let finite = |x: &&f64| !(**x as f32).is_finite();
        match self.weights.iter().chain([&self.lambda]).find(finite) {
            Some(bad) => Err(format!("weight or lambda {bad:?}, expected a finite f32")),
            None => Ok(()),
        }
    }

    /// Fills `out` with the sum of all weighted differences.
    pub fn sum(&self, tile: Tile, out: &mut [f32]) {
        out.fill(0.0);
        for (model, weight) in self.weights.iter().enumerate() {
            self.add(tile, model, *weight as f32, out);
        }
    }

    /// Fills `out` with the differences of one model, times `weight`.
    pub fn one(&self, tile: Tile, model: usize, weight: f32, out: &mut [f32]) {
        out.fill(0.0);
        self.add(tile, model, weight, out);
    }

    fn add(&self, tile: Tile, model: usize, weight: f32, out: &mut [f32]) {
        let bases = 1 + usize::from(self.apart);
        let (base, x) = (tile.operands[bases - 1], tile.operands[bases + model]);
        tile.isa.run(Gather { x, base, weight, out });
    }

    /// Fills `out` from the base and what was made of the differences.
    pub fn map(&self, tile: Tile, made: &[f32], out: &mut [f32]) {
        let (base, lambda) = (tile.operands[0], self.lambda as f32);
        tile.isa.run(Scaled { base, made, lambda, out });
    }
}

/// `out = out + (x - base) weight`, each step rounded to f32.
struct Gather<'a> {
    x: &'a [f32],
    base: &'a [f32],
    weight: f32,
    out: &'a mut [f32],
}

impl Body for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, x), base) in self.out.iter_mut().zip(self.x).zip(self.base) {
            *out += (x - base) * self.weight;
        }
    }
}

/// `out = base + made lambda`, each step rounded to f32.
struct Scaled<'a> {
    base: &'a [f32],
    made: &'a [f32],
    lambda: f32,
    out: &'a mut [f32],
}

impl Body for Scaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, base), made) in self.out.iter_mut().zip(self.base).zip(self.made) {
            *out = base + made * self.lambda;
        }
    }
}
