//! The inverse of a matrix, by Gaussian elimination with partial pivoting, in blocks.
//!
//! Source: Golub and Van Loan, Matrix Computations, 4th edition, 3.2 and 3.4.

use super::engine::Engine;
use super::gemm::{View, add_product};
use super::lanes::Axpy;
use super::long::parts;

/// Columns that are eliminated together.
const PANEL: usize = 64;
/// Stands in for a pivot of 0, so that a singular matrix has a large inverse and not none. Elements
/// are about 1.
const LEAST: f64 = 1e-30;

/// The inverse of `a`, `n` rows of `n` elements, and whether its determinant is negative. `None` if
/// stopped.
pub fn inverse(engine: &Engine, mut a: Vec<f64>, n: usize) -> Option<(Vec<f64>, bool)> {
    let (order, negative) = factor(engine, &mut a, n)?;
    let mut out: Vec<f64> = engine.zeros(n * n)?;
    for (row, from) in order.into_iter().enumerate() {
        out[row * n + from] = 1.0;
    }
    // With a = P^T L U: L^-1 from above, then U^-1 from below.
    for rows in parts(0..n, PANEL) {
        let (mut solved, after) = (engine.copy(&out[rows.start * n..rows.end * n])?, rows.end);
        for i in rows.clone() {
            let (above, row) = solved.split_at_mut((i - rows.start) * n);
            for (k, x) in (rows.start..).zip(above.chunks_exact(n)) {
                engine.run(Axpy { x, factor: -a[i * n + k], out: &mut row[..n] });
            }
        }
        out[rows.start * n..rows.end * n].copy_from_slice(&solved);
        let left =
            View::within(&a[(after * n + rows.start).min(a.len())..], (n - after, rows.len()), n);
        add_product(engine, (left, View::new(&solved, n), -1.0), &mut out[after * n..], n)?;
        if engine.stopped() {
            return None;
        }
    }
    for first in (0..n).step_by(PANEL).rev() {
        let rows = first..n.min(first + PANEL);
        let mut solved = engine.copy(&out[rows.start * n..rows.end * n])?;
        for i in rows.clone().rev() {
            let (before, below) = solved.split_at_mut((i + 1 - rows.start) * n);
            let row = &mut before[(i - rows.start) * n..];
            for (k, x) in (i + 1..rows.end).zip(below.chunks_exact(n)) {
                engine.run(Axpy { x, factor: -a[i * n + k], out: &mut *row });
            }
            for x in row.iter_mut() {
                *x /= a[i * n + i];
            }
        }
        out[rows.start * n..rows.end * n].copy_from_slice(&solved);
        let left = View::within(&a[rows.start..], (rows.start, rows.len()), n);
        add_product(engine, (left, View::new(&solved, n), -1.0), &mut out[..rows.start * n], n)?;
        if engine.stopped() {
            return None;
        }
    }
    Some((out, negative))
}

/// Leaves the factors in `a`; gives the row each came from, and whether the determinant is negative.
fn factor(engine: &Engine, a: &mut [f64], n: usize) -> Option<(Vec<usize>, bool)> {
    let mut order: Vec<usize> = engine.collect(0..n)?;
    let mut negative = false;
    for columns in parts(0..n, PANEL) {
        if engine.stopped() {
            return None;
        }
        let (first, end, width) = (columns.start, columns.end, columns.len());
        let mut panel: Vec<f64> = engine.zeros((n - first) * width)?;
        for (to, from) in panel.chunks_exact_mut(width).zip(a.chunks_exact(n).skip(first)) {
            to.copy_from_slice(&from[columns.clone()]);
        }
        for (j, with) in eliminate(&mut panel, width).into_iter().enumerate() {
            negative ^= with != j;
            negative ^= panel[j * width + j] < 0.0;
            order.swap(first + j, first + with);
            swap_rows(a, n, first + j, first + with);
        }
        for (from, to) in panel.chunks_exact(width).zip(a.chunks_exact_mut(n).skip(first)) {
            to[columns.clone()].copy_from_slice(from);
        }
        let beyond = n - end;
        let mut right: Vec<f64> = engine.zeros(width * beyond)?;
        for (i, to) in right.chunks_exact_mut(beyond.max(1)).enumerate() {
            to.copy_from_slice(&a[(first + i) * n + end..][..beyond]);
        }
        for i in 0..width {
            let (above, row) = right.split_at_mut(i * beyond);
            for (k, x) in above.chunks_exact(beyond.max(1)).enumerate() {
                engine.run(Axpy { x, factor: -panel[i * width + k], out: &mut row[..beyond] });
            }
        }
        for (i, from) in right.chunks_exact(beyond.max(1)).enumerate() {
            a[(first + i) * n + end..][..beyond].copy_from_slice(from);
        }
        if beyond > 0 {
            let below = View::new(&panel[width * width..], width);
            add_product(
                engine,
                (below, View::new(&right, beyond), -1.0),
                &mut a[end * n + end..],
                n,
            )?;
        }
    }
    Some((order, negative))
}

