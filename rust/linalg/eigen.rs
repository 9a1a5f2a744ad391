//! Eigenvalues and eigenvectors of a symmetric matrix in f64, the same bits on every machine.
//!
//! Reduction to tridiagonal form, then the implicit QL iteration with
//! Wilkinson's shift, whose rotations are kept and applied to the vectors many at a time. Nothing but
//! sums, products, quotients and square roots, in the order written here.
//!
//! Source: Golub and Van Loan, Matrix Computations, 4th edition, 8.3.

use super::engine::Engine;
use super::sweeps::{Sweeps, Turn};
use super::tridiagonal::{Tridiagonal, accumulate, tridiagonal};

/// Rotations that are kept before they are applied.
const KEPT: usize = 1 << 19;
/// What is below this share of the largest element is rounding: the reduction made as much.
const NOTHING: f64 = f64::EPSILON;
/// Steps of the iteration for one eigenvalue at most; two are usual.
const STEPS: usize = 100;

/// `a = vectors^T diag(values) vectors`, largest value first; the vectors are the rows.
#[derive(Debug)]
pub struct Eigen {
    /// The eigenvalues, in falling order.
    pub values: Vec<f64>,
    /// The eigenvectors: each a row.
    pub vectors: Vec<f64>,
}

/// Decomposes a symmetric matrix of `n` rows, of which the lower triangle is read, in its own place.
/// `None` if stopped, and if values are not finite.
pub fn eigen(engine: &Engine, mut a: Vec<f64>, n: usize) -> Option<Eigen> {
    let unit = magnitude(&a);
    for x in &mut a {
        *x /= unit;
    }
    let mut reduced = tridiagonal(engine, &mut a, n)?;
    let mut vectors = a;
    accumulate(engine, &mut vectors, &reduced.scales, n)?;
    iterate(engine, &mut reduced, &mut vectors)?;
    let mut order: Vec<usize> = engine.collect(0..n)?;
    // In place, and as stable as a sort with room of its own would be.
    let diagonal = &reduced.diagonal;
    order.sort_unstable_by(|i, j| diagonal[*j].total_cmp(&diagonal[*i]).then(i.cmp(j)));
    let values = engine.collect(order.iter().map(|i| reduced.diagonal[*i] * unit))?;
    permute(engine, &mut vectors, n, order)?;
    Some(Eigen { values, vectors })
}

/// The power of two just below the largest element: division by it is exact, and keeps rounding
/// errors away from the smallest numbers there are. 1 for zeros, and for what is not finite.
fn magnitude(a: &[f64]) -> f64 {
    let largest = a.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let power = f64::from_bits(largest.to_bits() & f64::INFINITY.to_bits());
    if power > 0.0 && power.is_finite() { power } else { 1.0 }
}

/// The implicit QL iteration; applies its rotations to the rows of `vectors`.
fn iterate(engine: &Engine, found: &mut Tridiagonal, vectors: &mut [f64]) -> Option<()> {
    let n = found.diagonal.len();
    let (d, e) = (&mut found.diagonal, &mut found.beside);
    let mut sweeps = Sweeps::default();
    let largest = d.iter().zip(&*e).fold(0.0_f64, |max, (d, e)| max.max(d.abs() + e.abs()));
    for l in 0..n {
        let mut steps = 0;
        loop {
            let small = |m: &usize| e[*m].abs() <= NOTHING * largest;
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if steps == STEPS {
                return None;
            }
            steps += 1;
            engine.reserve(&mut sweeps.starts, 1)?;
            engine.reserve(&mut sweeps.turns, n)?;
            sweep(d, e, l..m, &mut sweeps);
            if sweeps.turns.len() >= KEPT {
                if engine.stopped() {
                    return None;
                }
                engine.run(Turn { engine, sweeps: &sweeps, vectors, n })?;
                sweeps.clear();
            }
        }
    }
    engine.run(Turn { engine, sweeps: &sweeps, vectors, n })
}

/// One sweep over `range` with Wilkinson's shift.
fn sweep(d: &mut [f64], e: &mut [f64], range: std::ops::Range<usize>, sweeps: &mut Sweeps) {
    let (l, m) = (range.start, range.end);
    let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
    let r = length(g, 1.0);
    let mut g = d[m] - d[l] + e[l] / (g + if g < 0.0 { -r } else { r });
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    let begun = sweeps.turns.len();
    for i in range.rev() {
        let (f, b) = (s * e[i], c * e[i]);
        let r = length(f, g);
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= p;
            e[m] = 0.0;
            sweeps.starts.push((m - 1, sweeps.turns.len() - begun));
            return;
        }
        (s, c) = (f / r, g / r);
        let q = d[i + 1] - p;
        let r = (d[i] - q) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = q + p;
        g = c * r - b;
        sweeps.turns.push([c, s]);
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0.0;
    sweeps.starts.push((m - 1, sweeps.turns.len() - begun));
}

/// `sqrt(a^2 + b^2)` without overflow.
fn length(a: f64, b: f64) -> f64 {
    let (a, b) = (a.abs(), b.abs());
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    if large == 0.0 {
        return 0.0;
    }
    let ratio = small / large;
    large * (1.0 + ratio * ratio).sqrt()
}

