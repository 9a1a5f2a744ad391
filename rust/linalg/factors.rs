//! A matrix as the product of two thin ones: its largest singular triplets.
//!
//! A few of many are found by power iteration from random vectors, in f32, where between two products
//! a basis is made orthonormal through its Gram matrix in f64; many of few are taken from the
//! decomposition of the whole.
//!
//! Source: Halko, Martinsson and Tropp 2011, "Finding structure with randomness", arXiv:0909.4061,
//! algorithms 4.4 and 5.1.

use super::eigen::eigen;
use super::engine::{Engine, Task};
use super::gemm::{View, gram};
use super::long::parts;
use super::residual::Product;
use super::sketch::{WIDE, product};
use super::spectrum::{Top, Wanted, enough, top};
use crate::math::noise;

/// Vectors that are iterated beside those that are wanted, at least.
const OVER: usize = 8;
/// Products with the matrix and its transpose on the way to a basis of the shorter side: a random start
/// and four steps of two.
const PRODUCTS: usize = 9;
/// Below this share of the largest eigenvalue of a Gram matrix a direction is rounding of f32.
const NOTHING: f64 = 1e-12;
/// Rows of a thin matrix whose Gram matrix is one piece of work.
const PIECE: usize = 1024;

/// The largest singular triplets of a matrix.
#[derive(Debug)]
pub struct Factors {
    /// Column `i` of `up` and row `i` of `down` have the same length, the root of the i-th singular value.
    pub product: Product,
    /// The squares of the singular values, in falling order.
    pub squares: Vec<f64>,
}

/// Which of the singular values are wanted: the fewest whose sum of squares is `enough`, and at most
/// `rank` of them.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// At most so many.
    pub rank: usize,
    /// The sum of squares that is enough.
    pub enough: f64,
}

impl Goal {
    /// How many are wanted of these squares.
    pub fn of(self, squares: &[f64]) -> usize {
        enough(&squares[..self.rank.min(squares.len())], self.enough)
    }
}

/// The best factors of `a`; `key` chooses the random numbers. `None` if stopped, or if values are not
/// finite.
pub fn factors(engine: &Engine, a: View<f32>, goal: Goal, key: u64) -> Option<Factors> {
    let wide = a.shape.0 < a.shape.1;
    let tall = if wide { a.transposed() } else { a };
    let short = tall.shape.1;
    let widest = width_for(goal.rank);
    // With an energy that is enough, fewer may do.
    let mut width = if goal.enough.is_finite() { WIDE } else { widest };
    let found = loop {
        if 2 * width > short {
            break decompose(engine, tall, goal.rank)?;
        }
        let found = iterate(engine, tall, width, key)?;
        if width >= widest || found.squares[..width - OVER].iter().sum::<f64>() >= goal.enough {
            break found;
        }
        width = widest.min(4 * width);
    };
    let rank = goal.of(&found.squares[..found.squares.len().min(short)]);
    let [long, short] = [&found.long, &found.short].map(|of| first(of, found.width, rank));
    let (up, down) = if wide { (short, long) } else { (long, short) };
    let down = transposed(&down, rank);
    let product = Product { up, down, rank };
    Some(Factors { product, squares: found.squares[..rank].to_vec() })
}

/// Columns of the thin matrices that so many singular values are found with.
fn width_for(rank: usize) -> usize {
    (rank + OVER).next_multiple_of(WIDE)
}

/// Bytes that factoring a matrix of this shape takes at most, beside the matrix.
pub fn bytes((rows, columns): (u64, u64), rank: usize) -> u64 {
    let (long, short) = (rows.max(columns), rows.min(columns));
    let width = width_for(rank) as u64;
    let whole = if 2 * width > short { short } else { width };
    // Two bases, what is being made of them, and the factors; Gram matrices and what becomes of them.
    let width = width.min(short.next_multiple_of(WIDE as u64));
    4 * 4 * (long + short) * width + 4 * 8 * whole * whole
}

/// Singular triplets of a tall matrix: `long short^T`, each `width` columns wide.
struct Found {
    long: Vec<f32>,
    short: Vec<f32>,
    width: usize,
    squares: Vec<f64>,
}

fn iterate(engine: &Engine, a: View<f32>, width: usize, key: u64) -> Option<Found> {
    let mut basis = random(engine, a.shape.0 * width, key);
    for step in 0..PRODUCTS {
        let from = if step % 2 == 0 { a.transposed() } else { a };
        basis = product(engine, from, &basis, width);
        if engine.stopped() {
            return None;
        }
        basis = orthonormal(engine, &basis, width)?;
    }
    // Once more: what was nearly dependent is orthonormal now to the last digits.
    let short = orthonormal(engine, &basis, width)?;
    let long = product(engine, a, &short, width);
    let found = eigen(engine, gram_of(engine, View::new(&long, width))?, width)?;
    let squares: Vec<f64> = found.values.iter().map(|square| square.max(0.0)).collect();
    let lengths = |power: fn(f64) -> f64| -> Vec<f64> {
        let floor = NOTHING * NOTHING * squares[0];
        squares.iter().map(|s| if *s > floor { power(*s) } else { 0.0 }).collect()
    };
    let long = turned(engine, &long, &found.vectors, &lengths(|s| 1.0 / s.sqrt().sqrt()));
    let short = turned(engine, &short, &found.vectors, &lengths(|s| s.sqrt().sqrt()));
    Some(Found { long, short, width, squares })
}

