//! Eigenvalues and eigenvectors of a symmetric matrix in f64, the same bits on every machine.
//!
//! Reduction to tridiagonal form, then the implicit QL iteration with
//! Wilkinson's shift, whose rotations are kept and applied to the vectors many at a time. Nothing but
//! sums, products, quotients and square roots, in the order written here.
//!
//! Source: Golub and Van Loan, Matrix Computations, 4th edition, 8.3.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::Engine;
use super::tridiagonal::{Tridiagonal, accumulate, tridiagonal};
use crate::simd::Body;

/// Elements of every vector that rotations are applied to at a time.
const STRIP: usize = 16;
/// Sweeps that are applied side by side.
const TOGETHER: usize = 4;
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
    accumulate(engine, &mut vectors, &reduced.scales, n);
    iterate(engine, &mut reduced, &mut vectors)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| reduced.diagonal[*j].total_cmp(&reduced.diagonal[*i]));
    let values = order.iter().map(|i| reduced.diagonal[*i] * unit).collect();
    permute(&mut vectors, n, order);
    Some(Eigen { values, vectors })
}

/// The power of two just below the largest element: division by it is exact, and keeps rounding
/// errors away from the smallest numbers there are. 1 for zeros, and for what is not finite.
fn magnitude(a: &[f64]) -> f64 {
    let largest = a.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let power = f64::from_bits(largest.to_bits() & f64::INFINITY.to_bits());
    if power > 0.0 && power.is_finite() { power } else { 1.0 }
}

/// Rotations of neighbouring rows, from the last pair of a sweep to the first.
#[derive(Default)]
struct Sweeps {
    /// The upper row of the first pair, and how many pairs.
    starts: Vec<(usize, usize)>,
    /// Cosine and sine.
    turns: Vec<[f64; 2]>,
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
            sweep(d, e, l..m, &mut sweeps);
            if sweeps.turns.len() >= KEPT {
                if engine.stopped() {
                    return None;
                }
                engine.run(Turn { engine, sweeps: &sweeps, vectors, n });
                sweeps = Sweeps::default();
            }
        }
    }
    engine.run(Turn { engine, sweeps: &sweeps, vectors, n });
    Some(())
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
fn permute(rows: &mut [f64], n: usize, order: Vec<usize>) {
    let mut from = order;
    for start in 0..n {
        if from[start] == start {
            continue;
        }
        let kept = rows[start * n..(start + 1) * n].to_vec();
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
}

/// The upper row of the first pair, and a rotation for this and every pair above it.
type Sweep<'a> = (usize, &'a [[f64; 2]]);
/// A part of some rows.
type Strip = [f64; STRIP];

/// Applies the rotations of one sweep.
#[inline(always)]
fn turn(strip: &mut [Strip], (start, turns): Sweep) {
    // The upper row of a pair is the lower one of the next.
    let mut lower = strip[start + 1];
    for (i, turn) in turns.iter().enumerate() {
        strip[start - i + 1] = pair(strip[start - i], &mut lower, *turn);
    }
    strip[start + 1 - turns.len()] = lower;
}

/// Applies sweeps one after the other, where all of them turn side by side: each is a row below the
/// one before, whose rows it takes over as they are made.
#[inline(always)]
fn turn_together(strip: &mut [Strip], sweeps: &[Sweep; TOGETHER]) {
    let mut range = 0..usize::MAX;
    for (k, (start, turns)) in sweeps.iter().enumerate() {
        range.end = range.end.min((start + 1).saturating_sub(k));
        range.start = range.start.max((start + 1 - turns.len()).saturating_sub(k));
    }
    if range.is_empty() {
        for sweep in sweeps {
            turn(strip, *sweep);
        }
        return;
    }
    let mut below = [&[][..]; TOGETHER];
    for (k, (start, turns)) in sweeps.iter().enumerate() {
        let (before, rest) = turns.split_at(start + 1 - (range.end + k));
        turn(strip, (*start, before));
        below[k] = rest;
    }
    let mut lower = [[0.0; STRIP]; TOGETHER];
    for k in 0..TOGETHER {
        lower[k] = strip[range.end + k];
    }
    let turns = below.map(|turns| &turns[..range.len()]);
    for (i, at) in range.clone().rev().enumerate() {
        let mut row = strip[at];
        for k in 0..TOGETHER {
            row = pair(row, &mut lower[k], turns[k][i]);
        }
        strip[at + TOGETHER] = row;
    }
    for k in 0..TOGETHER {
        strip[range.start + k] = lower[k];
    }
    for (k, turns) in below.iter().enumerate() {
        let rest = &turns[range.len()..];
        if !rest.is_empty() {
            turn(strip, (range.start + k - 1, rest));
        }
    }
}

