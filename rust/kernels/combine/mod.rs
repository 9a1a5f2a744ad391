//! Weighted sums whose weights follow from the norms and angles of the operands.
//!
//! Spherical interpolation and its relatives move inside the span of their operands, so one pass
//! over the inner products ([`Gram`]) gives their weights, and the map is a weighted sum in f32.
//! Iterations run on coefficients: they never touch an element again.
//!
//! Weights are formed in f64 and rounded to f32 once. Inner products leave out the elements that are
//! not finite; such an element of an operand makes the same element of the output non-finite and
//! no other.

use super::family::family;
use super::gram::Gram;
use super::kernel::{Kernel, Next, Step};
use super::tile::{Tile, Whole};
use super::weights::Weights;

mod karcher;
mod median;
mod multislerp;
#[cfg(test)]
mod naive;
mod norm_lerp;
mod norm_limit;
mod orthogonal;
mod polar;
pub mod rows;
mod rule;
mod slerp;
mod stock;
#[cfg(test)]
mod tests;
mod vectors;

pub use rule::Rule;

family! {
    /// How the weights follow from the inner products.
    Combine: rule(rule) -> Box<dyn Rule> { Box::new(rule) }
    /// The point where the distances to all operands sum to the least.
    "geometric_median" => GeometricMedian(median::GeometricMedian),
    /// The mean on the sphere.
    "karcher" => Karcher(karcher::Karcher),
    /// As far from the base as the angles of the others allow.
    "model_stock" => ModelStock(stock::ModelStock),
    /// The mean direction of any number of operands.
    "multislerp" => Multislerp(multislerp::Multislerp),
    /// A line walked at the norm between its ends.
    "norm_lerp" => NormLerp(norm_lerp::NormLerp),
    /// A sum of differences that goes so far from the base and no further.
    "norm_limit" => NormLimit(norm_limit::NormLimit),
    /// Along the great circle, by weights, of operands or of what they add to a base.
    "nuslerp" => Nuslerp(slerp::NuSlerp),
    /// What one operand adds beside the direction of another.
    "orthogonal" => Orthogonal(orthogonal::Orthogonal),
    /// A direction and a norm, each from anywhere between two operands.
    "polar" => Polar(polar::Polar),
    /// Along the great circle.
    "slerp" => Slerp(slerp::Slerp),
}

/// A rule for a whole unit: one pass over the inner products gives the weights.
#[derive(Debug)]
pub struct Weighted(pub Box<dyn Rule>);

impl Kernel for Weighted {
    type Sums = Gram;
    type Learned = Found;

    fn check(&self, operands: usize) -> Result<(), String> {
        self.0.check(operands)
    }

    fn passes(&self) -> usize {
        1
    }

    fn start(&self, whole: Whole) -> Next<Self> {
        Step::Pass(Gram::new(whole.operands))
    }

    fn reduce(&self, tile: Tile, gram: &mut Gram) {
        gram.add(tile);
    }

    fn learn(&self, gram: Gram) -> Next<Self> {
        Step::Known(Found { weights: self.0.weigh(&gram), gram })
    }

    fn map(&self, tile: Tile, found: &Found, out: &mut [f32]) {
        found.weights.sum(tile, out);
    }

    fn note(found: &Found) -> Option<&str> {
        found.weights.note()
    }

    fn state_bytes(&self, operands: usize, _: usize) -> u64 {
        Gram::bytes(operands)
    }

    fn kept_bytes(&self, whole: Whole) -> u64 {
        Gram::bytes(whole.operands)
    }

    fn key(&self) -> Option<String> {
        Some("gram".to_owned())
    }

    fn statistics(&self, found: &Found) -> Option<Vec<u64>> {
        Some(found.gram.numbers())
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Next<Self>> {
        Some(self.learn(Gram::recall(whole.operands, statistics)?))
    }
}

/// What is known of a unit.
#[derive(Debug)]
pub struct Found {
    gram: Gram,
    weights: Weights,
}
