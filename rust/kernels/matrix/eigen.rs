//! Eigenvalues and eigenvectors of a symmetric matrix in f64, the same bits on every machine.
//!
//! Householder's reduction to tridiagonal form in blocks, then the implicit QL iteration with
//! Wilkinson's shift, whose rotations are kept and applied to the vectors many at a time. Nothing but
//! sums, products, quotients and square roots, in the order written here.
//!
//! Source: Golub and Van Loan, Matrix Computations, 4th edition, 8.3; Dongarra, Sorensen and
//! Hammarling 1989, "Block reduction of matrices to condensed forms".

#![allow(clippy::inline_always)]

use super::gemm::{View, add_lower, add_product, product};
use crate::simd::{Body, Isa};

/// Reflections that are applied together.
const PANEL: usize = 32;
/// f64 accumulators per sum.
const LANES: usize = 16;
/// Elements of every vector that rotations are applied to at a time.
const STRIP: usize = 16;
/// Rotations that are kept before they are applied.
const KEPT: usize = 1 << 19;
/// What is below this share of the largest element is rounding: the reduction made as much.
const NOTHING: f64 = f64::EPSILON / 4.0;
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

/// Decomposes a symmetric matrix of `n` rows, of which the lower triangle is read. `stop` ends it
/// early; so do values that are not finite. `None` then.
pub fn eigen(isa: &Isa, mut a: Vec<f64>, n: usize, stop: &dyn Fn() -> bool) -> Option<Eigen> {
    let unit = magnitude(&a);
    a.iter_mut().for_each(|x| *x /= unit);
    let mut reduced = tridiagonal(isa, &mut a, n, stop)?;
    let mut vectors = accumulate(isa, &a, &reduced.scales, n);
    drop(a);
    iterate(isa, &mut reduced, &mut vectors, stop)?;
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

/// A tridiagonal matrix, and the factors of the reflections that made it.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// Beside the diagonal; the last is 0.
    beside: Vec<f64>,
    scales: Vec<f64>,
}

/// Reduces the lower triangle of `a`; row `j` of the upper is left holding the vector of reflection
/// `j`, from column `j + 1` on.
fn tridiagonal(isa: &Isa, a: &mut [f64], n: usize, stop: &dyn Fn() -> bool) -> Option<Tridiagonal> {
    let mut found =
        Tridiagonal { diagonal: vec![0.0; n], beside: vec![0.0; n], scales: vec![0.0; n] };
    let mut panel = Panel { n, first: 0, w: vec![0.0; PANEL * n] };
    for first in (0..n).step_by(PANEL) {
        if stop() {
            return None;
        }
        panel.first = first;
        let end = n.min(first + PANEL);
        for j in first..end {
            panel.reduce(isa, a, j, &mut found);
        }
        panel.apply(isa, a, end);
    }
    found.diagonal.iter().chain(&found.beside).all(|x| x.is_finite()).then_some(found)
}

/// Reflections `first..` and what they take from the matrix: `a - v w^T - w v^T`.
struct Panel {
    n: usize,
    first: usize,
    /// The `w` of each, a row.
    w: Vec<f64>,
}

