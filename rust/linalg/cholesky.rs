//! The triangular root of a Gram matrix in f64, the same bits on every machine.
//!
//! Source: Golub and Van Loan, Matrix Computations, 4th edition, 4.2.

use super::engine::Engine;
use super::lanes::dot;

/// Below this share of the largest element of the diagonal what is left of one is rounding: its column
/// is a sum of others.
const NOTHING: f64 = 1e-14;

/// The lower triangle `l`, row by row, with `l l^T = a`, of a Gram matrix of `n` rows; 0 above. Columns that
/// others span are 0. `None` if stopped, or if values are not finite.
pub fn cholesky(engine: &Engine, a: &[f64], n: usize) -> Option<Vec<f64>> {
    if !a.iter().all(|x| x.is_finite()) {
        return None;
    }
    let least = NOTHING * (0..n).map(|i| a[i * n + i]).fold(0.0, f64::max);
    let mut l: Vec<f64> = engine.zeros(n * n)?;
    for i in 0..n {
        if engine.stopped() {
            return None;
        }
        let (above, row) = l.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..][..=j];
            let left = a[i * n + j] - dot(engine, &row[..j], &other[..j]);
            row[j] = if other[j] > 0.0 { left / other[j] } else { 0.0 };
        }
        let left = a[i * n + i] - dot(engine, &row[..i], &row[..i]);
        row[i] = if left > least { left.sqrt() } else { 0.0 };
    }
    Some(l)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::gemm::View;
    use crate::linalg::gemm::made::{gram, product};
    use crate::simd::Isa;

    fn numbers(count: usize) -> Vec<f64> {
        let of = |i: u32| f64::from(i.wrapping_mul(0x9E37_79B9) >> 8) / 8_388_608.0 - 1.0;
        (0..count as u32).map(|i| of(i.wrapping_mul(0x85EB_CA6B) >> 3)).collect()
    }

    #[test]
    fn times_itself_it_is_the_matrix_whatever_its_rank() {
        let engine = &Engine::best();
        for (rows, n) in [(1, 1), (5, 1), (40, 17), (90, 64), (9, 33)] {
            let a = gram(engine, View::new(&numbers(rows * n), n));
            let l = cholesky(engine, &a, n).expect("finite");
            let l = View::new(&l, n);
            let again = product(engine, l, l.transposed());
            let most = a.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
            let apart = a.iter().zip(&again).fold(0.0_f64, |most, (x, y)| most.max((x - y).abs()));
            assert!(apart <= 1e-12 * most, "{rows} x {n}: {apart}");
        }
        assert!(cholesky(engine, &[0.0; 9], 3).expect("finite").iter().all(|x| *x == 0.0));
    }

    #[test]
    fn what_is_not_finite_or_stopped_has_none() {
        let stopped = Engine { stop: &|| true, ..Engine::best() };
        assert!(cholesky(&stopped, &[1.0], 1).is_none());
        assert!(cholesky(&Engine::best(), &[1.0, 0.0, f64::NAN, 1.0], 2).is_none());
    }

    #[test]
    fn every_isa_gives_the_same_bits() {
        let a = gram(&Engine::best(), View::new(&numbers(80 * 50), 50));
        let of = |isa| cholesky(&Engine::of(isa), &a, 50).expect("finite");
        let found: Vec<_> = Isa::available().into_iter().map(of).collect();
        assert!(found.iter().all(|other| *other == found[0]));
    }
}