/// Turns a pair of rows; gives the new lower one, and leaves the new upper one in `lower`.
#[inline(always)]
fn pair(upper: Strip, lower: &mut Strip, [c, s]: [f64; 2]) -> Strip {
    let mut turned = [0.0; STRIP];
    for lane in 0..STRIP {
        turned[lane] = s * upper[lane] + c * lower[lane];
        lower[lane] = c * upper[lane] - s * lower[lane];
    }
    turned
}

/// Applies sweeps of rotations to rows, a strip of columns at a time, which stays in the cache.
struct Turn<'a> {
    engine: &'a Engine<'a>,
    sweeps: &'a Sweeps,
    vectors: &'a mut [f64],
    n: usize,
}

impl Body for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let n = self.n;
        let mut strip = vec![[0.0; STRIP]; n];
        for first in (0..n).step_by(STRIP) {
            if self.engine.stopped() {
                return;
            }
            let width = STRIP.min(n - first);
            for (to, row) in strip.iter_mut().zip(self.vectors.chunks_exact(n)) {
                to[..width].copy_from_slice(&row[first..first + width]);
            }
            let mut turns = self.sweeps.turns.as_slice();
            let mut waiting: [Sweep; TOGETHER] = [(0, &[]); TOGETHER];
            for (i, (start, count)) in self.sweeps.starts.iter().enumerate() {
                let (now, rest) = turns.split_at(*count);
                turns = rest;
                waiting[i % TOGETHER] = (*start, now);
                if i % TOGETHER + 1 == TOGETHER {
                    turn_together(&mut strip, &waiting);
                } else if i + 1 == self.sweeps.starts.len() {
                    for sweep in &waiting[..=i % TOGETHER] {
                        turn(&mut strip, *sweep);
                    }
                }
            }
            for (from, row) in strip.iter().zip(self.vectors.chunks_exact_mut(n)) {
                row[first..first + width].copy_from_slice(&from[..width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::matrix::gemm::{View, gram, product};
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
    fn sweeps_side_by_side_are_sweeps_one_after_the_other() {
        let n = 40;
        let values = random(n * STRIP + 400, 4);
        let strip: Vec<Strip> = values.as_chunks().0[..n].to_vec();
        let turns: Vec<[f64; 2]> = values[n * STRIP..].as_chunks().0.to_vec();
        // Upper rows of the first pairs, and how many pairs: all along, staggered, next to nothing.
        for each in [
            [(38, 39), (38, 39), (38, 39), (38, 39)],
            [(38, 30), (35, 36), (38, 20), (30, 31)],
            [(38, 3), (38, 39), (20, 5), (38, 38)],
            [(38, 0), (2, 3), (1, 2), (0, 1)],
            [(9, 10), (38, 20), (20, 21), (38, 1)],
        ] {
            let sweeps = each.map(|(start, count)| (start, &turns[start..start + count]));
            let (mut got, mut want) = (strip.clone(), strip.clone());
            turn_together(&mut got, &sweeps);
            for sweep in sweeps {
                turn(&mut want, sweep);
            }
            assert_eq!(got, want, "{each:?}");
        }
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