impl Panel {
    fn reduce(&mut self, isa: &Isa, a: &mut [f64], j: usize, found: &mut Tridiagonal) {
        let n = self.n;
        let mut column: Vec<f64> = (j..n).map(|i| a[i * n + j]).collect();
        for p in 0..j - self.first {
            let (v, w) = (&a[(self.first + p) * n..][..n], &self.w[p * n..][..n]);
            isa.run(Axpy { x: &v[j..], factor: -w[j], out: &mut column });
            isa.run(Axpy { x: &w[j..], factor: -v[j], out: &mut column });
        }
        found.diagonal[j] = column[0];
        if j + 1 == n {
            return;
        }
        let v = &mut column[1..];
        let (beside, scale) = reflection(isa, v);
        (found.beside[j], found.scales[j]) = (beside, scale);
        let mut w = vec![0.0; n - j - 1];
        if scale != 0.0 {
            isa.run(Symmetric { a: &a[(j + 1) * n + j + 1..], step: n, v, out: &mut w });
            for p in 0..j - self.first {
                let at = j + 1;
                let (old, was) = (&a[(self.first + p) * n..][at..n], &self.w[p * n..][at..n]);
                let (along, beside) = (dot(isa, was, v), dot(isa, old, v));
                isa.run(Axpy { x: old, factor: -along, out: &mut w });
                isa.run(Axpy { x: was, factor: -beside, out: &mut w });
            }
            w.iter_mut().for_each(|w| *w *= scale);
            let half = -0.5 * scale * dot(isa, &w, v);
            isa.run(Axpy { x: v, factor: half, out: &mut w });
        }
        let row = &mut self.w[(j - self.first) * n..][..n];
        row[..=j].fill(0.0);
        row[j + 1..].copy_from_slice(&w);
        let row = &mut a[j * n..][..n];
        row[j + 1..].copy_from_slice(v);
    }

    /// Takes the panel from the lower triangle of rows `end..`.
    fn apply(&self, isa: &Isa, a: &mut [f64], end: usize) {
        let (n, count) = (self.n, end - self.first);
        if end == n {
            return;
        }
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for p in 0..count {
            let (v, w) =
                (&a[(self.first + p) * n + end..][..n - end], &self.w[p * n + end..][..n - end]);
            left.extend_from_slice(v);
            right.extend_from_slice(w);
        }
        let (v, w) = (left.clone(), right.clone());
        left.extend(w);
        right.extend(v);
        let (left, right) = (View::new(&left, n - end), View::new(&right, n - end));
        // The upper triangle beyond holds nothing yet; blocks on the diagonal may spill into it.
        add_lower(isa, (left.transposed(), right, -1.0), &mut a[end * n + end..], n);
    }
}

/// Turns `x` into the vector `v`, first element 1, of the reflection `1 - scale v v^T` that takes `x`
/// to a multiple of the first axis; gives that multiple, and the scale.
fn reflection(isa: &Isa, x: &mut [f64]) -> (f64, f64) {
    let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let (head, tail) = x.split_at_mut(1);
    if !largest.is_finite() || tail.iter().all(|x| *x == 0.0) {
        let kept = if largest.is_finite() { head[0] } else { f64::NAN };
        head[0] = 1.0;
        tail.fill(0.0);
        return (kept, 0.0);
    }
    head.iter_mut().chain(tail.iter_mut()).for_each(|x| *x /= largest);
    let norm = (head[0] * head[0] + dot(isa, tail, tail)).sqrt();
    let beta = if head[0] > 0.0 { -norm } else { norm };
    let scale = (beta - head[0]) / beta;
    let divisor = head[0] - beta;
    tail.iter_mut().for_each(|x| *x /= divisor);
    head[0] = 1.0;
    (beta * largest, scale)
}

/// The product of all reflections, transposed: its rows are what the rotations turn into vectors.
///
/// In blocks `1 - V^T T V`, the last first, each on the corner that is not yet the identity.
fn accumulate(isa: &Isa, a: &[f64], scales: &[f64], n: usize) -> Vec<f64> {
    let mut q = vec![0.0; n * n];
    (0..n).for_each(|i| q[i * n + i] = 1.0);
    let mut first = n.saturating_sub(1) / PANEL * PANEL;
    loop {
        let end = n.min(first + PANEL);
        let (count, width) = (end - first, n - first);
        let mut v = vec![0.0; count * width];
        for p in 0..count {
            v[p * width + p + 1..(p + 1) * width]
                .copy_from_slice(&a[(first + p) * n + first + p + 1..][..width - p - 1]);
        }
        let triangle = triangle(isa, &v, &scales[first..end], width);
        let v = View::new(&v, width);
        // On rows and columns `first..` of the transpose: q - ((q V^T) T^T) V.
        let corner = View::within(&q[first * n + first..], (width, width), n);
        let along = product(isa, corner, v.transposed());
        let turned =
            product(isa, View::new(&along, count), View::new(&triangle, count).transposed());
        add_product(isa, (View::new(&turned, count), v, -1.0), &mut q[first * n + first..], n);
        if first == 0 {
            return q;
        }
        first -= PANEL;
    }
}