/// Puts row `order[i]` in the place of row `i`.
fn permute(engine: &Engine, rows: &mut [f64], n: usize, order: Vec<usize>) -> Option<()> {
    let mut from = order;
    for start in 0..n {
        if from[start] == start {
            continue;
        }
        let kept = engine.copy(&rows[start * n..(start + 1) * n])?;
        let mut at = start;
        loop {
            let next = std::mem::replace(&mut from[at], at);
            if next == start {
                rows[at * n..(at + 1) * n].copy_from_slice(&kept);
                break;
            }
            rows.copy_within(next * n..(next + 1) * n, at * n);
            at = next;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::gemm::View;
    use crate::linalg::gemm::made::{gram, product};
    use crate::simd::Isa;

    fn random(count: usize, seed: u32) -> Vec<f64> {
        let of = |i: u32| f64::from((i ^ seed).wrapping_mul(0x9E37_79B9) >> 8) / 8_388_608.0 - 1.0;
        (0..count as u32).map(|i| of(i.wrapping_mul(0x85EB_CA6B) >> 3)).collect()
    }

    fn check(a: &[f64], n: usize) -> Eigen {
        let engine = &Engine::best();
        let found = eigen(engine, a.to_vec(), n).expect("finite");
        let scale = a.iter().fold(1e-300_f64, |m, x| m.max(x.abs())) * n as f64;
        assert!(found.values.is_sorted_by(|a, b| a >= b));
        let rows = View::new(&found.vectors, n);
        let products = product(engine, rows, rows.transposed());
        for (at, x) in products.iter().enumerate() {
            let want = f64::from(u8::from(at / n == at % n));
            assert!((x - want).abs() < 1e-13 * n as f64, "{n}: orthogonality {x} at {at}");
        }
        let turned = product(engine, View::new(a, n), rows.transposed());
        for (at, x) in turned.iter().enumerate() {
            let want = found.vectors[at % n * n + at / n] * found.values[at % n];
            assert!((x - want).abs() < 1e-14 * scale, "{n}: residual {x} {want}");
        }
        found
    }

    #[test]
    fn vectors_are_orthogonal_and_turn_the_matrix_into_its_values() {
        for n in [1, 2, 3, 31, 32, 33, 65, 130] {
            let x = random(n * (n + 3), n as u32);
            check(&gram(&Engine::best(), View::new(&x, n)), n);
        }
    }

    #[test]
    fn degenerate_matrices_have_a_decomposition() {
        let n = 50;
        let identity: Vec<f64> =
            (0..n * n).map(|i| if i / n == i % n { 3.0 } else { 0.0 }).collect();
        assert!(check(&identity, n).values.iter().all(|x| (x - 3.0).abs() < 1e-14));
        assert!(check(&vec![0.0; n * n], n).values.iter().all(|x| x.abs() < 1e-300));
        let x = random(n, 5);
        let one = gram(&Engine::best(), View::new(&x, n));
        let found = check(&one, n);
        let norm: f64 = x.iter().map(|x| x * x).sum();
        assert!((found.values[0] / norm - 1.0).abs() < 1e-14);
        assert!(found.values[1].abs() < 1e-14 * norm);
        let tiny: Vec<f64> = one.iter().map(|x| x * 1e-300).collect();
        assert!((check(&tiny, n).values[0] / norm / 1e-300 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn blocks_of_rounded_identities_have_a_decomposition() {
        // Directions of equal models: the values are 2 and 0, each of them many times.
        for half in [40, 150] {
            let n = 2 * half;
            let noise = random(n * n, 3);
            let a: Vec<f64> = (0..n * n)
                .map(|at| {
                    let (row, column) = (at / n, at % n);
                    let tiny = noise[row.max(column) * n + row.min(column)] * f64::EPSILON;
                    tiny + if row % half == column % half { 1.0 } else { 0.0 }
                })
                .collect();
            let found = check(&a, n);
            assert!(found.values[..half].iter().all(|x| (x - 2.0).abs() < 1e-12));
            assert!(found.values[half..].iter().all(|x| x.abs() < 1e-12));
        }
    }

    #[test]
    fn what_is_not_finite_or_stopped_has_none() {
        let mut a = vec![1.0; 36];
        a[30] = f64::NAN;
        assert!(eigen(&Engine::best(), a, 6).is_none());
        let stopped = Engine { stop: &|| true, ..Engine::best() };
        assert!(eigen(&stopped, vec![1.0; 36], 6).is_none());
    }

    #[test]
    fn every_isa_gives_the_same_bits() {
        let x = random(90 * 100, 9);
        let a = gram(&Engine::best(), View::new(&x, 90));
        let found: Vec<_> = Isa::available()
            .into_iter()
            .map(|isa| eigen(&Engine::of(isa), a.clone(), 90).expect("finite"))
            .collect();
        for other in &found {
            assert_eq!(other.values, found[0].values);
            assert_eq!(other.vectors, found[0].vectors);
        }
    }
}
