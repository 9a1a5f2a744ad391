//! The rotation that brings one matrix nearest to another, in f64.
//!
//! `Q = argmin |Y Q - X|_F` over orthogonal `Q` is the polar factor of `M = Y^T X` (Schönemann 1966, "A
//! generalized solution of the orthogonal Procrustes problem"), on the short side of both. It is found
//! by the Newton-Schulz iteration, which needs only products. Nothing but what lies in `M` tells
//! directions apart, so `M` gets a millionth of a millionth of its norm on the diagonal: where `M` says
//! nothing, what is nearest to it is no turn at all.
//!
//! Source of the scaling: Chen and Chow 2014, "A stable scaling of Newton-Schulz for improving the
//! sign function computation of a Hermitian matrix".

use super::gemm::{View, gram, product};
use super::lanes::dot;
use super::long::Long;
use super::spectrum::RESOLVED;
use super::{Engine, PANEL};

/// The share of its norm that is added to the diagonal of `M`.
const STAY: f64 = RESOLVED * RESOLVED;
/// A singular value of this share of the largest is taken for the least until it proves not to be;
/// a smaller one would lose more digits in each round.
const LEAST: f64 = 1e-3;
/// From this `|Q^T Q - I|_F` on one step more squares the error below rounding.
const NEAR: f64 = 1e-7;
/// What rounding may do to that norm, for each row.
const ROUNDING: f64 = 1e-12;
/// Steps at most: about 10 for each factor of a thousand between singular values.
const STEPS: usize = 100;

/// Takes away the first of two matrices, towards which the second is turned; gives the note. `None` if
/// stopped, or if the iteration did not come to an end.
pub(super) fn rotate(engine: &Engine, matrices: &mut Vec<Long>) -> Option<String> {
    let mut turned = matrices.pop()?;
    let short = turned.short();
    let m = product(engine, turned.view().transposed(), matrices.pop()?.view());
    let turn = polar(engine, m, short)?;
    turned.each_panel(engine, |panel| product(engine, panel, View::new(&turn, short)));
    matrices.push(turned);
    Some(String::new())
}

/// The orthogonal matrix nearest to `m` of `n` rows and columns, no turn where `m` is nothing.
fn polar(engine: &Engine, mut m: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let norm = frobenius(engine, &m);
    let unit = if norm > 0.0 { norm } else { 1.0 };
    for x in &mut m {
        *x /= unit;
    }
    for x in m.iter_mut().step_by(n + 1) {
        *x += if norm > 0.0 { STAY } else { 1.0 };
    }
    let mut least = LEAST;
    for _ in 0..STEPS {
        let mut square = gram(engine, View::new(&m, n));
        if engine.stopped() {
            return None;
        }
        // No singular value is greater: the fourth powers of all add up to that of this.
        let most = frobenius(engine, &square).sqrt().min(1.0);
        let off = distance(engine, &mut square, n);
        let near = off <= NEAR;
        if off > (1.0 - least * least) * (n as f64).sqrt() + ROUNDING * n as f64 {
            least = LEAST; // one is smaller than any was thought to be
        }
        let scale = if near { 1.0 } else { (3.0 / (1.0 + least + least * least)).sqrt() };
        let stretch = if near { 1.0 } else { scale / most };
        step(engine, &mut m, square, (n, stretch));
        if near {
            return Some(m);
        }
        let up = scale * least;
        least = (1.5 * up - 0.5 * up * up * up).min(1.0);
    }
    None
}

/// `m = 1.5 (m t) - 0.5 (m t) (m t)^T (m t)`, `t` the stretch, some rows at a time.
fn step(engine: &Engine, m: &mut [f64], mut square: Vec<f64>, (n, stretch): (usize, f64)) {
    let (once, thrice) = (1.5 * stretch, -0.5 * stretch * stretch * stretch);
    for x in &mut square {
        *x *= thrice;
    }
    for x in square.iter_mut().step_by(n + 1) {
        *x += once;
    }
    for rows in m.chunks_mut(PANEL * n) {
        let new = product(engine, View::new(rows, n), View::new(&square, n));
        rows.copy_from_slice(&new);
    }
}

fn frobenius(engine: &Engine, a: &[f64]) -> f64 {
    dot(engine, a, a).sqrt()
}

/// How far a square matrix is from that of no turn; it is the same afterwards.
fn distance(engine: &Engine, square: &mut [f64], n: usize) -> f64 {
    let diagonal: Vec<f64> = square.iter().step_by(n + 1).copied().collect();
    for x in square.iter_mut().step_by(n + 1) {
        *x -= 1.0;
    }
    let off = frobenius(engine, square);
    for (x, was) in square.iter_mut().step_by(n + 1).zip(diagonal) {
        *x = was;
    }
    off
}

#[cfg(test)]
mod tests {
    use super::super::spectrum::orthogonal;
    use super::*;
    use crate::kernels::noise;
    use crate::simd::Isa;

    fn random(rows: usize, n: usize, seed: u64) -> Vec<f64> {
        let mut words = vec![0; rows * n];
        noise::words(Isa::best(), seed, 0, &mut words);
        words.iter().map(|word| f64::from(word.cast_signed()) / 2_147_483_648.0).collect()
    }

    fn basis(n: usize, seed: u64) -> Vec<f64> {
        let mut rows = random(n, n, seed);
        orthogonal(&Engine::best(), &mut rows, n);
        rows
    }

    /// `U^T diag(values) V`, and `U^T V`.
    fn made(values: &[f64]) -> [Vec<f64>; 2] {
        let (engine, n) = (&Engine::best(), values.len());
        let (u, v) = (basis(n, 1), basis(n, 2));
        let mut scaled = v.clone();
        for (row, value) in scaled.chunks_exact_mut(n).zip(values) {
            for x in row.iter_mut() {
                *x *= value;
            }
        }
        let left = View::new(&u, n).transposed();
        [scaled, v].map(|right| product(engine, left, View::new(&right, n)))
    }

    fn apart(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()))
    }

    #[test]
    fn the_polar_factor_of_any_spectrum_is_orthogonal() {
        let (engine, n) = (&Engine::best(), 40);
        // The least singular value, and how well it determines its direction beside what is added.
        for (least, error) in [(1.0, 1e-11), (1e-2, 1e-9), (1e-4, 1e-7), (1e-7, 1e-4)] {
            let share = |i: usize| if i.is_multiple_of(3) { least } else { 1.0 + i as f64 / 40.0 };
            let values: Vec<f64> = (0..n).map(share).collect();
            let [m, want] = made(&values);
            let got = polar(engine, m, n).expect("it ends");
            assert!(apart(&got, &want) < error, "{least}: {}", apart(&got, &want));
            let mut square = gram(engine, View::new(&got, n));
            assert!(distance(engine, &mut square, n) < 1e-12, "{least}");
        }
    }

    #[test]
    fn where_nothing_is_known_nothing_turns() {
        let (engine, n) = (&Engine::best(), 30);
        let mut one = vec![0.0; n * n];
        for x in one.iter_mut().step_by(n + 1) {
            *x = 1.0;
        }
        assert_eq!(polar(engine, vec![0.0; n * n], n), Some(one.clone()));
        // Two axes are exchanged, and the others are left alone.
        let mut m = vec![0.0; n * n];
        (m[1], m[n]) = (3.0, 3.0);
        let mut want = one;
        (want[0], want[1], want[n], want[n + 1]) = (0.0, 1.0, 1.0, 0.0);
        assert!(apart(&polar(engine, m, n).expect("it ends"), &want) < 1e-11);
    }
}