/// The upper triangle `T` with `H_0 H_1 ... = 1 - V^T T V`.
fn triangle(isa: &Isa, v: &[f64], scales: &[f64], width: usize) -> Vec<f64> {
    let n = scales.len();
    let mut t = vec![0.0; n * n];
    let products = product(isa, View::new(v, width), View::new(v, width).transposed());
    for (j, scale) in scales.iter().enumerate() {
        t[j * n + j] = *scale;
        for i in 0..j {
            let sum: f64 = (i..j).map(|k| t[i * n + k] * products[k * n + j]).sum();
            t[i * n + j] = -scale * sum;
        }
    }
    t
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
fn iterate(
    isa: &Isa,
    found: &mut Tridiagonal,
    vectors: &mut [f64],
    stop: &dyn Fn() -> bool,
) -> Option<()> {
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
                if stop() {
                    return None;
                }
                isa.run(Turn { sweeps: &sweeps, vectors, n });
                sweeps = Sweeps::default();
            }
        }
    }
    isa.run(Turn { sweeps: &sweeps, vectors, n });
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

/// The inner product, over fixed lanes.
pub fn dot(isa: &Isa, x: &[f64], y: &[f64]) -> f64 {
    isa.run(Dot { x, y })
}

struct Dot<'a> {
    x: &'a [f64],
    y: &'a [f64],
}

impl Body for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0; LANES];
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let (y, y_rest) = self.y.as_chunks::<LANES>();
        for (x, y) in x.iter().zip(y) {
            for lane in 0..LANES {
                sums[lane] += x[lane] * y[lane];
            }
        }
        for (sum, (x, y)) in sums.iter_mut().zip(x_rest.iter().zip(y_rest)) {
            *sum += x * y;
        }
        fold(sums)
    }
}

#[inline(always)]
fn fold(mut sums: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// `out = out + factor x`.
pub struct Axpy<'a> {
    /// What is added.
    pub x: &'a [f64],
    /// How often.
    pub factor: f64,
    /// To what.
    pub out: &'a mut [f64],
}

impl Body for Axpy<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out += self.factor * x;
        }
    }
}

/// `out = out + a v` of a symmetric matrix whose lower triangle is read once.
struct Symmetric<'a> {
    a: &'a [f64],
    step: usize,
    v: &'a [f64],
    out: &'a mut [f64],
}

impl Body for Symmetric<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for i in 0..self.v.len() {
            let row = &self.a[i * self.step..][..=i];
            let (row, diagonal) = (&row[..i], row[i]);
            let (turn, mut sums) = (self.v[i], [0.0; LANES]);
            let (rows, row_rest) = row.as_chunks::<LANES>();
            let (v, v_rest) = self.v[..i].as_chunks::<LANES>();
            let (out, out_rest) = self.out[..i].as_chunks_mut::<LANES>();
            for ((a, v), out) in rows.iter().zip(v).zip(out) {
                for lane in 0..LANES {
                    sums[lane] += a[lane] * v[lane];
                    out[lane] += turn * a[lane];
                }
            }
            for (lane, ((a, v), out)) in row_rest.iter().zip(v_rest).zip(out_rest).enumerate() {
                sums[lane] += a * v;
                *out += turn * a;
            }
            self.out[i] += fold(sums) + diagonal * turn;
        }
    }
}

