//! The orthogonal matrix nearest to a matrix, in f64.
//!
//! By Newton's iteration `X = (s X + X^-T / s) / 2`, which takes about nine inverses whatever the
//! singular values are. Nothing but what lies in `M` tells directions apart, so `M` gets a millionth of
//! a millionth of its norm on the diagonal: where `M` says nothing, what is nearest to it is no turn at
//! all.
//!
//! Source: Higham 1986, "Computing the polar decomposition, with applications", with its scaling by
//! 1- and infinity-norms; Higham 2008, Functions of Matrices, 8.6.

use super::eigen::eigen;
use super::engine::Engine;
use super::gemm::{View, product};
use super::inverse::inverse;
use super::lanes::{Axpy, dot};
use super::spectrum::RESOLVED;

/// The share of its norm that is added to the diagonal of `M`.
const STAY: f64 = RESOLVED * RESOLVED;
/// A step that changes rows by less than this in the mean needs no scale any more.
const NEAR: f64 = 1e-2;
/// After a step that changes rows by less than this in the mean the error, its square, is rounding.
const CONVERGED: f64 = 1e-8;
/// Steps at most.
const STEPS: usize = 40;

/// The orthogonal matrix nearest to `m` of `n` rows and columns, no turn where `m` is nothing. If
/// `proper`, without a reflection: the direction that `m` determines least is the one turned round.
/// `None` if stopped, or if there was no end.
pub fn polar(engine: &Engine, mut m: Vec<f64>, n: usize, proper: bool) -> Option<Vec<f64>> {
    let norm = dot(engine, &m, &m).sqrt();
    let unit = if norm > 0.0 { norm } else { 1.0 };
    for x in &mut m {
        *x /= unit;
    }
    for x in m.iter_mut().step_by(n + 1) {
        *x += if norm > 0.0 { STAY } else { 1.0 };
    }
    if !proper {
        return Some(newton(engine, m, n)?.0);
    }
    let (mut turn, reflects) = newton(engine, engine.copy(&m)?, n)?;
    if reflects {
        // m = turn H, and H has the squares of the right directions in rising order.
        let mut h = product(engine, View::new(&turn, n).transposed(), View::new(&m, n))?;
        drop(m);
        symmetric(&mut h, n, 1.0);
        let found = eigen(engine, h, n)?;
        let least = &found.vectors[(n - 1) * n..];
        for row in turn.chunks_exact_mut(n) {
            let along = dot(engine, row, least);
            engine.run(Axpy { x: least, factor: -2.0 * along, out: row });
        }
    }
    Some(turn)
}

/// The orthogonal matrix nearest to one whose elements are at most about 1, and whether it reflects.
pub fn newton(engine: &Engine, mut x: Vec<f64>, n: usize) -> Option<(Vec<f64>, bool)> {
    let (mut scaled, mut reflects) = (true, None);
    for _ in 0..STEPS {
        let (back, negative) = inverse(engine, engine.copy(&x)?, n)?;
        let reflects = *reflects.get_or_insert(negative);
        let scale = if scaled {
            (norms(engine, &back, n)? / norms(engine, &x, n)?).sqrt().sqrt()
        } else {
            1.0
        };
        let changed = step(&mut x, &back, n, scale) / (n as f64).sqrt();
        if changed <= CONVERGED {
            return Some((x, reflects));
        }
        scaled &= changed > NEAR;
    }
    None
}

/// The product of the greatest sums of magnitudes, of a row and of a column.
fn norms(engine: &Engine, a: &[f64], n: usize) -> Option<f64> {
    let (mut columns, mut largest) = (engine.zeros::<f64>(n)?, 0.0_f64);
    for row in a.chunks_exact(n) {
        let mut sum = 0.0;
        for (column, x) in columns.iter_mut().zip(row) {
            *column += x.abs();
            sum += x.abs();
        }
        largest = largest.max(sum);
    }
    Some(largest * columns.iter().fold(0.0, |most: f64, x| most.max(*x)))
}

/// `x = (s x + back^T / s) / 2`; gives the norm of the change beyond that of the scale.
fn step(x: &mut [f64], back: &[f64], n: usize, scale: f64) -> f64 {
    const SIDE: usize = 32;
    let (half, other) = (0.5 * scale, 0.5 / scale);
    let mut changed = 0.0;
    for first in (0..n).step_by(SIDE) {
        for beside in (0..n).step_by(SIDE) {
            for row in first..n.min(first + SIDE) {
                for column in beside..n.min(beside + SIDE) {
                    let at = &mut x[row * n + column];
                    let new = half * *at + other * back[column * n + row];
                    changed += (new - *at) * (new - *at);
                    *at = new;
                }
            }
        }
    }
    changed.sqrt()
}