/// The same from the decomposition of the whole.
fn decompose(engine: &Engine, a: View<f32>, rank: usize) -> Option<Found> {
    let n = a.shape.1;
    let Top { squares, vectors, rank, .. } = top(engine, a, Wanted::Rank(rank))?;
    let width = rank.next_multiple_of(WIDE);
    let mut right = vec![0.0; n * width];
    for (i, row) in vectors.chunks_exact(n).enumerate() {
        for (k, x) in row.iter().enumerate() {
            right[k * width + i] = *x as f32;
        }
    }
    let mut long = product(engine, a, &right, width);
    let floor = NOTHING * squares.first().copied().unwrap_or(0.0);
    for (i, square) in squares[..rank].iter().enumerate() {
        let length = if *square > floor { square.sqrt().sqrt() } else { 0.0 };
        let over = if length > 0.0 { (1.0 / length) as f32 } else { 0.0 };
        long.iter_mut().skip(i).step_by(width).for_each(|x| *x *= over);
        right.iter_mut().skip(i).step_by(width).for_each(|x| *x *= length as f32);
    }
    Some(Found { long, short: right, width, squares })
}

/// `x` with its columns made orthonormal; those that others span become 0.
fn orthonormal(engine: &Engine, x: &[f32], width: usize) -> Option<Vec<f32>> {
    let found = eigen(engine, gram_of(engine, View::new(x, width))?, width)?;
    let floor = NOTHING * found.values[0];
    let over = |square: &f64| if *square > floor { 1.0 / square.sqrt() } else { 0.0 };
    let lengths: Vec<f64> = found.values.iter().map(over).collect();
    Some(turned(engine, x, &found.vectors, &lengths))
}

/// `x V^T`, each column times its length, where the rows of `V` are vectors.
fn turned(engine: &Engine, x: &[f32], vectors: &[f64], lengths: &[f64]) -> Vec<f32> {
    let n = lengths.len();
    let turn: Vec<f32> =
        (0..n * n).map(|at| (vectors[at % n * n + at / n] * lengths[at % n]) as f32).collect();
    product(engine, View::new(x, n), &turn, n)
}

/// `x^T x` in f64: pieces of rows, added in their order; `None` if stopped, or without memory.
pub(super) fn gram_of(engine: &Engine, x: View<f32>) -> Option<Vec<f64>> {
    let pieces = parts(0..x.shape.0, PIECE);
    let mut parts: Vec<Option<Vec<f64>>> = Vec::new();
    parts.resize(x.shape.0.div_ceil(PIECE), None);
    let tasks = pieces
        .zip(&mut parts)
        .map(|(piece, part)| -> Task { Box::new(move || *part = gram(engine, x.rows(piece))) });
    engine.team.work(tasks.collect());
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_else(|| Some(Vec::new()))?;
    for part in parts {
        sum.iter_mut().zip(part?).for_each(|(sum, x)| *sum += x);
    }
    Some(sum)
}

/// Numbers from -1 to 1.
fn random(engine: &Engine, count: usize, key: u64) -> Vec<f32> {
    let mut words = vec![0; count];
    noise::words(engine.isa, key, 0, &mut words);
    words.into_iter().map(|word| (word.cast_signed() >> 8) as f32 / 8_388_608.0).collect()
}

/// The first columns.
fn first(x: &[f32], width: usize, rank: usize) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[..rank]).copied().collect()
}