/// Applies sweeps of rotations to rows, a strip of columns at a time, which stays in the cache.
struct Turn<'a> {
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
            let width = STRIP.min(n - first);
            for (to, row) in strip.iter_mut().zip(self.vectors.chunks_exact(n)) {
                to[..width].copy_from_slice(&row[first..first + width]);
            }
            let mut turns = self.sweeps.turns.as_slice();
            for (start, count) in &self.sweeps.starts {
                let (now, rest) = turns.split_at(*count);
                turns = rest;
                // The upper row of a pair is the lower one of the next.
                let mut lower = strip[*start + 1];
                for (i, [c, s]) in now.iter().enumerate() {
                    let upper = strip[*start - i];
                    let (mut turned, mut next) = ([0.0; STRIP], [0.0; STRIP]);
                    for lane in 0..STRIP {
                        turned[lane] = s * upper[lane] + c * lower[lane];
                        next[lane] = c * upper[lane] - s * lower[lane];
                    }
                    strip[*start - i + 1] = turned;
                    lower = next;
                }
                strip[*start + 1 - count] = lower;
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
    use crate::kernels::matrix::gemm::gram;

    fn random(count: usize, seed: u32) -> Vec<f64> {
        let of = |i: u32| f64::from((i ^ seed).wrapping_mul(0x9E37_79B9) >> 8) / 8_388_608.0 - 1.0;
        (0..count as u32).map(|i| of(i.wrapping_mul(0x85EB_CA6B) >> 3)).collect()
    }

    fn check(a: &[f64], n: usize) -> Eigen {
        let isa = Isa::best();
        let found = eigen(isa, a.to_vec(), n, &|| false).expect("finite");
        let scale = a.iter().fold(1e-300_f64, |m, x| m.max(x.abs())) * n as f64;
        assert!(found.values.is_sorted_by(|a, b| a >= b));
        let rows = View::new(&found.vectors, n);
        let products = product(isa, rows, rows.transposed());
        for (at, x) in products.iter().enumerate() {
            let want = f64::from(u8::from(at / n == at % n));
            assert!((x - want).abs() < 1e-13 * n as f64, "{n}: orthogonality {x} at {at}");
        }
        let turned = product(isa, View::new(a, n), rows.transposed());
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
            check(&gram(Isa::best(), View::new(&x, n)), n);
        }
    }

    #[test]
    fn degenerate_matrices_have_a_decomposition() {
        let n = 50;
        let identity: Vec<f64> =
            (0..n * n).map(|i| if i / n == i % n { 3.0 } else { 0.0 }).collect();
        assert!(check(&identity, n).values.iter().all(|x| *x == 3.0));
        assert!(check(&vec![0.0; n * n], n).values.iter().all(|x| *x == 0.0));
        let x = random(n, 5);
        let one = gram(Isa::best(), View::new(&x, n));
        let found = check(&one, n);
        let norm: f64 = x.iter().map(|x| x * x).sum();
        assert!((found.values[0] / norm - 1.0).abs() < 1e-14);
        assert!(found.values[1].abs() < 1e-14 * norm);
        let tiny: Vec<f64> = one.iter().map(|x| x * 1e-300).collect();
        assert!((check(&tiny, n).values[0] / norm / 1e-300 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_finite_or_stopped_has_none() {
        let mut a = vec![1.0; 36];
        a[30] = f64::NAN;
        assert!(eigen(Isa::best(), a, 6, &|| false).is_none());
        assert!(eigen(Isa::best(), vec![1.0; 36], 6, &|| true).is_none());
    }

    #[test]
    fn every_isa_gives_the_same_bits() {
        let x = random(90 * 100, 9);
        let a = gram(Isa::best(), View::new(&x, 90));
        let found: Vec<_> = Isa::available()
            .into_iter()
            .map(|isa| eigen(isa, a.clone(), 90, &|| false).expect("finite"))
            .collect();
        for other in &found {
            assert_eq!(other.values, found[0].values);
            assert_eq!(other.vectors, found[0].vectors);
        }
    }
}
