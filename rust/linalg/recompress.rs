//! A sum of products of thin matrices as one such product, which is never multiplied out.
//!
//! With `U` the factors on the left side by side, `D` those on the right and `D^T = Q K` of orthonormal columns,
//! the sum `U D` has the singular values `s` of `U K^T`: the roots of the eigenvalues of the small matrix
//! `K U^T U K^T`. `K` is the triangular root of the Gram matrix `D D^T`. With its eigenvectors `w` the
//! left singular vectors are `U K^T w / s`, and the right ones, `D^T U^T` of these over `s`, are
//! `D^T U^T U K^T w / s^2`: no inverse is needed.

use super::cholesky::cholesky;
use super::eigen::eigen;
use super::engine::Engine;
use super::factors::{Factors, Goal, gram_of, transposed};
use super::gemm::{View, product};
use super::residual::Product;
use super::sketch::{self, WIDE};

/// Below this share of the largest an eigenvalue of a Gram matrix is rounding.
const NOTHING: f64 = 1e-14;

/// The best factors of a product, and its sum of squares. `None` if stopped,
/// or if values are not finite.
///
/// `goal` is asked with that sum.
pub fn recompress(
    engine: &Engine,
    Product { up, down, rank }: &Product,
    goal: impl FnOnce(f64) -> Goal,
) -> Option<(Factors, f64)> {
    let rank = *rank;
    let (left, right) = sides(up, down, rank);
    let (left_gram, right_gram) = (gram_of(engine, left)?, gram_of(engine, right)?);
    let root = cholesky(engine, &right_gram, rank)?;
    let k = View::new(&root, rank).transposed();
    let half = product(engine, k, View::new(&left_gram, rank))?;
    let core = product(engine, View::new(&half, rank), k.transposed())?;
    let core = eigen(engine, core, rank)?;
    let squares: Vec<f64> = core.values.iter().map(|x| x.max(0.0)).collect();
    let terms = left_gram.iter().zip(&right_gram).map(|(x, y)| x * y);
    let energy = beyond_rounding(squares.iter().sum(), terms);
    let count = goal(energy).of(&squares);
    let values = roots(&squares[..count]);
    let turn = View::new(&core.vectors, rank).rows(0..count);
    // Either side gets the root of `s`.
    let over = |power: fn(f64) -> f64| -> Vec<f64> {
        values.iter().map(|s| if *s > 0.0 { 1.0 / power(*s) } else { 0.0 }).collect()
    };
    let mut to_left = product(engine, turn, k)?;
    scale_rows(&mut to_left, &over(f64::sqrt));
    let mut to_right = product(engine, turn, View::new(&half, rank))?;
    scale_rows(&mut to_right, &over(|s| s * s.sqrt()));
    let up = times(engine, left, &to_left, count);
    let down = transposed(&times(engine, right, &to_right, count), count);
    let stopped = engine.stopped();
    let product = Product { up, down, rank: count };
    let factors = Factors { product, squares: squares[..count].to_vec() };
    (!stopped).then_some((factors, energy))
}

/// Bytes that it takes at most for a sum of this shape, beside the factors.
pub fn bytes((rows, columns): (u64, u64), rank: usize) -> u64 {
    let (rank, width) = (rank as u64, rank.next_multiple_of(WIDE) as u64);
    4 * (rows + columns) * (rank + 3 * width) + 8 * 8 * rank * rank
}

/// The sum of squares of one product less another, or less nothing: in f64 from Gram matrices, exact to
/// about a hundred millionth of the two. `None` if stopped, or without memory.
pub fn apart(engine: &Engine, one: &Product, other: Option<&Product>) -> Option<f64> {
    let rank = one.rank + other.map_or(0, |other| other.rank);
    let beside = |x: &[f32], y: Option<&[f32]>| -> Vec<f32> {
        let Some((y, other)) = y.zip(other) else { return x.to_vec() };
        let rows = x.chunks_exact(one.rank).zip(y.chunks_exact(other.rank));
        rows.flat_map(|(x, y)| x.iter().chain(y)).copied().collect()
    };
    let up = beside(&one.up, other.map(|other| &other.up[..]));
    let down: Vec<f32> =
        one.down.iter().chain(other.iter().flat_map(|of| &of.down)).copied().collect();
    let (left, right) = sides(&up, &down, rank);
    let (left, right) = (gram_of(engine, left)?, gram_of(engine, right)?);
    let same = |at: usize| (at / rank < one.rank) == (at % rank < one.rank);
    let sign = |at: usize| if same(at) { 1.0 } else { -1.0 };
    let terms = left.iter().zip(&right).enumerate().map(|(at, (x, y))| sign(at) * x * y);
    Some(beyond_rounding(terms.clone().sum(), terms))
}

/// A sum of squares, or 0 where it is no more than the rounding of the terms it is the sum of.
fn beyond_rounding(sum: f64, terms: impl Iterator<Item = f64>) -> f64 {
    if sum > NOTHING * terms.map(f64::abs).sum::<f64>() { sum } else { 0.0 }
}

