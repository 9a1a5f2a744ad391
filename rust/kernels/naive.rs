//! The formulas in f64, one line each: what the kernels are compared with.

/// `sum_i w_i x_i` of one element.
pub(super) fn linear(weights: &[f64], x: &[f32]) -> f64 {
    weights.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
}
