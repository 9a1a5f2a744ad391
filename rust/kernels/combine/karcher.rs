//! The mean on the sphere.

use serde::Deserialize;

use super::rule::{Rule, expect_at_least, expect_not_negative};
use super::vectors::{Vectors, add, scaled};
use crate::kernels::gram::Gram;
use crate::kernels::weights::Weights;
use crate::math::trig;

/// `out = mean_i |x_i| · u`, with `u` the Karcher mean of the directions `u_i = x_i / |x_i|`: the
/// point of the sphere whose squared arcs to all of them sum to the least.
///
/// Operands with norms up to `tol` are left out of every mean; if none is left, `out = 0`. From
/// `u = mean_i u_i / |mean_i u_i|` (the first `u_i` if that mean's norm is below `tol`), at most
/// `max_iter` times: `T = mean_i θ_i / sin θ_i · (u_i - cos θ_i u)` with `θ_i` the angle of `u_i` and
/// `u`, where angles within `tol` of 0 or of π are skipped; stop if `|T| < tol`; else
/// `u = cos |T| u + sin |T| T / |T|`, divided by its norm. A unit that did not stop is noted.
///
/// Source: Grove and Karcher 1973; `karcher` of mergekit 0.1.5, which follows opposite points in
/// whatever direction rounding gives.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Karcher {
    /// Most steps.
    pub max_iter: u32,
    /// The angle that counts as none, and the norm that does.
    pub tol: f64,
}

impl Rule for Karcher {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_at_least("karcher", operands, 2)?;
        expect_not_negative("karcher", "tol", self.tol)
    }

    fn weigh(&self, gram: &Gram) -> Weights {
        let vectors = Vectors::new(gram, false);
        let norms = vectors.norms();
        let live: Vec<_> = (0..norms.len()).filter(|&i| norms[i] > self.tol).collect();
        if live.is_empty() {
            return Weights::new(false, &vec![0.0; norms.len()])
                .noting("no model has a norm: zero");
        }
        let units: Vec<_> = live.iter().map(|&i| vectors.one(i, 1.0 / norms[i])).collect();
        let norm = live.iter().map(|&i| norms[i]).sum::<f64>() / live.len() as f64;
        let (mean, converged) = self.mean(vectors, &units);
        let weights = Weights::new(false, &scaled(norm, &mean));
        if converged { weights } else { weights.noting("stopped at max_iter") }
    }
}

impl Karcher {
    /// The mean of directions, and whether it converged.
    fn mean(&self, vectors: Vectors, units: &[Vec<f64>]) -> (Vec<f64>, bool) {
        let share = 1.0 / units.len() as f64;
        let mut mean = vec![0.0; vectors.count()];
        for unit in units {
            add(&mut mean, share, unit);
        }
        let norm = vectors.norm(&mean);
        mean = if norm < self.tol { units[0].clone() } else { scaled(1.0 / norm, &mean) };
        for _ in 0..self.max_iter {
            let tangent = self.tangent(vectors, units, &mean);
            let length = vectors.norm(&tangent);
            if length < self.tol || length == 0.0 {
                return (mean, true);
            }
            mean = scaled(trig::cos(length), &mean);
            add(&mut mean, trig::sin(length) / length, &tangent);
            mean = scaled(1.0 / vectors.norm(&mean), &mean);
        }
        (mean, false)
    }

    /// Where the mean should go: the mean of the arcs to all directions.
    fn tangent(&self, vectors: Vectors, units: &[Vec<f64>], mean: &[f64]) -> Vec<f64> {
        let share = 1.0 / units.len() as f64;
        let mut tangent = vec![0.0; mean.len()];
        for unit in units {
            let angle = vectors.angle(mean, unit);
            let sine = trig::sin(angle);
            if angle < self.tol || std::f64::consts::PI - angle < self.tol || sine <= 0.0 {
                continue;
            }
            let factor = share * angle / sine;
            add(&mut tangent, factor, unit);
            add(&mut tangent, -factor * trig::cos(angle), mean);
        }
        tangent
    }
}