/// The half sum of a square matrix and its transpose, or with a `sign` of -1 the half difference.
pub fn symmetric(a: &mut [f64], n: usize, sign: f64) {
    for row in 0..n {
        for column in 0..=row {
            let half = 0.5 * (a[row * n + column] + sign * a[column * n + row]);
            a[row * n + column] = half;
            a[column * n + row] = sign * half;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::linalg::gemm::made::{gram, product};
    use crate::linalg::spectrum::orthogonal;
    use crate::math::noise;
    use crate::simd::Isa;

    /// Orthonormal rows.
    pub fn basis(n: usize, seed: u64) -> Vec<f64> {
        let mut words = vec![0; n * n];
        noise::words(Isa::best(), seed, 0, &mut words);
        let mut rows: Vec<f64> =
            words.iter().map(|word| f64::from(word.cast_signed()) / 2_147_483_648.0).collect();
        orthogonal(&Engine::best(), &mut rows, n);
        rows
    }

    /// `U^T diag(values) V`.
    pub fn made(u: &[f64], values: &[f64], v: &[f64]) -> Vec<f64> {
        let n = values.len();
        let mut scaled = v.to_vec();
        for (row, value) in scaled.chunks_exact_mut(n).zip(values) {
            for x in row.iter_mut() {
                *x *= value;
            }
        }
        product(&Engine::best(), View::new(u, n).transposed(), View::new(&scaled, n))
    }

    pub fn apart(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()))
    }

    pub fn one(n: usize) -> Vec<f64> {
        (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect()
    }

    #[test]
    fn the_polar_factor_of_any_spectrum_is_orthogonal() {
        let (engine, n) = (&Engine::best(), 40);
        let (u, v) = (basis(n, 1), basis(n, 2));
        // The least singular value, and how well it determines its direction beside what is added.
        for (least, error) in [(1.0, 1e-11), (1e-2, 1e-9), (1e-4, 1e-7), (1e-7, 1e-4)] {
            let share = |i: usize| if i.is_multiple_of(3) { least } else { 1.0 + i as f64 / 40.0 };
            let values: Vec<f64> = (0..n).map(share).collect();
            let got = polar(engine, made(&u, &values, &v), n, false).expect("it ends");
            let want = made(&u, &vec![1.0; n], &v);
            assert!(apart(&got, &want) < error, "{least}: {}", apart(&got, &want));
            assert!(apart(&gram(engine, View::new(&got, n)), &one(n)) < 1e-12, "{least}");
        }
    }

    #[test]
    fn a_proper_one_turns_the_least_direction_round() {
        let (engine, n) = (&Engine::best(), 40);
        let (u, v) = (basis(n, 1), basis(n, 2));
        let values: Vec<f64> = (0..n).map(|i| 1.0 + (n - i) as f64).collect();
        let m = made(&u, &values, &v);
        let plain = polar(engine, m.clone(), n, false).expect("it ends");
        let mut signs = vec![1.0; n];
        assert!(apart(&plain, &made(&u, &signs, &v)) < 1e-11);
        let (_, reflects) = inverse(engine, plain.clone(), n).expect("an end");
        if reflects {
            signs[n - 1] = -1.0;
        }
        let proper = polar(engine, m, n, true).expect("it ends");
        assert!(apart(&proper, &made(&u, &signs, &v)) < 1e-9);
        assert!(!inverse(engine, proper, n).expect("an end").1);
        // With one column turned round, it is the other way.
        let mut m = made(&u, &values, &v);
        m.iter_mut().step_by(n).for_each(|x| *x = -*x);
        let proper = polar(engine, m, n, true).expect("it ends");
        assert!(!inverse(engine, proper, n).expect("an end").1);
    }

    #[test]
    fn where_nothing_is_known_nothing_turns() {
        let (engine, n) = (&Engine::best(), 30);
        assert_eq!(polar(engine, vec![0.0; n * n], n, false), Some(one(n)));
        // Two axes are exchanged, and the others are left alone.
        let mut m = vec![0.0; n * n];
        (m[1], m[n]) = (3.0, 3.0);
        let mut want = one(n);
        (want[0], want[1], want[n], want[n + 1]) = (0.0, 1.0, 1.0, 0.0);
        assert!(apart(&polar(engine, m, n, false).expect("it ends"), &want) < 1e-11);
    }
}
