//! Householder's reduction of a symmetric matrix to tridiagonal form, in blocks.
//!
//! Source: Golub and Van Loan, Matrix Computations, 4th edition, 8.3; Dongarra, Sorensen and
//! Hammarling 1989, "Block reduction of matrices to condensed forms".

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::engine::Engine;
use super::gemm::{View, add_lower, add_product, product};
use super::lanes::{Axpy, LANES, dot};
use crate::simd::{Body, fold};

/// Reflections that are applied together.
const PANEL: usize = 32;

/// A tridiagonal matrix, and the factors of the reflections that made it.
pub struct Tridiagonal {
    /// The diagonal.
    pub diagonal: Vec<f64>,
    /// Beside the diagonal; the last is 0.
    pub beside: Vec<f64>,
    /// The scale of each reflection.
    pub scales: Vec<f64>,
}

/// Reduces the lower triangle of `a`; row `j` of the upper is left holding the vector of reflection
/// `j`, from column `j + 1` on.
pub fn tridiagonal(engine: &Engine, a: &mut [f64], n: usize) -> Option<Tridiagonal> {
    let [diagonal, beside, scales] = [engine.zeros(n)?, engine.zeros(n)?, engine.zeros(n)?];
    let mut found = Tridiagonal { diagonal, beside, scales };
    let mut panel = Panel { n, first: 0, w: engine.zeros(PANEL * n)? };
    for first in (0..n).step_by(PANEL) {
        panel.first = first;
        let end = n.min(first + PANEL);
        for j in first..end {
            if engine.stopped() {
                return None;
            }
            panel.reduce(engine, a, j, &mut found)?;
        }
        panel.apply(engine, a, end)?;
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
    fn reduce(
        &mut self,
        engine: &Engine,
        a: &mut [f64],
        j: usize,
        found: &mut Tridiagonal,
    ) -> Option<()> {
        let n = self.n;
        let mut column: Vec<f64> = engine.collect((j..n).map(|i| a[i * n + j]))?;
        for p in 0..j - self.first {
            let (v, w) = (&a[(self.first + p) * n..][..n], &self.w[p * n..][..n]);
            engine.run(Axpy { x: &v[j..], factor: -w[j], out: &mut column });
            engine.run(Axpy { x: &w[j..], factor: -v[j], out: &mut column });
        }
        found.diagonal[j] = column[0];
        if j + 1 == n {
            return Some(());
        }
        let v = &mut column[1..];
        let (beside, scale) = reflection(engine, v);
        (found.beside[j], found.scales[j]) = (beside, scale);
        let mut w: Vec<f64> = engine.zeros(n - j - 1)?;
        if scale != 0.0 {
            engine.run(Symmetric { a: &a[(j + 1) * n + j + 1..], step: n, v, out: &mut w });
            for p in 0..j - self.first {
                let at = j + 1;
                let (old, was) = (&a[(self.first + p) * n..][at..n], &self.w[p * n..][at..n]);
                let (along, beside) = (dot(engine, was, v), dot(engine, old, v));
                engine.run(Axpy { x: old, factor: -along, out: &mut w });
                engine.run(Axpy { x: was, factor: -beside, out: &mut w });
            }
            for w in &mut w {
                *w *= scale;
            }
            let half = -0.5 * scale * dot(engine, &w, v);
            engine.run(Axpy { x: v, factor: half, out: &mut w });
        }
        let row = &mut self.w[(j - self.first) * n..][..n];
        row[..=j].fill(0.0);
        row[j + 1..].copy_from_slice(&w);
        let row = &mut a[j * n..][..n];
        row[j + 1..].copy_from_slice(v);
        Some(())
    }

    /// Takes the panel from the lower triangle of rows `end..`.
    fn apply(&self, engine: &Engine, a: &mut [f64], end: usize) -> Option<()> {
        let (n, count) = (self.n, end - self.first);
        if end == n {
            return Some(());
        }
        let both = 2 * count * (n - end);
        let (mut left, mut right) = (engine.room(both)?, engine.room(both)?);
        for p in 0..count {
            let (v, w) =
                (&a[(self.first + p) * n + end..][..n - end], &self.w[p * n + end..][..n - end]);
            left.extend_from_slice(v);
            right.extend_from_slice(w);
        }
        for p in 0..count {
            let (v, w) =
                (&a[(self.first + p) * n + end..][..n - end], &self.w[p * n + end..][..n - end]);
            left.extend_from_slice(w);
            right.extend_from_slice(v);
        }
        let (left, right) = (View::new(&left, n - end), View::new(&right, n - end));
        // The upper triangle beyond holds nothing yet; blocks on the diagonal may spill into it.
        add_lower(engine, (left.transposed(), right, -1.0), &mut a[end * n + end..], n)
    }
}

/// Turns `x` into the vector `v`, first element 1, of the reflection `1 - scale v v^T` that takes `x`
/// to a multiple of the first axis; gives that multiple, and the scale.
fn reflection(engine: &Engine, x: &mut [f64]) -> (f64, f64) {
    let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let (head, tail) = x.split_at_mut(1);
    if !largest.is_finite() || tail.iter().all(|x| *x == 0.0) {
        let kept = if largest.is_finite() { head[0] } else { f64::NAN };
        head[0] = 1.0;
        tail.fill(0.0);
        return (kept, 0.0);
    }
    head.iter_mut().chain(tail.iter_mut()).for_each(|x| *x /= largest);
    let norm = (head[0] * head[0] + dot(engine, tail, tail)).sqrt();
    let beta = if head[0] > 0.0 { -norm } else { norm };
    let scale = (beta - head[0]) / beta;
    let divisor = head[0] - beta;
    for x in tail.iter_mut() {
        *x /= divisor;
    }
    head[0] = 1.0;
    (beta * largest, scale)
}

/// Makes of what [`tridiagonal`] left of `a` the product of all reflections, transposed: its rows are
/// what the rotations turn into vectors. `None` if stopped or out of memory.
///
/// In blocks `1 - V^T T V`, the last first, each on the corner that is not yet the identity; the rows of
/// a block are read before they become a part of it.
pub fn accumulate(engine: &Engine, a: &mut [f64], scales: &[f64], n: usize) -> Option<()> {
    let mut first = n.saturating_sub(1) / PANEL * PANEL;
    loop {
        let end = n.min(first + PANEL);
        let (count, width) = (end - first, n - first);
        let mut v: Vec<f64> = engine.zeros(count * width)?;
        for p in 0..count {
            v[p * width + p + 1..(p + 1) * width]
                .copy_from_slice(&a[(first + p) * n + first + p + 1..][..width - p - 1]);
        }
        for (i, row) in a.chunks_exact_mut(n).enumerate().skip(first) {
            row[first..if i < end { n } else { end }].fill(0.0);
            if i < end {
                row[i] = 1.0;
            }
        }
        let triangle = triangle(engine, &v, &scales[first..end], width)?;
        let v = View::new(&v, width);
        // On rows and columns `first..` of the transpose: q - ((q V^T) T^T) V.
        let corner = View::within(&a[first * n + first..], (width, width), n);
        let along = product(engine, corner, v.transposed())?;
        let turned =
            product(engine, View::new(&along, count), View::new(&triangle, count).transposed())?;
        add_product(engine, (View::new(&turned, count), v, -1.0), &mut a[first * n + first..], n)?;
        if first == 0 {
            return Some(());
        }
        if engine.stopped() {
            return None;
        }
        first -= PANEL;
    }
}

/// The upper triangle `T` with `H_0 H_1 ... = 1 - V^T T V`.
fn triangle(engine: &Engine, v: &[f64], scales: &[f64], width: usize) -> Option<Vec<f64>> {
    let n = scales.len();
    let mut t: Vec<f64> = engine.zeros(n * n)?;
    let products = product(engine, View::new(v, width), View::new(v, width).transposed())?;
    for (j, scale) in scales.iter().enumerate() {
        t[j * n + j] = *scale;
        for i in 0..j {
            let sum: f64 = (i..j).map(|k| t[i * n + k] * products[k * n + j]).sum();
            t[i * n + j] = -scale * sum;
        }
    }
    Some(t)
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