/// Eliminates the columns of a panel; gives the row that each row was exchanged with.
fn eliminate(panel: &mut [f64], width: usize) -> Vec<usize> {
    let rows = panel.len() / width;
    let mut exchanged = Vec::new();
    for j in 0..width {
        let size = |i: usize| panel[i * width + j].abs();
        let pivot = (j + 1..rows).fold(j, |best, i| if size(i) > size(best) { i } else { best });
        exchanged.push(pivot);
        swap_rows(panel, width, j, pivot);
        let (done, below) = panel.split_at_mut((j + 1) * width);
        let row = &mut done[j * width..];
        if row[j] == 0.0 {
            row[j] = LEAST;
        }
        for other in below.chunks_exact_mut(width) {
            let share = other[j] / row[j];
            other[j] = share;
            for (x, from) in other[j + 1..].iter_mut().zip(&row[j + 1..]) {
                *x -= share * from;
            }
        }
    }
    exchanged
}

fn swap_rows(a: &mut [f64], n: usize, i: usize, j: usize) {
    if i < j {
        let (before, rest) = a.split_at_mut(j * n);
        before[i * n..(i + 1) * n].swap_with_slice(&mut rest[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::gemm::made::product;
    use crate::math::noise;
    use crate::simd::Isa;

    fn random(n: usize) -> Vec<f64> {
        let mut words = vec![0; n * n];
        noise::words(Isa::best(), n as u64, 0, &mut words);
        words.iter().map(|word| f64::from(word.cast_signed()) / 2_147_483_648.0).collect()
    }

    #[test]
    fn the_inverse_takes_back() {
        for n in [1, 2, 5, 63, 64, 65, 130, 200] {
            let a = random(n);
            let found: Vec<_> = Isa::available()
                .into_iter()
                .map(|isa| inverse(&Engine::of(isa), a.clone(), n).expect("not stopped"))
                .collect();
            assert!(found.iter().all(|other| *other == found[0]), "{n}");
            let one = product(&Engine::best(), View::new(&a, n), View::new(&found[0].0, n));
            for (at, x) in one.iter().enumerate() {
                let want = f64::from(u8::from(at / n == at % n));
                assert!((x - want).abs() < 1e-11 * n as f64, "{n}: {x} at {at}");
            }
        }
    }

    #[test]
    fn the_sign_of_the_determinant() {
        let sign = |a: &[f64], n| inverse(&Engine::best(), a.to_vec(), n).expect("an end").1;
        assert!(!sign(&[1.0, 0.0, 0.0, 1.0], 2));
        assert!(sign(&[0.0, 1.0, 1.0, 0.0], 2));
        assert!(sign(&[1.0, 2.0, 3.0, 4.0], 2));
        assert!(!sign(&[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], 3));
        let n = 150;
        let mut a = vec![0.0; n * n];
        (0..n).for_each(|i| a[i * n + (i + 1) % n] = if i == 7 { -1.0 } else { 1.0 });
        // A cycle of an even length is odd, and one sign is turned.
        assert!(!sign(&a, n));
        a[7 * n + 8] = 1.0;
        assert!(sign(&a, n));
    }
}
