//! A small network evaluated once, in f64: folds an embedder of a fixed input into a bias.
//!
//! `affine(W, b, x) = W · x + b`, summed in column order; `silu(x) = x / (1 + exp(-x))`. The caller
//! rounds once to f32. Source: the two-layer embedders of diffusion transformers
//! (`Linear -> SiLU -> Linear`).

/// `weight` is (out, in) in row-major order; `None` when the sizes do not fit.
#[must_use]
pub fn affine(weight: &[f64], bias: &[f64], input: &[f64]) -> Option<Vec<f64>> {
    if input.is_empty() || weight.len() != bias.len().checked_mul(input.len())? {
        return None;
    }
    let rows = weight.chunks_exact(input.len());
    let dot = |row: &[f64]| row.iter().zip(input).fold(0.0, |sum, (w, x)| sum + w * x);
    Some(rows.zip(bias).map(|(row, b)| dot(row) + b).collect())
}

/// In place.
pub fn silu(values: &mut [f64]) {
    for value in values {
        *value /= 1.0 + (-*value).exp();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_by_three_by_hand() {
        let got = affine(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.5, -0.5], &[1.0, 0.0, -1.0]);
        assert_eq!(got, Some(vec![-1.5, -2.5]));
        assert_eq!(affine(&[1.0], &[0.0, 0.0], &[1.0]), None);
    }

    #[test]
    fn silu_at_known_points() {
        let mut values = [0.0, 1.0, -1.0];
        silu(&mut values);
        assert!((values[1] - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!((values[2] + 0.268_941_421_369_995_1).abs() < 1e-15);
    }
}
