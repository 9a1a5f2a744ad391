//! What a kernel gathers over a whole unit, and what it learns from it.

use super::Stretch;
use super::gram::Gram;

/// Sums over a stretch of a unit, in the making.
#[derive(Clone, Debug)]
pub enum Sums {
    /// Inner products of the operands.
    Gram(Gram),
}

impl Sums {
    /// Whether they are whole numbers, which add up alike in any order.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Gram(_) => false,
        }
    }

    /// Adds the sums of the next stretch of the grid. Both are of the same kind and size.
    pub fn merge_next(&mut self, next: &Self) {
        match (self, next) {
            (Self::Gram(sums), Self::Gram(next)) => sums.merge_next(next),
        }
    }
}

/// What a kernel knows of a unit when it maps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Learned {
    /// Nothing: it never looked, or not yet.
    #[default]
    Nothing,
    /// The weights of a sum over the operands.
    Weights(Vec<f32>),
}

/// `out = sum_i weights_i x_i`, each product and sum rounded to f32, in operand order; an operand of
/// weight 0 is left out.
///
/// # Panics
/// If there is not one weight per operand, or the lengths differ.
pub(super) fn weighted_sum(stretch: Stretch, weights: &[f32], out: &mut [f32]) {
    assert_eq!(stretch.operands.len(), weights.len(), "operands of a weighted sum");
    let mut terms = stretch.operands.iter().zip(weights).filter(|(_, w)| **w != 0.0);
    match terms.next() {
        Some((x, w)) => stretch.isa.scale(x, *w, out),
        None => out.fill(0.0),
    }
    terms.for_each(|(x, w)| stretch.isa.add_scaled(x, *w, out));
}