pub fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.len() / columns.max(1);
    let mut out = vec![0.0; x.len()];
    for (i, row) in x.chunks_exact(columns.max(1)).enumerate() {
        for (k, x) in row.iter().enumerate() {
            out[k * rows + i] = *x;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::engine::Team;
    use crate::linalg::gemm;
    use crate::linalg::residual::{energy, residual};
    use crate::linalg::spectrum::orthogonal;
    use crate::simd::Isa;

    /// A matrix with these singular values.
    fn with_values(m: usize, n: usize, values: &[f64]) -> Vec<f32> {
        let (engine, k) = (&Engine::best(), values.len());
        let numbers = |count, key| -> Vec<f64> {
            random(engine, count, key).iter().map(|x| f64::from(*x)).collect()
        };
        let (mut u, mut v) = (numbers(k * m, 1), numbers(k * n, 2));
        orthogonal(engine, &mut u, m);
        orthogonal(engine, &mut v, n);
        for (row, value) in v.chunks_exact_mut(n).zip(values) {
            for x in row {
                *x *= value;
            }
        }
        let a = gemm::made::product(engine, View::new(&u, m).transposed(), View::new(&v, n));
        a.iter().map(|x| *x as f32).collect()
    }

    /// The residual beside the best there is, both as shares of the whole.
    fn residuals(m: usize, n: usize, values: &[f64], rank: usize) -> [f64; 2] {
        let (engine, a) = (&Engine::best(), with_values(m, n, values));
        let whole = energy(engine, &a, n);
        let found = factors(engine, View::new(&a, n), Goal { rank, enough: f64::INFINITY }, 3);
        let found = found.expect("finite");
        let left = residual(engine, &a, &found.product);
        let best: f64 = values[rank.min(values.len())..].iter().map(|x| x * x).sum();
        [(left / whole).sqrt(), (best / whole).sqrt()]
    }

    #[test]
    fn factors_are_nearly_the_best_of_any_shape_and_spectrum() {
        let falling: Vec<f64> =
            (0..90).scan(1.0, |x, _| Some(std::mem::replace(x, *x * 0.8))).collect();
        let slow: Vec<f64> = (1..=90).map(|i| 1.0 / f64::from(i).sqrt()).collect();
        for (m, n) in [(300, 150), (150, 300), (101, 97), (90, 2000)] {
            for (values, share) in [(&falling, 1.01), (&slow, 1.01), (&vec![1.0; 90], 1.001)] {
                for rank in [1, 4, 40, 89] {
                    let [got, best] = residuals(m, n, values, rank);
                    assert!(got <= share * best + 2e-6, "{m} {n} {rank}: {got} {best}");
                }
            }
        }
        let [got, _] = residuals(200, 160, &falling[..5], 5);
        assert!(got < 1e-6, "{got}");
    }

    #[test]
    fn an_energy_takes_the_fewest_that_hold_it() {
        let (m, n, engine) = (260, 240, &Engine::best());
        let values: Vec<f64> = (0..60).map(|i| f64::from(60 - i)).collect();
        let (a, squares) = (with_values(m, n, &values), values.iter().map(|x| x * x));
        let whole = energy(engine, &a, n);
        for share in [0.3, 0.7, 0.99] {
            let mut held = 0.0;
            let fewest = squares.clone().take_while(|x| {
                let before = held;
                held += x;
                before < share * whole
            });
            let fewest = fewest.count();
            let found =
                factors(engine, View::new(&a, n), Goal { rank: n, enough: share * whole }, 1);
            assert_eq!(found.expect("finite").product.rank, fewest, "{share}");
        }
    }

    /// Everything at once, the last first.
    struct Backwards;

    impl Team for Backwards {
        fn work(&self, tasks: Vec<Task<'_>>) {
            std::thread::scope(|scope| {
                for task in tasks.into_iter().rev() {
                    scope.spawn(task);
                }
            });
        }
    }

    #[test]
    fn neither_team_nor_isa_decides_a_bit() {
        let (m, n) = (1100, 130);
        let a = with_values(m, n, &[3.0, 2.0, 1.0, 0.5]);
        let bits = |engine: &Engine| {
            let whole = energy(engine, &a, n);
            let few = factors(engine, View::new(&a, n), Goal { rank: 3, enough: f64::INFINITY }, 3);
            let few = few.expect("finite");
            let left = residual(engine, &a, &few.product);
            let numbers = [whole, left].map(f64::to_bits);
            (
                few.product
                    .up
                    .iter()
                    .chain(&few.product.down)
                    .map(|x| x.to_bits())
                    .collect::<Vec<_>>(),
                numbers,
            )
        };
        let want = bits(&Engine::best());
        for isa in Isa::available() {
            assert!(bits(&Engine::of(isa)) == want, "{}", isa.name());
        }
        assert!(bits(&Engine { team: &Backwards, ..Engine::best() }) == want);
    }

    #[test]
    fn what_is_not_finite_stopped_or_nothing() {
        let (engine, goal) = (&Engine::best(), Goal { rank: 4, enough: f64::INFINITY });
        let mut a = vec![0.0; 200 * 150];
        let nothing = factors(engine, View::new(&a, 150), goal, 3);
        let nothing = nothing.expect("finite").product;
        assert!(nothing.up.iter().chain(&nothing.down).all(|x| *x == 0.0));
        a[7] = f32::NAN;
        assert!(factors(engine, View::new(&a, 150), goal, 3).is_none());
        let stopped = Engine { stop: &|| true, ..Engine::best() };
        let a = with_values(200, 150, &[1.0]);
        assert!(factors(&stopped, View::new(&a, 150), goal, 3).is_none());
    }
}