/// Both factors with a column for each of `rank`.
pub(super) fn sides<'a>(
    up: &'a [f32],
    down: &'a [f32],
    rank: usize,
) -> (View<'a, f32>, View<'a, f32>) {
    (View::new(up, rank), View::new(down, down.len() / rank.max(1)).transposed())
}

/// The roots of eigenvalues in falling order; 0 for those that are rounding.
pub(super) fn roots(values: &[f64]) -> Vec<f64> {
    let floor = NOTHING * values.first().copied().unwrap_or(0.0);
    values.iter().map(|x| if *x > floor { x.sqrt() } else { 0.0 }).collect()
}

pub(super) fn scale_rows(rows: &mut [f64], lengths: &[f64]) {
    let columns = rows.len() / lengths.len().max(1);
    for (row, length) in rows.chunks_exact_mut(columns.max(1)).zip(lengths) {
        for x in row {
            *x *= length;
        }
    }
}

/// `x turn^T`, where `turn` has `count` rows.
pub(super) fn times(engine: &Engine, x: View<f32>, turn: &[f64], count: usize) -> Vec<f32> {
    let rank = x.shape.1;
    if count == 0 {
        return Vec::new();
    }
    let width = count.next_multiple_of(WIDE);
    let mut right = vec![0.0; rank * width];
    for (i, row) in turn.chunks_exact(rank).enumerate() {
        for (k, x) in row.iter().enumerate() {
            right[k * width + i] = *x as f32;
        }
    }
    let made = sketch::product(engine, x, &right, width);
    made.chunks_exact(width).flat_map(|row| &row[..count]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::gemm::made::product;
    use crate::linalg::{factors, residual};
    use crate::math::noise;

    fn numbers(engine: &Engine, count: usize, key: u64) -> Vec<f32> {
        let mut words = vec![0; count];
        noise::words(engine.isa, key, 0, &mut words);
        words.into_iter().map(|word| word.cast_signed() as f32 / 2_147_483_648.0).collect()
    }

    #[test]
    fn a_sum_is_what_its_product_is() {
        let (engine, all) = (&Engine::best(), f64::INFINITY);
        for (m, n, rank, count) in [(300, 170, 24, 24), (170, 300, 24, 5), (40, 60, 50, 40)] {
            let (up, down) = (numbers(engine, m * rank, 1), numbers(engine, n * rank, 2));
            let dense = product(engine, View::new(&up, rank), View::new(&down, n));
            let dense: Vec<f32> = dense.iter().map(|x| *x as f32).collect();
            let goal = Goal { rank: count, enough: all };
            let found = recompress(engine, &Product { up, down, rank }, |_| goal);
            let (found, energy) = found.expect("finite");
            let whole = residual::energy(engine, &dense, n);
            assert!((energy / whole - 1.0).abs() < 1e-6);
            let want = factors::factors(engine, View::new(&dense, n), goal, 3).expect("finite");
            let left = residual::residual(engine, &dense, &found.product);
            let best = whole - want.squares.iter().sum::<f64>();
            let [left, best] = [left, best].map(|x| (x.max(0.0) / whole).sqrt());
            assert!(left < 1.001 * best + 1e-5, "{left} {best}");
            let claimed = (energy - found.squares.iter().sum::<f64>()).max(0.0);
            assert!(((claimed / whole).sqrt() - left).abs() < 1e-5);
        }
    }

    #[test]
    fn what_cancels_is_nothing_and_what_repeats_is_one() {
        let (engine, m, n) = (&Engine::best(), 120, 90);
        let (up, down) = (numbers(engine, m, 1), numbers(engine, n, 2));
        let twice: Vec<f32> = down.iter().chain(&down).copied().collect();
        for (sign, values) in [(1.0, 1), (-1.0, 0)] {
            let beside: Vec<f32> = up.iter().flat_map(|x| [*x, sign * x]).collect();
            let enough = |energy| Goal { rank: 2, enough: 0.999_999 * energy };
            let product = Product { up: beside, down: twice.clone(), rank: 2 };
            let found = recompress(engine, &product, enough);
            let (found, energy) = found.expect("finite");
            let Product { up, down, rank } = found.product;
            assert_eq!((rank, energy > 1e-9), (1, values == 1));
            assert!(up.iter().chain(&down).all(|x| x.is_finite()));
        }
    }

    #[test]
    fn how_far_two_products_are_apart() {
        let (engine, m, n, rank) = (&Engine::best(), 70, 90, 7);
        let one = |key| Product {
            up: numbers(engine, m * rank, key),
            down: numbers(engine, n * rank, key + 1),
            rank,
        };
        let (x, y) = (one(1), one(3));
        let [dense, other] =
            [&x, &y].map(|f| product(engine, View::new(&f.up, rank), View::new(&f.down, n)));
        let want: f64 = dense.iter().zip(&other).map(|(x, y)| (x - y) * (x - y)).sum();
        let apart = |x, y| apart(engine, x, y).expect("memory");
        assert!((apart(&x, Some(&y)) / want - 1.0).abs() < 1e-10);
        assert!(apart(&x, Some(&x)) < 1e-12 * want);
        let want: f64 = dense.iter().map(|x| x * x).sum();
        assert!((apart(&x, None) / want - 1.0).abs() < 1e-10);
    }
}
